"""The committed tables of published runs, for a chapter that shows results which cannot be made everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv, read_json
from opinion_sae.book.gap_claims import COLUMNS as CLAIM_COLUMNS
from opinion_sae.book.gap_claims import MEASURES
from opinion_sae.book.gap_claims import found as verdict
from opinion_sae.book.gap_report import SHOWN, measured, overall, plain
from opinion_sae.book.paths import ROOT
from opinion_sae.book.profile import model_name
from opinion_sae.book.recorded import read_full_size
from opinion_sae.score.names import prose

# the published runs beside the default, and what makes each: of the larger models only what the offsets that read need
OPINIONQA, ON_DEFAULT = ("opinionqa", "opinionqa-qwen", "opinionqa-qwen-1.5b"), ("gss-qwen", "gss-qwen-1.5b")
COMMANDS = {"opinionqa": "make tables PROFILE=opinionqa"}
COMMANDS |= {name: f"opinion-sae run 01,02,03,04,17,18,07 -- {name}" for name in (*OPINIONQA[1:], *ON_DEFAULT)}
FULL_SIZE = ROOT / "benchmarks" / "full_size.json"
COLUMNS = (
    *("method", "group", "split", "n_questions", "kl", "tv", "alignment"),
    *("kl_low", "kl_high", "alignment_low", "alignment_high", "gap_closed"),
)

GAPS = tuple(f"{what}{end}" for what in ("gap_r", "group_kl_closed") for end in ("", "_low", "_high"))
AIMS = {  # what was aimed at with the reading offset before it was run, from toplines: at least so much
    "opinionqa": {"gap_r": 0.48, "group_kl_closed": 0.17},
    "opinionqa-qwen-1.5b": {"gap_r": 0.52, "group_kl_closed": 0.20},
}
CLAIMED = {  # and what it was to be shown to do, by method and reference
    "delta-reading": ("dense-reading", "shuffled-questions", "random-dictionary", "words"),
    "delta-reading-64": ("delta-reading",),
}
CONSTANT = 0.5  # below which the constant share of what the groups' own part adds was to lie
RUN = {"profile": dict, "notebooks": dict, "machine": str}  # of run.json, what is shown


class Published(NamedTuple):
    """What a run left in its results folder."""

    table: pd.DataFrame  # alignment.csv: a row per method and group
    overall: pd.DataFrame  # of it the rows of all groups together, by method
    by_group: pd.DataFrame  # mean KL in nats, a row per group and a column per method
    floor: pd.DataFrame  # floor.csv: what resampling people alone would give, by group
    comparisons: pd.DataFrame  # comparisons.csv: paired differences in KL
    numbers: dict[str, str]  # numbers.json: formatted for prose
    run: dict[str, Any]  # run.json: profile, hashes of data, model and SAE, versions, machine, times
    gaps: pd.DataFrame  # gaps.csv, all groups together, from toplines, by method; empty if the run has none
    constant: pd.DataFrame  # constant_share.csv; likewise
    claims: pd.DataFrame  # gap_claims.csv; likewise

    @property
    def model(self) -> str:
        """`model_name` of the run's model."""
        return model_name(self.run["profile"]["model"])


def load_published(name: str = "opinionqa", results: Path = ROOT / "results") -> Published:
    """Read `results/<name>`.

    Raises FileNotFoundError for an absent table, with how to make it, and ValueError for one that lacks a column.
    """
    folder = results / name
    table = _table(folder / "alignment.csv", COLUMNS, ("method", "group"))
    everyone = table["group"] == "all"
    methods, groups = table["method"].unique(), table.loc[~everyone, "group"].unique()
    by_group = table[~everyone].pivot(index="group", columns="method", values="kl")
    return Published(
        table,
        table[everyone].set_index("method").drop(columns="group"),
        by_group.reindex(index=groups, columns=methods),
        _table(folder / "floor.csv", ("group", "kl", "alignment"), ("group",)),
        _table(
            folder / "comparisons.csv",
            ("group", "method", "reference", "kl_difference", "low", "high"),
            ("group", "method", "reference"),
        ),
        read_json(_there(folder / "numbers.json"), dict),
        _run(_there(folder / "run.json")),
        _gaps(folder / "gaps.csv"),
        _constant(folder / "constant_share.csv"),
        _claims(folder / "gap_claims.csv"),
    )


def _gaps(path: Path) -> pd.DataFrame:
    """Of a run that was made before offsets could read there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=GAPS)
    found = _table(
        path, ("task", "method", "group", "split", "n_questions", *GAPS), ("task", "method", "group", "split")
    )
    return overall(found)[[*GAPS, "n_questions"]]


def _constant(path: Path) -> pd.DataFrame:
    """A row per method and fold; NaN where the groups' own part is not used."""
    columns = ("method", "fold", "constant_share")
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    return read_csv(path, columns, numbers=columns[1:], names=columns[:2])


