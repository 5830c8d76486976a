"""Latents in the format in which Neuronpedia takes dashboards in bulk.

The layout and fields are those that SAEDashboard writes for it (`neuronpedia/neuronpedia_export.py` at commit 3ea1249)
and that Neuronpedia's own exports have (`v1/`, https://docs.neuronpedia.org/api-and-data/exports): a row of the
database per line of JSON, the long tables gzipped. The explanations' fields are those of its `Explanation` table.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opinion_sae.artifacts import replacing
from opinion_sae.effects.firing import Corpus, token_texts
from opinion_sae.effects.interpret import logit_effects
from opinion_sae.effects.latent_table import nearest
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder

TEXTS = 20  # the strongest, each of another text
AROUND = 48, 16  # tokens before the one that fires most, and after it
LOGITS = 10  # tokens at either end
BARS = 50  # of a histogram
# what SAEDashboard fills in for MLP neurons and for attention; nothing is known of either here
EMPTY = ("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices")
EMPTY += ("correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices")
EMPTY += ("correlated_features_pearson", "correlated_features_l1", "decoder_weights_dist", "vector")


class Origin(NamedTuple):
    """Whose the latents are. source: `<layer>-<set>`, as all identifiers there are made; creator: a user's id there."""

    model: str
    set: str
    layer: int
    creator: str
    when: datetime

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.set}"

    @property
    def made(self) -> dict[str, str]:
        return {"creatorId": self.creator, "createdAt": self.when.isoformat(timespec="seconds")}


class Explained(NamedTuple):
    """A label, and what is to be known of it: who wrote it and how it scored."""

    description: str
    notes: str


def write_neuronpedia(
    folder: Path,
    lm: LanguageModel,
    sae: SparseAutoencoder,
    corpus: Corpus,
    labels: Mapping[int, Sequence[Explained]],
    origin: Origin,
) -> Path:
    """Write `<model>/<source>/` in `folder`, with a feature for each key of `labels`; returns that folder.

    `release.jsonl`, `model.jsonl`, `sourceset.jsonl`, `source.jsonl`, and `features`, `activations`, `explanations`,
    each with one `batch-0.jsonl.gz`. The same input gives the same bytes.
    """
    target, latents = folder / origin.model / origin.source, list(labels)
    rows: dict[str, list[dict[str, Any]]] = {"features": [], "activations": [], "explanations": []}
    texts = token_texts(lm.tokenizer, corpus.ids)
    for latent in progress(latents, "latents"):
        shown = activations(corpus, texts, latent, origin)
        rows["features"].append(feature(lm, sae, corpus, latent, origin))
        rows["activations"] += shown
        rows["explanations"] += [_explanation(latent, one, origin) for one in labels[latent] if one.description]
    with replacing(target) as side:
        side.mkdir()
        for name, row in about(lm, sae, corpus, origin).items():
            (side / f"{name}.jsonl").write_bytes(_lines([row]))
        for name, some in rows.items():
            (side / name).mkdir()
            (side / name / "batch-0.jsonl.gz").write_bytes(gzip.compress(_lines(some), mtime=0))
    return target


def feature(lm: LanguageModel, sae: SparseAutoencoder, corpus: Corpus, latent: int, origin: Origin) -> dict[str, Any]:
    """A row of `features`: how often the latent fires and how strongly, which tokens it promotes, who is near it."""
    values = corpus.of(latent)[1].float()
    effects = logit_effects(lm, sae, torch.tensor([latent]))[0].cpu()
    near = nearest(sae.W_dec, latent, 10)
    row: dict[str, Any] = {"modelId": origin.model, "layer": origin.source, "index": str(latent), **origin.made}
    row |= {"maxActApprox": round(float(values.max()), 3) if len(values) else 0.0, "sourceSetName": origin.set}
    row |= {"hasVector": False, "vectorLabel": None, "vectorDefaultSteerStrength": 10, "hookName": None}
    row |= {"topkCosSimIndices": [other for other, _ in near], "topkCosSimValues": [round(c, 3) for _, c in near]}
    for name, sign in (("neg", -1), ("pos", 1)):
        top = (sign * effects).topk(min(LOGITS, len(effects)))
        row[f"{name}_str"] = [lm.tokenizer.decode([token]) for token in top.indices.tolist()]
        row[f"{name}_values"] = [round(sign * value, 3) for value in top.values.tolist()]
    row |= {"frac_nonzero": len(values) / len(corpus.ids), **dict.fromkeys(EMPTY, [])}
    return row | _histogram("freq", values) | _histogram("logits", effects)


