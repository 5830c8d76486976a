"""The committed tables of the studies, read and checked, and what is said of how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.paths import ROOT, studies_of
from opinion_sae.book.recorded import read_fields
from opinion_sae.score.metrics import ENDS
from opinion_sae.studies import DATA

STUDIES = ROOT / "results" / "studies"
ABSENT = "Nothing of it has been made yet."
SAE = ("start", "strategy", "tilt")  # what an SAE is known by in the study of specialised ones
WORDS = "architecture measure place start strategy sae features treatment task method"
WORDS = frozenset(
    f"{WORDS} which group offset kind training stage role meant_for sae_sha256 fitted_to tested_on".split()
)


class Columns(NamedTuple):
    """The columns of a table that are shown: those that together name a row, and those that hold its numbers."""

    names: tuple[str, ...]
    numbers: tuple[str, ...]


def _ranges(*numbers: str) -> tuple[str, ...]:
    """Numbers, each with the ends of its interval."""
    return tuple(f"{number}{end}" for number in numbers for end in ENDS)


FILES = {  # by study the tables that are shown
    "architectures": {
        "architectures": Columns(("architecture", "target_l0", "measure"), ("n_seeds", "value", "low", "high"))
    },
    "size": {
        "size": Columns(("width",), ("width", *_ranges("fvu", "dead", "processor"))),
        "exponents": Columns(("measure",), (*_ranges("exponent"), "constant")),
    },
    "specialised": {
        "quality": Columns((*SAE, "k"), _ranges("l0_text", "perplexity_text", "l0_questions", "perplexity_questions")),
        "unexplained": Columns(SAE, _ranges("fvu_text", "fvu_questions", "fvu_answers", "live")),
        "dictionary": Columns((*SAE, "measure", "place"), _ranges("value")),
        "gaps": Columns((*SAE, "latents"), _ranges("gap_r", "gap_r_gain", "group_kl_closed", "group_kl_closed_gain")),
        "labels": Columns(SAE, _ranges("detection")),
        "map": Columns(("sae", "row"), ("first", "second", "first_explained", "second_explained")),
    },
    "shift": {"accuracy": Columns(("features", "treatment", "taken"), _ranges("accuracy", "worst", "gain"))},
    "trained_on": {
        "splits": Columns(
            ("split", "rate", "l1", "chosen"),
            ("validation_kl_start", "train_kl_last", "validation_kl_last", "validation_kl", "epoch")
            + ("entries_a", "entries_b", "entries_c", "entries_deviation"),
        ),
        "gaps": Columns(("task", "method"), _ranges("gap_r", "group_kl_closed")),
        "steps": Columns((), ("seconds_constant", "seconds_reading", "ratio", "least", "most")),
    },
    "across": {
        "gaps": Columns(
            ("tested_on", "fitted_to", "task", "method"),
            ("n_questions", "n_fitted", "n_groups", *_ranges("gap_r", "group_kl_closed")),
        )
    },
    "constant": {
        "tilt": Columns(("t", "measure", "which", "group"), ("value", "low", "high")),
        "composition": Columns(
            ("offset",),
            ("kl", "low", "high", "minus direct fit", "difference low", "difference high", "intersections"),
        ),
        "kinds": Columns(
            ("kind",),
            ("latents per group", "latents in all", "validation KL", "test KL, shared only", "test KL", "n_questions"),
        ),
        "joint": Columns(
            ("training",), ("test_kl", "n_questions", "fvu", "fvu_at_answers", "dead_fraction", "ce_recovered")
        ),
        "scratch": Columns(
            ("stage", "epoch"),
            ("train_kl", "validation_kl", "reconstruction", "validation_reconstruction", "sparsity")
            + ("validation_sparsity", "l1_shared", "l1_deviation"),
        ),
    },
    "audit": {
        "written": Columns(
            ("role", "latent", "meant_for", "strength", "sae_sha256"),
            ("latent", "questions", "strength", *_ranges("on_target"), "off_target", "bounded_from", "bounded_to"),
        ),
        "means": Columns(
            ("role", "strength", "sae_sha256"),
            ("strength", "latents", *_ranges("on_target", "on_size", "off_target", "off_target_kl")),
        ),
    },
}


class StudyTables(NamedTuple):
    """What a study has left: tables by file, and study.json. Without either where it has not been run."""

    name: str
    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]

    def __getitem__(self, file: str) -> pd.DataFrame:
        return self.tables[file]


def load_tables(name: str, folder: Path = STUDIES) -> StudyTables:
    """The tables of a study, without rows if it has not been run.

    ValueError, with file and row, for a table or a study.json that `opinion-sae study` would not have written.
    """
    path = folder / name
    tables = {file: _table(path / f"{file}.csv", columns) for file, columns in FILES[name].items()}
    if not (path / "study.json").exists():
        return StudyTables(name, tables, {})
    about = read_json(path / "study.json")
    fields = {"seconds": dict, "machine": str, "throughput": dict, "missing": list}
    check_fields(about, fields, str(path / "study.json"), more=True)
    check_fields(about["seconds"], {"total": float}, f"{path / 'study.json'}: seconds", more=True)
    return StudyTables(name, tables, about)


def of_sae(name: str, results: Path, sha256: str) -> StudyTables:
    """The rows of this SAE in a study's tables (`load_tables`): of the run with these results, else of the default run.
    Without rows where neither has any."""
    found = StudyTables(name, {}, {})
    for folder in dict.fromkeys([studies_of(results), STUDIES]):
        found = load_tables(name, folder)
        found = found._replace(tables={file: of[of["sae_sha256"] == sha256] for file, of in found.tables.items()})
        if any(map(len, found.tables.values())):
            return found
    return found._replace(about={})


def _table(path: Path, columns: Columns) -> pd.DataFrame:
    names, numbers = columns
    needed = list(dict.fromkeys([*names, *numbers]))
    if not path.exists():
        return pd.DataFrame(columns=needed)
    text = {name: str for name in names if name in WORDS}
    keys = () if "strategy" in names else names  # the book's own SAE has none
    rows = read_csv(path, needed, numbers, keys, dtype=text, keep_default_na=False, na_values=[""])
    return rows.fillna(dict.fromkeys(text, ""))


def note(study: StudyTables) -> str:
    """What made the tables, in what time and where, and how much of it is missing."""
    command = f"make study NAME={study.name}"
    command = f"`{f'opinion-sae study --data PATH {study.name} -- default' if study.name in DATA else command}`"
    if not study.about:
        return f"This study has not been run: {command} does that, after `make book`."
    seconds, rate = study.about["seconds"], study.about["throughput"].get("gflops_float32")
    said = f"Made by {command} in {seconds['total'] / 60:.0f} minutes on {study.about['machine']}"
    said += f", {rate:.0f} GFLOP/s in float32 at the start of its last run." if rate else "."
    if study.about["missing"]:
        done = len(seconds) - 1
        said += f" {done} of {done + len(study.about['missing'])} items were run."
    return said + anew(study)


def anew(study: StudyTables, root: Path = ROOT) -> str:
    """A sentence where the run that the study went by has been made again since, with another SAE; its SAE is known
    where the tables or study.json name it, and otherwise was one before."""
    run = root / str(study.about.get("profile", {}).get("output", "")) / "run.json"
    if not run.is_file():
        return ""
    now = read_fields(run, {"hashes": {"sae": {"sae": str}}})["hashes"]["sae"]["sae"]
    named = {sha256 for of in study.tables.values() if "sae_sha256" in of for sha256 in of["sae_sha256"]}
    same = now in {study.about.get("sae"), *named}
    return "" if same else " The run that it went by has been made anew since, with another SAE."
