"""What a published run keeps, so that predictions need nothing else: SAE, offset, coverage, and what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from opinion_sae.artifacts import (
    check_fields,
    check_folder,
    check_numbers,
    read_csv,
    read_json,
    read_tensors,
    replacing,
    write_csv,
    write_json,
)
from opinion_sae.delta.files import load_offset
from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.model.wheels import sha256_of
from opinion_sae.sae.autoencoder import SparseAutoencoder, check_tensors
from opinion_sae.score.coverage import COLUMNS, LEVELS, coverage_table
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey, question_clusters, survey_hash
from opinion_sae.use.likeness import directions, threshold

PUBLISHED = Path(__file__).parents[1] / "data" / "published"
FORMAT = "opinion-sae-published-1"
LARGEST_SAE = 10_000_000  # bytes
FILES = ("coverage.csv", "labels.csv", "offset.safetensors", "questions.safetensors", "sae.safetensors")
FIELDS = {
    **{"format": str, "model": str, "model_hash": str, "dtype": str, "hook_layer": int, "option_orders": int},
    **{"survey": str, "survey_hash": str, "n_questions": int, "groups": list, "unlike": float, "sae": dict},
    "files": dict,
}
OF_GROUP = {"attribute": str, "group": str, "people": float}
OF_SAE = {"k": int | None, "subtract_b_dec": bool, "metadata": dict}
TASKS = ("alone", "toplines")


@dataclass(frozen=True, eq=False)
class PublishedRun:
    """`about` is about.json. `direction` is the mean direction of the run's questions, `coverage` the table of
    `score.coverage`, `labels` what latents stand for, where the run has found out."""

    about: Mapping[str, object]
    offset: Steering
    direction: Float[Tensor, "d"]
    coverage: pd.DataFrame
    labels: Mapping[int, str]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(group["group"] for group in self.about["groups"])

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(group["attribute"] for group in self.about["groups"])

    @property
    def people(self) -> Float[np.ndarray, "group"]:
        """Each group's mean weighted number of people per question of the survey."""
        return np.array([group["people"] for group in self.about["groups"]])

    def factors(self, task: str, nominal: float) -> Float[np.ndarray, "group"]:
        """By how much the scale of an error is widened for this coverage, for each group."""
        row = (self.coverage["task"] == task) & np.isclose(self.coverage["nominal"], nominal)
        return self.coverage[row].set_index("group").loc[list(self.groups), "factor"].to_numpy(float)

    def load_model(self) -> LanguageModel:
        """The run's model, in the precision of the run. ValueError if its weights are others than the run's."""
        model, expected = str(self.about["model"]), self.about["model_hash"]
        lm = load_language_model(model, str(self.about["dtype"]))
        # a packaged model's source is checked by a hash of its own, and its conversion names the library's version
        if lm.sha256 != expected and not model.startswith("packaged:"):
            raise ValueError(f"model {model} has the hash {lm.sha256}, but the run was made with {expected}")
        return lm


def keep_published(
    folder: str | Path,
    answers: AnswerPath,
    offset: object,
    survey: Survey,
    held_out: Float[np.ndarray, "_ question option"],
    folds: Int[np.ndarray, "question"],
    labels: Mapping[int, str] | None = None,
) -> dict[str, str]:
    """Write what `load_published_run` reads, whole or not at all; returns the files' SHA-256, for run.json.

    answers: the run's model, hook layer and orders; its questions are those of the survey. offset: fitted to all of
    them, with its SAE. held_out: log p of the same method, task alone, each question answered by an offset that was
    fitted without it, and `folds` says which were left out together; from these the coverage is measured. labels: what
    latents stand for.

    The SAE is rounded to float16 and the offset's file names the rounded one. ValueError if the SAE takes more than
    10 MB, does not fit into float16, or if the groups of offset and survey differ.
    """
    if tuple(offset.groups) != survey.groups:
        raise ValueError(f"the offset is for {list(offset.groups)}, the survey has {list(survey.groups)}")
    names = (*FILES, "about.json")
    check_folder(Path(folder), names)  # before anything is measured
    clusters, lm = question_clusters(survey), answers.lm
    tables = {"alone": held_out, "toplines": from_toplines(survey, held_out)}
    u = directions(lm, survey.questions, answers.hook_layer)
    rounded, tensors = in_float16(offset.sae)
    with replacing(Path(folder), own=names) as side:
        side.mkdir()
        write_csv(side / "coverage.csv", coverage_table(survey, tables, clusters, folds))
        known = sorted((labels or {}).items())
        write_csv(side / "labels.csv", pd.DataFrame(known, columns=["latent", "label"]))
        save_file(tensors, side / "sae.safetensors")
        save_file({"direction": u.mean(0)}, side / "questions.safetensors")
        offset.save(side / "offset.safetensors", sae=rounded.sha256())
        sort_header(side / "offset.safetensors")
        files = {name: sha256_of(side / name) for name in FILES}
        about = {
            **{"format": FORMAT, "model": lm.name, "model_hash": lm.sha256},
            **{"dtype": str(lm.dtype).removeprefix("torch."), "hook_layer": answers.hook_layer},
            **{"option_orders": answers.orders, "survey": survey.name, "survey_hash": survey_hash(survey)},
            **{"n_questions": len(survey.questions), "groups": group_facts(survey), "unlike": threshold(u, clusters)},
            "sae": {"k": rounded.k, "subtract_b_dec": rounded.subtract_b_dec, "metadata": rounded.metadata},
            "files": files,
        }
        write_json(side / "about.json", about)
        load_published_run(side)
        return files | {"about.json": sha256_of(side / "about.json")}


