"""The choice that costs an SAE for each layer: layer, L1 strength and beta, by validation KL. Run by `make select`.

Writes selection.csv to the profile's results, a row for each fit. Rows of an earlier run with the same settings are
kept, so it can be stopped and gone on with.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float

from opinion_sae.artifacts import check_fields, read_csv, read_json, write_csv
from opinion_sae.book.paths import open_run
from opinion_sae.book.profile import Profile
from opinion_sae.delta.fit import fit_from_shared, fit_frozen
from opinion_sae.delta.held_out import Split, by_question
from opinion_sae.delta.joint import fit_joint
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.losses import mean_kl
from opinion_sae.model.activations import Activations, content, text_windows
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import train_sae, unexplained
from opinion_sae.survey import Survey, load_survey, question_folds

COLUMNS = ["layer", "fold", "mode", "l1", "kl_weight", "latents", "kl", "fvu", "settings"]


@torch.no_grad()
def layer_activations(
    lm: LanguageModel, texts: Sequence[str], layers: Sequence[int]
) -> dict[int, Float[torch.Tensor, "token d"]]:
    """`activations` after several layers, in one pass over the texts. The sinks left out are each layer's own."""
    for layer in layers:
        lm.check_layer(layer)
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in sorted(set(layers))}
    for tokens, real in progress(text_windows(lm, texts), "activations"):
        positions, masks = lm.causal(*tokens.shape)
        hidden, start = lm.embed(tokens), 0
        for layer, parts in found.items():
            hidden = lm.run_layers(hidden, range(start, layer + 1), positions, masks)
            start, residual = layer + 1, hidden.cpu()
            parts.append(residual[content(residual, real)])
    return {layer: torch.cat(parts) for layer, parts in found.items()}


class Layers:
    """SAEs of several layers, trained on a third of the book's texts for fewer steps."""

    def __init__(self, profile: Profile, lm: LanguageModel, texts: dict[str, list[str]]):
        self.profile, self.lm, self.texts = profile, lm, texts
        self.tokens: dict[str, dict[int, torch.Tensor]] | None = None

    def sae(self, layer: int) -> SparseAutoencoder:
        """The SAE of the stream after this layer."""
        p = self.profile
        if self.tokens is None:
            parts = ("training", "held_out")
            third = {part: self.texts[part][::3] for part in parts}  # all of it at five layers would fill the memory
            self.tokens = {part: layer_activations(self.lm, third[part], p.select_layers) for part in parts}
        options = {"steps": p.select_steps, "batch": p.sae_batch, "lr": p.sae_lr, "seed": p.seed}
        return train_sae(self.tokens["training"][layer], p.sae_width, p.sae_k, dtype=self.lm.dtype, **options)[0]


def rows_of_split(
    profile: Profile,
    survey: Survey,
    layers: Layers,
    layer: int,
    answers: AnswerPath,
    sae: SparseAutoencoder,
    split: Split,
) -> list[dict[str, object]]:
    """Validation KL of every fit to a layer and split: Delta_shared for each L1 strength, Delta, joint by beta."""
    p, texts = profile, Activations(*(layers.tokens[part][layer] for part in ("training", "held_out")))
    shares = torch.from_numpy(survey.shares).float()[:, split.validation]

    def row(mode: str, l1: float, kl_weight: float, own: SparseAutoencoder, delta: GroupDelta | None) -> dict:
        log_probs = answers.predict(delta, torch.from_numpy(split.validation))
        latents = 0.0 if delta is None else delta.touched().mean().item()
        named = {"layer": layer, "mode": mode, "l1": l1, "kl_weight": kl_weight, "latents": latents}
        return {**named, "kl": mean_kl(shares, log_probs).item(), "fvu": unexplained(own, texts.held_out)}

    first = {
        l1: fit_frozen(answers, sae, survey, split, p.fit_settings(l1=l1), stages=("shared",))[0]
        for l1 in (p.l1, *p.l1_grid)
    }
    rows = [row("unsteered", 0.0, 0.0, sae, None)]
    rows += [row("shared", l1, 0.0, sae, delta) for l1, delta in first.items()]
    delta, _ = fit_from_shared(answers, survey, split, first[p.l1], p.fit_settings())
    rows.append(row("both", p.l1, 0.0, sae, delta))
    for beta in p.kl_weights if layer == p.hook_layer else []:
        own = copy.deepcopy(sae)
        joint = p.joint_settings(kl_weight=beta)
        delta, _ = fit_joint(answers, own, survey, texts, split, first[p.l1], joint)
        rows.append(row("joint", p.l1, beta, own, delta))
    return rows


