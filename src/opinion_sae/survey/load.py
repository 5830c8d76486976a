"""`load_survey`: from a name or a path to a Survey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opinion_sae.survey.assemble import assemble
from opinion_sae.survey.core import Survey
from opinion_sae.survey.counted import read_counted
from opinion_sae.survey.opinionqa import is_opinionqa, read_opinionqa
from opinion_sae.survey.shares import read_global_opinionqa, read_subpop, shares_file
from opinion_sae.survey.table import SurveyTable
from opinion_sae.survey.tidy import read_tidy

SHIPPED = Path(__file__).parents[1] / "data"
MIN_RESPONDENTS = 50


def shipped_surveys() -> tuple[str, ...]:
    """Names of the surveys that come with the package."""
    return tuple(sorted(p.parent.name for p in SHIPPED.glob("*/questions.csv")))


def load_survey(
    source: str | Sequence[str],
    min_respondents: int = MIN_RESPONDENTS,
    attributes: Sequence[str] | None = None,
    max_questions: int = 0,
) -> Survey:
    """Read a survey, or join several.

    source: a shipped survey's name (`shipped_surveys()`); a folder in the shipped form
    (survey.counted) or in OpinionQA's layout (survey.opinionqa), also as `opinionqa:<folder>`;
    one tidy file `<name>.csv` (survey.tidy);
    `subpop:<file or hub id>` or `globalopinionqa:<file or hub id>` (survey.shares). A list joins
    them: questions one after the other, groups merged by name (survey.groups).
    min_respondents: a cell with fewer people is left out and listed in `Survey.dropped`; a group
    with no cell left is left out.
    attributes: whose groups to load, e.g. ["party", "party x sex"]; None or empty means every
    single attribute that the source has.
    max_questions: keep this many questions, evenly spread over the list; 0 keeps all.

    FileNotFoundError or ValueError for a source that is not there or is wrong, naming file, row
    and column; ValueError if an attribute is in no source or all its groups are too small.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise ValueError(f"no survey named; shipped ones are {', '.join(shipped_surveys())}")
    if min_respondents < 1:
        raise ValueError(f"min_respondents is {min_respondents}; it must be at least 1")
    if max_questions < 0:
        raise ValueError(f"max_questions is {max_questions}; it must be 0 (all) or more")
    tables = [read_source(s, attributes or ()) for s in sources]
    return assemble(tables, min_respondents, attributes, max_questions)


def read_source(source: str, attributes: Sequence[str] = ()) -> SurveyTable:
    """One source as read; `attributes` names intersections to count where there is a row per respondent."""
    if source in shipped_surveys():
        return read_counted(SHIPPED / source)
    kind, _, rest = source.partition(":")
    if kind == "subpop":
        return read_subpop(shares_file(kind, rest))
    if kind == "globalopinionqa":
        return read_global_opinionqa(shares_file(kind, rest))
    folder = Path(rest if kind == "opinionqa" else source).expanduser().absolute()
    if kind == "opinionqa":
        if not folder.is_dir():
            raise FileNotFoundError(
                f"survey {source!r}: no folder {folder}; get OpinionQA as book/reproduce.md says, and "
                "put it or a link to it there"
            )
        return read_opinionqa(folder, attributes)
    if (folder / "questions.csv").is_file():
        return read_counted(folder)
    if is_opinionqa(folder):
        return read_opinionqa(folder, attributes)
    if folder.suffix == ".csv":
        return read_tidy(folder)
    raise FileNotFoundError(
        f"survey {source!r}: no shipped survey ({', '.join(shipped_surveys())}) and no folder with "
        "info.csv (OpinionQA's layout) or questions.csv and counts.csv (this project's); other "
        "forms are <file>.csv (tidy), opinionqa:<folder>, subpop:<file> and globalopinionqa:<file>"
    )