def group_facts(survey: Survey) -> list[dict[str, object]]:
    """Attribute, name and mean weighted number of people per question of each group."""
    size = survey.counts.sum(-1)
    people = size.sum(1) / np.maximum((size > 0).sum(1), 1)
    named = zip(survey.attributes, survey.groups, people.tolist(), strict=True)
    return [{"attribute": attribute, "group": group, "people": count} for attribute, group, count in named]


def in_float16(sae: SparseAutoencoder) -> tuple[SparseAutoencoder, dict[str, Tensor]]:
    """The SAE as its file will hold it, in float32 again, and the file's tensors."""
    tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"the SAE's {bad} hold values that float16 does not (beyond 65504, or not finite)")
    size = 2 * sum(tensor.numel() for tensor in tensors.values())
    if size > LARGEST_SAE:
        raise ValueError(f"the SAE takes {size / 1e6:.1f} MB in float16; at most {LARGEST_SAE / 1e6:.0f} are kept")
    facts = {"k": sae.k, "subtract_b_dec": sae.subtract_b_dec, "metadata": sae.metadata}
    return as_sae(tensors, facts), tensors


def sort_header(path: Path) -> None:
    """Write a safetensors file's header in the order of its keys, so that equal content is equal bytes.

    The file is the header's length (8 bytes, little-endian), the header (JSON, padded with spaces), and the tensors.
    """
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[end:])


def as_sae(tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> SparseAutoencoder:
    """A frozen SAE from its tensors and the rest of what it is."""
    plain = {name: tensor.float() for name, tensor in tensors.items()}
    return SparseAutoencoder(**plain, **facts).requires_grad_(False)


def load_published_run(folder: str | Path = PUBLISHED) -> PublishedRun:
    """Read what `keep_published` wrote, by default the run that comes with the package.

    FileNotFoundError for a file that is absent; ValueError, with file and field, for one that is not as it was written,
    or whose parts do not fit each other.
    """
    folder = Path(folder).expanduser()
    if not (folder / "about.json").is_file():
        made = f"`keep_published` writes about.json, {', '.join(FILES)}; the package's own comes from the default book"
        raise FileNotFoundError(f"{folder}: no published run there: {made}")
    about = checked_about(folder / "about.json")
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: not there, but about.json names it")
        if sha256_of(folder / name) != about["files"][name]:
            raise ValueError(f"{folder / name}: its SHA-256 is not the one that about.json names, so it was changed")
    path = folder / "sae.safetensors"
    weights = read_tensors(path)[1]
    wanted = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if "threshold" in weights else [])]
    checked = check_tensors(str(path), weights, wanted)
    sae = as_sae(dict(zip(wanted, checked, strict=True)), about["sae"])
    offset = load_offset(folder / "offset.safetensors", sae)
    groups = [group["group"] for group in about["groups"]]
    if list(offset.groups) != groups:
        raise ValueError(f"{folder}: the offset is for {list(offset.groups)}, but about.json names {groups}")
    path = folder / "questions.safetensors"
    direction = read_tensors(path)[1].get("direction", torch.empty(0))
    if direction.shape != (sae.d_in,):
        found, expected = tuple(direction.shape), (sae.d_in,)
        raise ValueError(f"{path}: direction has shape {found}, expected {expected}")
    check_numbers(path, {"direction": direction})
    coverage = checked_coverage(folder / "coverage.csv", groups)
    labels = read_csv(folder / "labels.csv", ("latent", "label"), names=("latent",), keep_default_na=False)
    if not labels["latent"].isin(range(sae.width)).all():
        raise ValueError(f"{folder / 'labels.csv'}: column 'latent': a latent is a whole number below {sae.width}")
    named = dict(zip(labels["latent"].tolist(), labels["label"].astype(str).tolist(), strict=True))
    return PublishedRun(about, offset, direction, coverage, named)


def checked_about(path: Path) -> dict:
    """about.json, every field there and of its type."""
    about = read_json(path)
    check_fields(about, FIELDS, str(path))
    if about["format"] != FORMAT:
        raise ValueError(f"{path}: format is {about['format']!r}, and {FORMAT!r} is read")
    check_fields(about["sae"], OF_SAE, f"{path}: sae")
    for number, group in enumerate(about["groups"]):
        check_fields(group, OF_GROUP, f"{path}: groups[{number}]")
        if not 0 < group["people"] < float("inf"):
            raise ValueError(f"{path}: groups[{number}]: people is {group['people']}; more than 0 are needed")
    if about["hook_layer"] < 0 or about["option_orders"] < 1:
        raise ValueError(f"{path}: hook_layer is at least 0 and option_orders at least 1")
    if sorted(about["files"]) != sorted(FILES):
        raise ValueError(f"{path}: files names {sorted(about['files'])}, expected {sorted(FILES)}")
    return about


def checked_coverage(path: Path, groups: Sequence[str]) -> pd.DataFrame:
    """coverage.csv with its columns, and a row with a factor from 0 up for each task, group and level."""
    table = read_csv(path, (), keep_default_na=False, na_values=[""])
    expected = [(task, group, level) for task in TASKS for level in LEVELS for group in ("all", *groups)]
    if tuple(table) != COLUMNS or list(zip(table["task"], table["group"], table["nominal"], strict=True)) != expected:
        raise ValueError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, and a row for each of the tasks {', '.join(TASKS)}, "
            f"coverages {', '.join(map(str, LEVELS))} and groups all, {', '.join(groups)}, in this order"
        )
    if not (table.loc[table["group"] != "all", "factor"] >= 0).all():
        raise ValueError(f"{path}: a factor is negative or missing")
    return table
