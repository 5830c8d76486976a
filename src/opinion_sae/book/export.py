"""The command `opinion-sae export`: a finished book's latents for Neuronpedia, or its SAE for the Hugging Face hub."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from opinion_sae.artifacts import read_json
from opinion_sae.book.cards import SCORES, read_labels
from opinion_sae.book.label import corpus_of, finished
from opinion_sae.book.profile import Profile
from opinion_sae.model.activations import load_activations
from opinion_sae.use.hub import hub_folder, upload
from opinion_sae.use.neuronpedia import Explained, Origin, write_neuronpedia

SET = "res-opinion-sae"
ROWS = 512  # of the stream on which SAELens' reconstruction is compared
FACTS = {
    "fvu": "unexplained variance of held-out text",
    "l0": "active latents per token",
    "ce_recovered": "cross-entropy recovered",
}


def export_neuronpedia(profile: Profile, creator: str) -> Path:
    """The latents that have cards, with their labels, those of `labels.csv` too; returns the folder of the source."""
    chapter, cards = finished(profile)
    others, run = read_labels(chapter.run.results, chapter.sae.sha256()), chapter.run
    labels: dict[int, list[Explained]] = {}
    for card in cards:
        scores = {"detection": card["label_score"], "fuzzing": card["fuzzing_score"]}
        labels[card["latent"]] = [Explained(card["label"] or "", _notes("statistics", "the label's words", scores))]
    for row in others[others["latent"].isin(list(labels))].to_dict("records"):
        notes = _notes(row["by"], row["judge"], {name: row[name] for name in SCORES[::2]})
        if row["by"] != "statistics":  # which the cards have, judged on more texts
            labels[int(row["latent"])].append(Explained(row["label"], notes))
    model = re.sub("[^a-z0-9_-]+", "-", re.split("[:/]", profile.model.rstrip("/"))[-1].lower())
    origin = Origin(model, SET, profile.hook_layer, creator, datetime.now(UTC))
    return write_neuronpedia(
        run.build / "export" / "neuronpedia", chapter.lm, chapter.sae, corpus_of(chapter), labels, origin
    )


def export_sae(profile: Profile, repository: str, send: bool = False) -> Path:
    """The folder as it would be put on the hub, checked; with `send`, put there."""
    chapter, _ = finished(profile)
    run = chapter.run
    known = read_json(run.results / "sae.json", dict)
    facts = {said: f"{known[name]:.3f}" for name, said in FACTS.items() if name in known}
    held_out = load_activations(run.work)[-1][:ROWS]
    folder = run.build / "export" / "hub"
    sae_id = hub_folder(chapter.sae, folder, repository, held_out, facts)
    if send:
        upload(folder, sae_id, repository)
    return folder


def _notes(by: str, judge: str, scores: dict[str, float | None]) -> str:
    said = ", ".join(f"{name} {'not measured' if s is None or s != s else f'{s:.2f}'}" for name, s in scores.items())
    return f"by {by}; judged by {judge}: {said}"