def activations(corpus: Corpus, texts: Sequence[str], latent: int, origin: Origin) -> list[dict[str, Any]]:
    """Rows of `activations`: the tokens around the strongest firing of a text, and how strongly the latent fires on
    each; -1 stands for the bin of the strongest, as there."""
    where, values = corpus.of(latent)
    dense = torch.zeros(len(corpus.ids))
    dense[where] = values.float()
    order, rows = values.argsort(descending=True, stable=True).tolist(), []
    for entry in corpus.different(order, where, TEXTS):
        token = int(where[entry])
        of_text = (corpus.text == corpus.text[token]).nonzero()[:, 0]
        part = slice(max(int(of_text[0]), token - AROUND[0]), min(int(of_text[-1]), token + AROUND[1]) + 1)
        fires = [round(value, 3) for value in dense[part].tolist()]
        largest = max(fires)
        row: dict[str, Any] = {"id": _id(origin, latent, token), "modelId": origin.model, "layer": origin.source}
        row |= {"index": str(latent), "tokens": texts[part], "values": fires, "minValue": min(fires), **origin.made}
        row |= {"maxValue": largest, "maxValueTokenIndex": fires.index(largest)}
        row |= {"qualifyingTokenIndex": token - part.start, "binMin": -1, "binMax": largest, "binContains": -1}
        row |= {"dataIndex": None, "dataSource": None, "lossValues": [], "logitContributions": None}
        rows.append(row | {"dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None})
    return rows


def about(lm: LanguageModel, sae: SparseAutoencoder, corpus: Corpus, origin: Origin) -> dict[str, dict[str, Any]]:
    """The one row of each of the four files that say whose latents these are."""
    made, name = origin.made, f"opinion-sae-{origin.set}"
    said = f"Latents that opinion-sae's reading offset uses: {sae.architecture} SAE, {sae.width} latents"
    creator = {"creatorName": "opinion-sae", "visibility": "PUBLIC", **made}
    layers, neurons = len(lm.layers), int(getattr(lm.model.config, "intermediate_size", 0) or 0)
    return {
        "release": {"name": name, "description": said, "descriptionShort": said, "urls": [], **creator},
        "model": {
            **{"id": origin.model, "displayName": origin.model, "displayNameShort": origin.model, "owner": ""},
            **{"instruct": bool(lm.tokenizer.chat_template), "dimension": lm.width, "layers": layers},
            **{"neuronsPerLayer": neurons, "visibility": "PUBLIC", "updatedAt": made["createdAt"], **made},
        },
        "sourceset": {
            **{"modelId": origin.model, "name": origin.set, "description": said, "type": "", "urls": []},
            **{"releaseName": name, "hasDashboards": True, **creator},
        },
        "source": {
            **{"id": origin.source, "modelId": origin.model, "setName": origin.set, "visibility": "PUBLIC"},
            **{"hasDashboards": True, "dataset": "survey questions and the run's texts", **made},
            **{"num_prompts": len(corpus.of_survey), "num_tokens_in_prompt": None, "hfRepoId": None},
            **{"hfFolderId": None, "saelensConfig": None, "notes": f"SAE {sae.sha256()}"},
        },
    }


def _explanation(latent: int, label: Explained, origin: Origin) -> dict[str, Any]:
    """Its type and model would have to be in Neuronpedia's own lists, which do not have ours; they stand in notes."""
    row: dict[str, Any] = {"id": _id(origin, latent, label.description + label.notes), "modelId": origin.model}
    row |= {"layer": origin.source, "index": str(latent), "description": label.description, "notes": label.notes}
    row |= {"authorId": origin.creator, "typeName": None, "explanationModelName": None, "triggeredByUserId": None}
    return row | {"createdAt": origin.made["createdAt"]}


def _histogram(name: str, values: Float[Tensor, "value"]) -> dict[str, list[float]]:
    """Heights of bars, and the middle of each; none without values."""
    names = f"{name}_hist_data_bar_heights", f"{name}_hist_data_bar_values"
    if not len(values):
        return {one: [] for one in names}
    low, high = float(values.min()), float(values.max())
    heights = torch.histc(values, BARS, low, high) if high > low else torch.tensor([float(len(values))])
    width = (high - low) / len(heights)
    return {names[0]: heights.tolist(), names[1]: [round(low + (n + 0.5) * width, 3) for n in range(len(heights))]}


def _id(origin: Origin, *parts: object) -> str:
    """As long as theirs, and the same for the same."""
    return "c" + hashlib.sha256(json.dumps([origin.model, origin.source, *parts]).encode()).hexdigest()[:24]


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
