"""All benchmarks in one run: python -m benchmarks [cpu | cuda].

make bench                    the packaged model on the CPU: results.json, details.json, profile.csv, growth.csv
make bench DEVICE=cuda        Gemma 2 2B's shape on a GPU: the same files with -cuda in their names
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from benchmarks import cases, dictionary, extraction, full_size, growth, offsets, precision, where
from benchmarks.timing import digits, measure_machine
from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book.paths import ROOT
from opinion_sae.model.language_model import LanguageModel, load_language_model

PEER_ROUNDS = 2  # a peer's step on offsets takes half a minute
PEER_GROUPS = 3  # of the 30 for which the peer would run every prompt


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def threads_tried(case: cases.Case) -> dict[str, float]:
    """Seconds of the peer's pass for one group by number of threads; the fastest number is kept for everything."""
    if case.device.type != "cpu":
        return {}
    answers = case.answers(4)
    peer, delta = offsets.HookedModel(answers, 10**9), case.delta(answers, 1)
    times = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        peer.predict(case.sae, delta)
        times[threads] = offsets.seconds(lambda: peer.predict(case.sae, delta), case.device)
    torch.set_num_threads(min(times, key=times.get))
    return {f"{threads} threads": digits(found) for threads, found in times.items()}


def run(
    case: cases.Case, single: LanguageModel | None, sizes: dict[str, tuple[int, ...]], folder: Path, suffix: str
) -> None:
    """Check, time and write everything. `single` is the model in float32 where there is one to compare with."""
    say("machine and threads")
    threads = threads_tried(case)
    machine = measure_machine(case.device)
    say("are the results equal?")
    equal = {str(case.lm.dtype): offsets.check_equal(case, case.step_questions, 2)}
    if single is not None:
        exact = offsets.check_equal(cases.in_other_precision(case, single), 4, 2)
        equal[str(single.dtype)] = exact
    rows, details = [], {}
    say("fit_delta_step")
    row, details["fit_delta_step"] = offsets.fit_delta_step(case, machine, PEER_ROUNDS)
    rows.append(row)
    say("evaluate_groups")
    row, details["evaluate_groups"] = offsets.evaluate_groups(case, machine, PEER_GROUPS, PEER_ROUNDS)
    rows.append(row)
    say("add_group")
    row, details["add_group"] = offsets.add_group(case, machine)
    rows.append(row)
    say("train_sae_step")
    found, details["train_sae_step"] = dictionary.train_sae_step(case, machine, case.rounds)
    rows += found
    say("extract_activations")
    found, details["extract_activations"] = extraction.extract_activations(case, machine, PEER_ROUNDS)
    rows += found
    for row in rows:
        say(str(row))
    say("where the time goes")
    profile = pd.DataFrame(where.profiles(case))
    say("precision")
    compared = [] if single is None else precision.compare(case, single)
    say("growth")
    grown = pd.DataFrame(growth.measure(case, sizes))
    facts = {
        "machine": describe(case, machine),
        "equal_before_timing": equal,
        "threads": threads,
        "precision": compared,
        "benchmarks": details,
    }
    write_json(folder / f"results{suffix}.json", [row._asdict() for row in rows])
    write_json(folder / f"details{suffix}.json", facts)
    write_csv(folder / f"profile{suffix}.csv", profile)
    write_csv(folder / f"growth{suffix}.csv", grown)
    say("done")


def describe(case: cases.Case, machine: offsets.Machine) -> dict:
    gpu = torch.cuda.get_device_name(case.device) if case.device.type == "cuda" else None
    return {
        **full_size.machine(),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "model": case.lm.name,
        "dtype": str(case.lm.dtype).removeprefix("torch."),
        "gflops": {str(dtype).removeprefix("torch."): round(flops / 1e9) for dtype, flops in machine.flops.items()},
        "gbytes_per_s": digits(machine.bandwidth / 1e9, 3),
    }


def main(device: str) -> None:
    folder = ROOT / "benchmarks"
    say(f"benchmarks on {device}")
    if device == "cpu":
        case = cases.packaged()
        single = load_language_model("packaged:smollm2-135m-instruct", "float32")
        run(case, single if case.lm.dtype != torch.float32 else None, growth.SIZES, folder, "")
    elif device == "cuda" and torch.cuda.is_available():
        run(cases.gemma(device), None, growth.SIZES, folder, "-cuda")
    else:
        sys.exit(f"DEVICE={device}: it is cpu or cuda, and cuda needs a GPU that torch can see")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