def _claims(path: Path) -> pd.DataFrame:
    """A row per claim and measure; an effect without an interval has neither."""
    if not path.is_file():
        return pd.DataFrame(columns=CLAIM_COLUMNS)
    numbers = ("effect", "margin", "low", "high", "p_holm")
    return read_csv(path, CLAIM_COLUMNS, numbers=numbers, names=("method", "reference", "measure"))


def _run(path: Path) -> dict[str, Any]:
    """run.json, what is shown of it there and of its kind."""
    found = read_json(path)
    check_fields(found, RUN, str(path), more=True)
    check_fields(found["profile"], {"model": str, "hook_layer": int}, f"{path}: profile", more=True)
    for name, cost in found["notebooks"].items():
        check_fields(cost, {"seconds": float, "peak_memory_mb": float}, f"{path}: notebooks: {name}")
    return found


def published_runs(output: str, results: Path = ROOT / "results") -> dict[str, Published]:
    """Those of `OPINIONQA` that are in this checkout; there is one if its run.json is, which a run writes last.

    Without the one that writes to `output`: its own tables are not all there yet. Raises what `load_published` raises.
    """
    names = [name for name in OPINIONQA if results / name != ROOT / output]
    return {name: load_published(name, results) for name in names if (results / name / "run.json").is_file()}


def default_runs(results: Path = ROOT / "results") -> dict[str, Published]:
    """Those on the default surveys that are in this checkout: the default, then `ON_DEFAULT`."""
    names = [name for name in ("default", *ON_DEFAULT) if (results / name / "run.json").is_file()]
    return {name: load_published(name, results) for name in names}


def absent(runs: Mapping[str, Published], output: str) -> str:
    """One line for each published run that is not shown, with the command that makes it; empty if all are."""
    lines = []
    for name, command in COMMANDS.items():
        if Path(output).name == name:
            lines.append(f"results/{name} is what this run writes: see the chapters before this one")
        elif name not in runs:
            lines.append(f"results/{name} is not in this checkout: `{command}` writes it, once the files are there")
    return "\n".join(lines)


def run_table(runs: Mapping[str, Published]) -> pd.DataFrame:
    """Per run: model, layer, sizes, machine, the chapters' wall times added up, their peak memory, and the command."""
    rows = {}
    for name, found in runs.items():
        if name == "default":  # the run that this book is of, or the README's
            continue
        chapters = found.run["notebooks"].values()
        rows[name] = {
            "model": found.model,
            "offset after layer": found.run["profile"]["hook_layer"],
            "questions": found.overall["n_questions"].max(),
            "groups": len(found.by_group),
            "machine": found.run["machine"],
            "minutes": round(sum(chapter["seconds"] for chapter in chapters) / 60, 1),
            "peak memory (GB)": round(max(chapter["peak_memory_mb"] for chapter in chapters) / 1000, 1),
            "command": COMMANDS.get(name, f"make book PROFILE={name}"),
        }
    return pd.DataFrame(rows)


def side_by_side(runs: Mapping[str, Published], columns: tuple[str, ...]) -> pd.DataFrame:
    """Those columns of alignment.csv for all groups together, a row per method and a block of columns per run."""
    blocks = {found.model: found.overall[list(columns)] for found in runs.values()}
    return pd.concat(blocks, axis=1) if blocks else pd.DataFrame()


def differences(runs: Mapping[str, Published]) -> pd.DataFrame:
    """Paired differences in KL over all groups together, a row per pair and a block of columns per run."""
    blocks = {}
    for found in runs.values():
        pairs = found.comparisons[found.comparisons["group"] == "all"].set_index(["method", "reference"])
        blocks[found.model] = pairs[["kl_difference", "low", "high"]]
    return pd.concat(blocks, axis=1) if blocks else pd.DataFrame()


def group_gaps(runs: Mapping[str, Published]) -> pd.DataFrame:
    """From toplines, over all groups: gap correlation and share of the group KL closed, with intervals, a row per
    method and a block of columns per run."""
    blocks = {}
    for found in runs.values():
        shown = found.gaps.loc[[method for method in SHOWN if method in found.gaps.index]]
        both = {"gap correlation": "gap_r", "group KL closed": "group_kl_closed"}
        cells = {head: [measured(row, key) for _, row in shown.iterrows()] for head, key in both.items()}
        if len(shown):
            blocks[found.model] = pd.DataFrame(cells, index=shown.index)
    return pd.concat(blocks, axis=1) if blocks else pd.DataFrame()


def group_gaps_sentence(runs: Mapping[str, Published]) -> str:
    """What the reading offset does to the groups' differences, model by model, beside words alone."""
    said = []
    for found in runs.values():
        if not {"delta-reading", "words"} <= set(found.gaps.index):
            said.append(f"With {found.model} no offset that reads has been run.")
            continue
        rows = found.gaps.astype(float).to_dict("index")
        own, words = rows["delta-reading"], rows["words"]
        cells = [measured(own, key) for key in ("gap_r", "group_kl_closed")]
        said.append(
            f"With {found.model} the reading Δ has a gap correlation of {cells[0]} on {own['n_questions']:.0f} "
            f"held-out questions and closes {cells[1]} of the groups' KL; words alone have {plain(words['gap_r'])} and "
            f"{plain(words['group_kl_closed'])}."
        )
    return " ".join(said) or "No published run is in this checkout."


