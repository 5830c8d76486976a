"""The command `opinion-sae predict`: questions in; tables, a figure and what to make of them out."""

from __future__ import annotations

from pathlib import Path

from opinion_sae.artifacts import check_file
from opinion_sae.book.coverage import said_of
from opinion_sae.book.explorer import asked_page, write_page
from opinion_sae.use.asked import Asked, read_questions
from opinion_sae.use.predict import Predictions, predict, write_predictions
from opinion_sae.use.published_run import PUBLISHED, load_published_run


def answer(
    questions: Path,
    run: Path | None = None,
    out: Path | None = None,
    figure: Path | None = None,
    page: Path | None = None,
) -> None:
    """Predict, write the files, and print where they are and how sure it all is.

    `run` is a folder that `keep_published` wrote, by default the package's own; `out` is by default the questions' file
    with `-predictions` in its name; `page` is a file for the book's explorer. Everything is checked, and predicted,
    before anything is written.
    """
    out = questions.with_name(f"{questions.stem}-predictions.csv") if out is None else out
    if out.suffix != ".csv" or out.resolve() == questions.resolve():
        raise ValueError(f"--out {out}: predictions need a .csv file of their own")
    if figure is not None and figure.suffix != ".svg":
        raise ValueError(f"--figure {figure}: the figure is an .svg file")
    if page is not None and page.suffix != ".json":
        raise ValueError(f"--json {page}: what the explorer opens is a .json file")
    for path in filter(None, (out, figure, page)):
        check_file(path)
    asked, kept = read_questions(questions), load_published_run(PUBLISHED if run is None else run)
    lm = kept.load_model()
    found = predict(kept, asked, lm)
    explored = None if page is None else asked_page(kept, asked, lm)
    written = write_predictions(found, out)
    if page is not None and explored is not None:
        write_page(page, explored)
        written.append(page)
    if figure is not None:
        from opinion_sae.book.figures.predictions import predictions
        from opinion_sae.book.figures.style import save_svg  # matplotlib takes a second to import

        save_svg(predictions(found.shares, asked, found.unlike), figure)
        written.append(figure)
    print("\n".join([*(f"written: {path}" for path in written), *said(found, asked)]))


def said(found: Predictions, asked: list[Asked]) -> list[str]:
    """How sure the predictions are, and which questions they should not be trusted for: a line each."""
    lines = [f"{task}: {held}" for task, held in said_of(found.coverage).items()]
    for one in asked:
        if one.question.key in found.unlike:
            lines.append(
                f"warning: {one.question.key} ({one.question.text[:60]!r}) was not asked like a survey question: the "
                "model reads it differently from nearly all of the survey's questions, so its intervals may not hold"
            )
    return lines
