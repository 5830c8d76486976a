"""What runs leave and others read: costs of chapters and items, notebooks, JSON files with known fields."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opinion_sae.artifacts import check_fields, read_json

TIME = {"seconds": float}
COST = TIME | {"peak_memory_mb": float}  # of a chapter


def read_fields(path: str | Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with these fields, each of its kind (or with fields of its own, as `fields` of `fields` say), and
    perhaps others; ValueError as `check_fields`."""
    found = read_json(path, dict)
    check_within(found, fields, str(path))
    return found


def check_within(found: object, fields: Mapping[str, Any], where: str) -> None:
    """`check_fields`, also of the fields in fields."""
    kinds = {name: dict if isinstance(kind, Mapping) else kind for name, kind in fields.items()}
    check_fields(found, kinds, where, more=True)
    assert isinstance(found, dict)
    for name, kind in fields.items():
        if isinstance(kind, Mapping):
            check_within(found[name], kind, f"{where}: {name}")


def read_cost(path: Path, fields: Mapping[str, Any] = TIME) -> dict[str, Any]:
    """What one chapter took, from its log, or an item of `made`. ValueError unless these are numbers from 0."""
    found = read_fields(path, fields)
    _check_cost(found, fields, str(path))
    return found


def read_costs(path: Path, fields: Mapping[str, Any] = TIME) -> dict[str, dict[str, Any]]:
    """What each chapter took, from a `run.json`; nothing if there is none. ValueError that names the chapter."""
    if not os.path.lexists(path):
        return {}
    found = read_fields(path, {"notebooks": dict})["notebooks"]
    for name, cost in found.items():
        _check_cost(cost, fields, f"{path}: notebooks: {name}")
    return found


FULL_SIZE = {
    "machine": {"cores": int, "cpu": str},
    "work": {"questions": int, "groups": int, "option_orders": int, "prompt_tokens": int},
    "model": {"weights_gb": float},
    **{"seconds": float, "peak_gb": float, "peak_over_weights": float, "limit": float, "stages": list},
}


def read_full_size(path: Path) -> dict[str, Any]:
    """What `make full-size` measured."""
    found = read_fields(path, FULL_SIZE)
    for number, stage in enumerate(found["stages"]):
        check_fields(stage, {"stage": str, "seconds": float, "peak_gb": float}, f"{path}: stages: {number}", more=True)
    return found


def read_texts(path: Path) -> dict[str, list[str]]:
    """The texts that a run's SAE was trained and judged on, and the prompts among them."""
    kinds = {"prompts": list, "held_out": list, "training": list}
    found = read_fields(path, kinds)
    for name in kinds:
        if not all(isinstance(text, str) for text in found[name]):
            raise ValueError(f"{path}: {name} holds something else than texts")
    return found


def _check_cost(found: object, fields: Mapping[str, Any], where: str) -> None:
    check_fields(found, fields, where, more=True)
    assert isinstance(found, dict)
    for name in fields:
        if found[name] < 0:
            raise ValueError(f"{where}: {name} is {found[name]}, less than 0")


def read_cells(notebook: str | Path) -> list[dict[str, Any]]:
    """The cells of a Jupyter notebook, each with its type, its source as one text, its metadata, and its outputs."""
    content = read_json(notebook)
    check_fields(content, {"cells": list}, str(notebook), more=True)
    fields = {"cell_type": str, "source": str | list, "metadata": dict, "outputs": list, "execution_count": int | None}
    cells = []
    for number, cell in enumerate(content["cells"]):
        where = f"{notebook}: cell {number}"
        cell = {"metadata": {}, "outputs": [], "execution_count": None, **(cell if isinstance(cell, dict) else {})}
        check_fields(cell, fields, where, more=True)
        check_fields(cell["metadata"], {"tags": list} if "tags" in cell["metadata"] else {}, where, more=True)
        for output in cell["outputs"]:
            check_fields(output, {"output_type": str}, f"{where}: output", more=True)
        if not all(isinstance(line, str) for line in cell["source"]):
            raise ValueError(f"{where}: source holds something else than text")
        cells.append(cell | {"source": "".join(cell["source"])})
    return cells