def aims_page(runs: Mapping[str, Published]) -> str:
    """MyST text, run by run: a sentence for each of `AIMS`, by method that reads for the constant share, and for each
    of `CLAIMED`."""
    parts = []
    for name, aims in AIMS.items():
        if name not in runs or "delta-reading" not in runs[name].gaps.index:
            parts.append(f"Whether what was aimed at in `results/{name}` is reached is not known here.\n")
            continue
        found = runs[name]
        row, shares = found.gaps.loc[["delta-reading"]].iloc[0], found.constant
        lines = [aim_sentence(row, measure, least) for measure, least in aims.items()]
        for method, part in shares[shares["method"].str.startswith("delta-reading")].groupby("method", sort=False):
            lines.append(constant_sentence(str(method), part["constant_share"]))
        lines += claimed_sentences(found.claims)
        parts.append(f"With {found.model}:\n\n" + "".join(f"- {line[0].upper()}{line[1:]}\n" for line in lines))
    return "\n".join(parts)


def claimed_sentences(claims: pd.DataFrame) -> list[str]:
    """Of `gap_claims.csv` those of `CLAIMED`, each with what was found by either measure."""
    found = []
    for method, references in CLAIMED.items():
        for reference in references:
            rows = claims[(claims["method"] == method) & (claims["reference"] == reference)]
            if len(rows):
                each = "; ".join(verdict(row) for _, row in rows.iterrows())
                found.append(f"it was to be shown that {rows['claim'].iloc[0].rstrip('.')}: {each}.")
    return found


def aim_sentence(row: pd.Series, measure: str, least: float) -> str:
    """Whether a measure of the reading offset is at least so much, and what its interval says of that."""
    value, low, high = (float(row[f"{measure}{end}"]) for end in ("", "_low", "_high"))
    if value >= least:
        sure = "and its whole interval lies above" if low >= least else "but its interval begins below that"
        said = f"reached, {sure}"
    else:
        said = f"not reached, {'though its interval holds that too' if high >= least else 'nor by any of its interval'}"
    return (
        f"a {MEASURES[measure]} of at least {least:.2f} was aimed at: {prose('delta-reading')} has "
        f"{measured(row, measure)}, so that is {said}."
    )


def constant_sentence(method: str, shares: pd.Series) -> str:
    """Whether the mean over folds of the constant share lies below `CONSTANT`, with the folds, which are no interval
    but all that there is."""
    used = shares.dropna().astype(float)
    if not len(used):
        return f"the groups' own part of {prose(method)} is not used, so it has no constant share."
    folds, below, n = ", ".join(f"{value:.2f}" for value in used), int((used < CONSTANT).sum()), len(used)
    if used.mean() < CONSTANT:
        there = "reached on average " + (f"and in all {n} folds" if below == n else f"but in only {below} of {n} folds")
    else:
        there = "not reached on average, " + (
            f"though in {below} of {n} folds" if below else f"nor in any of {n} folds"
        )
    return (
        f"a constant share below {CONSTANT:.1f} was aimed at: what the groups' own part of {prose(method)} adds has "
        f"{used.mean():.2f} (fold by fold {folds}), so that is {there}."
    )


def full_size_stages(path: Path = FULL_SIZE) -> pd.DataFrame:
    """Seconds and peak memory of each stage at Gemma 2 2B's size, as `make full-size` measured them."""
    stages = pd.DataFrame(read_full_size(_there(path, "make full-size"))["stages"])
    return stages.set_index("stage").rename(columns={"peak_gb": "peak memory so far (GB)"})


def full_size_numbers(path: Path = FULL_SIZE) -> dict[str, str]:
    """The same for prose."""
    found = read_full_size(_there(path, "make full-size"))
    machine, work = found["machine"], found["work"]
    return {
        "full_size_machine": f"{machine['cores']} cores ({machine['cpu']})",
        "full_size_work": f"{work['questions']} questions and {work['groups']} groups",
        "full_size_minutes": f"{found['seconds'] / 60:.0f} minutes",
        "full_size_peak": f"{found['peak_gb']:.1f} GB",
        "full_size_weights": f"{found['model']['weights_gb']:.1f} GB",
        "full_size_ratio": f"{found['peak_over_weights']:.2f}",
        "full_size_limit": f"{found['limit']}",
    }


def _there(path: Path, command: str = "") -> Path:
    if not path.is_file():
        command = command or COMMANDS.get(path.parent.name, f"make book PROFILE={path.parent.name}")
        raise FileNotFoundError(f"{path}: not there; `{command}` writes it (what that needs: book/reproduce.md)")
    return path


def _table(path: Path, columns: tuple[str, ...], names: tuple[str, ...]) -> pd.DataFrame:
    """A table with a row for each combination of `names`, numbers in the other `columns` (but for `split`)."""
    table = read_csv(_there(path), columns, numbers=sorted(set(columns) - {*names, "split"}), names=names)
    if len(table) == 0:
        raise ValueError(f"{path}: no rows")
    return table
