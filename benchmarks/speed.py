"""What `make bench` measured, as tables: ratios to other libraries, limits of the machine, growth, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.artifacts import read_json
from opinion_sae.book.profile import model_name

FOLDER = Path(__file__).parent
ASKED = {  # name: at least, aim; how often as fast as the peer, or (add_group) the share of the first group's cost
    "fit_delta_step": (60.0, 100.0),
    "evaluate_groups": (50.0, 100.0),
    "add_group": (0.02, 0.01),
    "train_sae_step": (5.0, 8.0),
    "extract_activations": (3.0, 5.0),
}
UNITS = {  # of the differences that were checked before timing
    "probabilities": "option probabilities, largest",
    "gradients": "norm of the gradients' difference, share of the gradient's",
}
MEASURES = {"explained_variance": "explained variance (share)", "held_out_kl": "held-out KL (nats)"}
EXPECTED = {"seconds": 1.0, "peak_mb": 1.0}  # slopes: all work is done once for each, and kept for each


class Speed(NamedTuple):
    """The files of one device."""

    rows: pd.DataFrame  # results.json: a row per benchmark and peer
    details: dict[str, Any]  # settings, machine, checks, precision
    profile: pd.DataFrame  # share of our time by operator
    growth: pd.DataFrame  # seconds and memory by size


def load_speed(device: str = "cpu", folder: Path = FOLDER) -> Speed:
    """What was measured on this device. Raises FileNotFoundError, with how to make it, if nothing was."""
    suffix, how = ("", "make bench") if device == "cpu" else (f"-{device}", f"make bench DEVICE={device}")
    paths = [
        folder / name.format(suffix) for name in ("results{}.json", "details{}.json", "profile{}.csv", "growth{}.csv")
    ]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; `{how}` writes them")
    return Speed(pd.DataFrame(read_json(paths[0])), read_json(paths[1]), *map(pd.read_csv, paths[2:]))


def machine(found: Speed) -> str:
    """The machine in one line: what it is, and what it does at best."""
    about = found.details["machine"]
    products = ", ".join(f"{value:,} GFLOP/s in {dtype}" for dtype, value in about["gflops"].items())
    waiting = f" that wait {about['waiting']}ly" if "waiting" in about else ""
    chip = about["gpu"] or f"{about['cpu']}, {about['cores']} cores"
    model = f"{model_name(about['model'])} in {about['dtype']}"
    return (
        f"{chip}; torch {about['torch']}, {about['threads']} threads{waiting}; {model}; "
        f"matrix products {products}; memory {about['gbytes_per_s']} GB/s"
    )


def met(name: str, value: float) -> str:
    """How far a ratio, or the share of `add_group`, gets: 'aim', 'at least' or 'below'."""
    least, aim = ASKED[name]
    if name == "add_group":
        return "aim" if value <= aim else "at least" if value <= least else "below"
    return "aim" if value >= aim else "at least" if value >= least else "below"


def ratios(found: Speed) -> pd.DataFrame:
    """A row per benchmark and peer: seconds of both, the ratio beside what was asked for, the share of the limit."""
    table = found.rows.set_index("name")
    asked = pd.DataFrame(ASKED, index=["at least", "aim"]).T
    value = table["ratio"].fillna(table["ours"])  # add_group has no peer: its own share counts
    reached = [met(name, number) for name, number in value.items()]
    columns = {"peer_name": "peer", "peer": "peer's", "limit_fraction": "share of the limit"}
    table = table.drop(columns="device").rename(columns=columns).join(asked).assign(reached=reached)
    return table[["unit", "ours", "peer's", "peer", "ratio", "at least", "aim", "reached", "share of the limit"]]


def settings(found: Speed) -> pd.DataFrame:
    """What was tried for the peers, a row each: seconds, or tokens a second where it says so."""
    rows = [("all", setting, value) for setting, value in found.details["threads"].items()]
    for name, facts in found.details["benchmarks"].items():
        tried = facts.get("peer_settings", {})
        tried = {tried: ""} if isinstance(tried, str) else tried
        for setting, value in tried.items():
            shown = f"{value['tokens_per_s']} tokens/s" if isinstance(value, dict) else value
            rows.append((name, setting, shown))
        rows += [(name, f"rounds, {way}", count) for way, count in facts.get("rounds", {}).items()]
    return pd.DataFrame(rows, columns=["benchmark", "setting", "measured"]).set_index("benchmark")


def notes(found: Speed) -> str:
    """What the table of ratios leaves out: the prompts' pass, the part of the peer's work that was timed, BatchTopK."""
    facts = found.details["benchmarks"]["evaluate_groups"]
    step = found.rows.set_index("name").loc[["train_sae_step"], "ours"].iloc[0]
    batch_topk = found.details["benchmarks"]["train_sae_step"]["batch_topk_s"]
    return (
        f"evaluate_groups with the prompts' one pass ({facts['prompts_once']:.3g} s) counted in: "
        f"{facts['ratio_with_prompts']:.3g}x\n"
        f"groups for which the peer of evaluate_groups was timed, its time taken as so much more: "
        f"{facts['peer_groups_timed']}\n"
        f"train_sae_step with BatchTopK: {batch_topk:.3g} s, TopK {step:.3g} s"
    )


def equality(found: Speed) -> pd.DataFrame:
    """Differences between ours and the peers', checked before timing, a row per precision or way; of what, in which
    unit, stands beside each."""
    rows = [
        {"what": f"offsets, {dtype.removeprefix('torch.')}", "of": UNITS.get(what, what), "largest": value}
        for dtype, both in found.details["equal_before_timing"].items()
        for what, value in both.items()
    ]
    facts = found.details["benchmarks"]
    reached = facts["train_sae_step"]["explained_variance"]
    steps = facts["train_sae_step"]["steps_before"]
    rows += [
        {
            "what": f"SAE after {steps} steps: {name}",
            "of": "explained variance, share",
            "largest": round(value - reached["ours"], 4),
        }
        for name, value in reached.items()
        if name != "ours"
    ]
    tried = facts["extract_activations"]["peer_settings"]
    stream = "norm of the difference, share of the stream's spread"
    rows += [
        {"what": f"activations: {name}", "of": stream, "largest": one["difference"]} for name, one in tried.items()
    ]
    return pd.DataFrame(rows).set_index("what").rename(columns={"largest": "difference between ours and the peer's"})


def precision(found: Speed) -> pd.DataFrame:
    """Explained variance and held-out KL in both precisions, their difference and the spread between seeds."""
    columns = ["measure", "float32", "bfloat16", "difference", "spread_of_seeds", "seeds", "within"]
    table = pd.DataFrame(found.details["precision"], columns=columns).replace({"measure": MEASURES})
    return table.rename(columns={"difference": "bfloat16 less float32"}).set_index("measure")


def where_time_goes(found: Speed) -> pd.DataFrame:
    """Share of our own time by operator, the largest first, in per cent; benchmarks furthest from their limit first."""
    limits = found.rows.groupby("name")["limit_fraction"].first().sort_values()
    table = found.profile.assign(
        percent=(100 * found.profile["share"]).round(1), limit=found.profile["name"].map(limits)
    )
    table = table.sort_values(["limit", "name"], kind="stable")
    return table.rename(columns={"limit": "share of the limit"}).set_index(["name", "share of the limit", "operator"])[
        ["percent"]
    ]


def slope(sizes: Float[np.ndarray, "n"], values: Float[np.ndarray, "n"]) -> float:
    """The power of growth: the slope of log value against log size by least squares, over the upper half of the sizes.

    Three points at least are taken. Small sizes are left out since what is done once outweighs there what grows.
    """
    upper = np.argsort(sizes)[-max(3, (len(sizes) + 1) // 2) :]
    return float(np.polyfit(np.log(sizes[upper]), np.log(values[upper]), 1)[0])


def slopes(found: Speed) -> pd.DataFrame:
    """A row per kind of size: fitted slopes of time and memory, beside the expected ones."""
    rows = []
    for kind, part in found.growth.groupby("grows", sort=False):
        sizes = part["size"].to_numpy(float)
        row = {"grows": kind, "work": part["work"].iloc[0], "from": part["size"].min(), "to": part["size"].max()}
        for column, label in (("seconds", "time"), ("peak_mb", "memory")):
            row[f"{label}, fitted"] = slope(sizes, part[column].clip(lower=1e-6).to_numpy(float))
            row[f"{label}, expected"] = EXPECTED[column]
        rows.append(row)
    return pd.DataFrame(rows).set_index("grows")


def on_gpu(folder: Path = FOLDER) -> str:
    """The GPU's line, or that there was none to measure on."""
    if not (folder / "results-cuda.json").is_file():
        return "on a GPU: not measured (make bench DEVICE=cuda)"
    return machine(load_speed("cuda", folder))
