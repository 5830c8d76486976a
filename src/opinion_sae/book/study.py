"""Run a study on what the book of a profile left. Resumable, as `make evaluate`: each item has a file of its own."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from opinion_sae.artifacts import Item, made, recalled, write_csv, write_json
from opinion_sae.book.chapter import Chapter
from opinion_sae.book.execute import machine, throughput, versions
from opinion_sae.book.paths import Run, open_run, studies_of
from opinion_sae.book.profile import Profile
from opinion_sae.book.recorded import read_cost, read_fields
from opinion_sae.studies import DATA, STUDIES, Constant, Given, Parts, load_study
from opinion_sae.survey import load_survey, survey_hash

PACKAGES = ("opinion-sae", "torch", "transformers", "sae-lens", "numpy")


def listed() -> str:
    """The studies that there are, and how long each takes."""
    found = {name: load_study(name) for name in STUDIES}
    return "\n".join(f"{name:14} {study.TITLE} ({study.TIME})" for name, study in found.items())


def study(name: str, profile: Profile, chosen: Sequence[str] = (), data: Path | None = None) -> Path:
    """Make the items of a study that are not there yet, in order of worth; after each, write its tables and study.json.

    `chosen` are items, or beginnings of their names; without any, all. An item is made again when the model, the
    survey, the activations or its own settings change, not when code does: delete `<work>/study-<name>` for that.
    `data` is the user's path, for a study that needs one (`studies.DATA`). Raises ValueError for a study or an item
    that there is not and for data that is missing or not asked for, FileNotFoundError for what no book has left.
    """
    of, run = load_study(name), open_run(profile.output)
    if (data is not None) != (name in DATA):
        raise ValueError(
            f"study {name} needs --data PATH: {DATA[name]}" if name in DATA else f"study {name} takes no --data"
        )
    given = replace(what_is_given(profile, run, name), data=data)
    hashes = hashes_of(given)
    items = {key: Item([key, hashes, *item.about], item.make) for key, item in of.items(given).items()}
    unknown = [one for one in chosen if not any(key.startswith(one) for key in items)]
    if unknown:
        raise ValueError(f"study {name}: no item begins with {', '.join(unknown)}; there are {', '.join(items)}")
    parts = _there(given, items)
    to_make = [key for key, part in parts.items() if part is None]
    to_make = [key for key in to_make if not chosen or key.startswith(tuple(chosen))]
    target, start = studies_of(run.results) / name, time.monotonic()
    about = {
        "command": f"opinion-sae study {'--data PATH ' if data else ''}{name} -- {profile.run.name}",
        "profile": asdict(profile),
        "hashes": hashes,
        "sae": read_fields(book, {"sae": str})["sae"] if (book := run.work / "hash-sae.json").is_file() else "",
    } | where()
    for number, key in enumerate(to_make):
        left = (time.monotonic() - start) / number * (len(to_make) - number) if number else 0.0
        said = f", about {left / 60:.0f} minutes left" if number else ""
        print(f"study {name}: {key}, item {number + 1} of {len(to_make)}{said}", flush=True)
        if _there(given, {key: items[key]})[key] is None:  # another process may have made it meanwhile
            made(given.folder / f"{key}.safetensors", items[key])
        write(given, name, _there(given, items), target, about)
    if not to_make:
        write(given, name, parts, target, about)
    return target


def _there(given: Given, items: Mapping[str, Item]) -> dict[str, Mapping[str, np.ndarray] | None]:
    return {key: recalled(given.folder / f"{key}.safetensors", item.about) for key, item in items.items()}


def write(
    given: Given, name: str, parts: Mapping[str, Mapping[str, np.ndarray] | None], target: Path, about: dict[str, Any]
) -> None:
    """The tables of the parts that are there, and study.json; but tables of another run that hold more items stay."""
    there: Parts = {key: part for key, part in parts.items() if part is not None}
    if (before := items_of_another(target, about["hashes"])) > len(there):
        print(
            f"study {name}: {target} has {before} items of an earlier run, and stays until as many are made", flush=True
        )
        return
    for file, table in load_study(name).tables(given, there).items():
        write_csv(target / f"{file}.csv", table)
    seconds = {key: read_cost(given.folder / f"{key}.json")["seconds"] for key in there}
    done = {"seconds": {**seconds, "total": round(sum(seconds.values()), 1)}}
    write_json(target / "study.json", {**about, **done, "missing": [key for key in parts if key not in there]})


def items_of_another(target: Path, hashes: Mapping[str, str]) -> int:
    """How many items the tables in `target` are made of, if of another model, survey or activations; else 0."""
    if not (target / "study.json").is_file():
        return 0
    said = read_fields(target / "study.json", {"hashes": dict, "seconds": dict})
    return 0 if said["hashes"] == hashes else len(said["seconds"]) - 1  # less the total


def where() -> dict[str, Any]:
    """Machine, its matrix products, and versions."""
    return {"machine": machine(), "throughput": throughput(), "versions": versions(*PACKAGES)}


def hashes_of(given: Given) -> dict[str, str]:
    """What every item depends on: model and its type, survey and splits, activations, hook layer and replicates."""
    with (given.work / "activations.safetensors").open("rb") as file:
        activations = hashlib.file_digest(file, "sha256").hexdigest()
    model = f"{given.lm.sha256} in {given.lm.dtype}"
    parts = [[part.tolist() for part in split[1:]] for split in given.splits]
    return {
        "model": model,
        "data": survey_hash(given.survey),
        "splits": hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        "activations": activations,
        "hook_layer": str(given.answers.hook_layer),
        "replicates": str(given.replicates),
    }


def what_is_given(profile: Profile, run: Run, name: str) -> Given:
    """What the book of a profile left. FileNotFoundError if chapter 03 has not run."""
    if not (run.work / "activations.safetensors").is_file():
        raise FileNotFoundError(f"{run.work}: no activations there; make book PROFILE={run.name} leaves them")
    book = Chapter(asdict(profile))
    asked = (profile.survey, profile.min_respondents, profile.crossed, profile.max_questions)
    crossed = load_survey(*asked) if profile.crossed else None
    steps, epochs = profile.scratch_steps, profile.refit_epochs
    return Given(
        book.answers,
        book.survey,
        book.splits,
        profile.fit_settings(),
        profile.sae_sizes,
        run.work,
        run.work / f"study-{name}",
        profile.bootstrap,
        constant=Constant(profile.joint_settings(), steps, profile.tilts, epochs, crossed),
        texts=profile.texts,
        surveys=[profile.survey] if isinstance(profile.survey, str) else profile.survey,
        min_respondents=profile.min_respondents,
    )