def settings_hash(profile: Profile) -> str:
    """Of everything in the profile that a row depends on, other than its layer and fold."""
    values = asdict(profile)
    shown = ("output", "sae", "sae_steps", "select_layers", "budgets", "tilts", "crossed", "strengths", "refit_epochs")
    for key in (*shown, "open_question", "bootstrap", "top_latents", "scratch_steps", "kl_weight"):
        del values[key]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def select(profile: Profile) -> pd.DataFrame:
    """Add to selection.csv the layers and folds that it lacks, one after another, and return the table.

    Raises FileNotFoundError before chapter 03 has run, whose texts the SAEs are trained on.
    """
    run = open_run(profile.output)
    path, source = run.results / "selection.csv", run.work / "texts.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source}: the texts that SAEs are trained on are not there; run `make book` first")
    settings = settings_hash(profile)
    known = grid_of(path)
    known = known[(known["settings"] == settings) & known["layer"].isin(profile.select_layers)]
    done = set(zip(known["layer"], known["fold"], strict=True))
    missing = [(layer, fold) for layer in profile.select_layers for fold in range(profile.folds)]
    missing = [pair for pair in missing if pair not in done]
    if missing:
        lm = load_language_model(profile.model, profile.dtype)
        survey = load_survey(profile.survey, profile.min_respondents, profile.attributes, profile.max_questions)
        texts = read_json(source)
        check_fields(texts, {"training": list, "prompts": list, "held_out": list}, str(source), more=True)
        layers = Layers(profile, lm, texts | {"training": texts["training"] + texts["prompts"]})
        splits = by_question(question_folds(survey, profile.folds, profile.seed))
    for layer in dict.fromkeys(layer for layer, _ in missing):
        sae, answers = layers.sae(layer), AnswerPath(lm, survey.questions, layer, profile.option_orders)
        for fold in (fold for one, fold in missing if one == layer):
            rows = rows_of_split(profile, survey, layers, layer, answers, sae, splits[fold])
            found = pd.DataFrame(rows).assign(fold=fold, settings=settings)
            known = found if known.empty else pd.concat([known, found], ignore_index=True)
            write_csv(path, known[COLUMNS].sort_values(["layer", "fold"], kind="stable"))
    return grid_of(path)


def grid_of(path: Path) -> pd.DataFrame:
    """The grid that `select` wrote to selection.csv; empty, with its columns, where it was never run."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    numbers = [column for column in COLUMNS if column not in ("mode", "settings")]
    return read_csv(path, COLUMNS, numbers, names=COLUMNS[:5] + COLUMNS[-1:], dtype={"settings": str})


def chosen_by_fold(grid: pd.DataFrame) -> pd.DataFrame:
    """What each fold's validation questions would choose: layer, both parts or Delta_shared alone, L1, beta."""
    rows = []
    for fold, part in grid.groupby("fold"):
        fits, joint = part[part["mode"].isin(["shared", "both"])], part[part["mode"] == "joint"]
        best = fits.loc[fits["kl"].idxmin()]
        row = {"fold": fold, "layer": best["layer"], "parts": best["mode"], "γ": best["l1"], "latents": best["latents"]}
        beta = joint.loc[joint["kl"].idxmin(), "kl_weight"] if len(joint) else float("nan")
        rows.append({**row, "KL": best["kl"], "β (joint)": beta})
    return pd.DataFrame(rows, columns=["fold", "layer", "parts", "γ", "latents", "KL", "β (joint)"]).set_index("fold")


def means(grid: pd.DataFrame) -> pd.DataFrame:
    """Mean over folds for each fit of the grid."""
    by = ["layer", "mode", "l1", "kl_weight"]
    return grid.groupby(by, sort=False)[["kl", "latents", "fvu"]].mean().reset_index()
