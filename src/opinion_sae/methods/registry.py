"""Every method of the bench by name: its kind, and how it is fitted. What it is called stands in `score/names.py`.

Those without a fit, whose SAE is trained along, come from the chapter that trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from opinion_sae.delta.fit import fit_dense
from opinion_sae.delta.held_out import HeldOut, held_out
from opinion_sae.delta.offsets import Offset
from opinion_sae.delta.reading import ReadingOffset
from opinion_sae.methods import asked, baselines, from_features, readout, suite
from opinion_sae.methods.cast import cast
from opinion_sae.methods.contract import Bench, Method, Outcome
from opinion_sae.methods.corrsteer import corrsteer
from opinion_sae.methods.diff_means import diff_means
from opinion_sae.methods.gpo import gpo
from opinion_sae.methods.kernel_ridge import DEGREES
from opinion_sae.methods.loreft import loreft
from opinion_sae.methods.option_ends import gain_option_ends
from opinion_sae.methods.output_score import output_score, output_score_fitted
from opinion_sae.methods.persona_vector import persona_vector
from opinion_sae.methods.pooled import pooled
from opinion_sae.methods.purified import purified
from opinion_sae.methods.reading import held_out_reading, read_outs
from opinion_sae.methods.sae_ssv import sae_ssv
from opinion_sae.methods.tiers import tiered
from opinion_sae.methods.yapo import yapo

KINDS = {
    "reference": "references, which steer nothing",
    "prompt": "texts before the question",
    "vector": "changes of the stream",
    "latents": "changes of latents",
    "reading": "changes that read the question",
    "read only": "read-outs of the question",
    "weights": "changes of weights",
}


class Entry(NamedTuple):
    """A method's kind, a key of `KINDS`, and its fit."""

    kind: str
    fit: Method | None


def _held(fit: Callable[[Bench], HeldOut]) -> Method:
    """A held-out fit of offsets; its parameters are those that are not 0."""

    def method(bench: Bench) -> Outcome:
        found = fit(bench)
        return Outcome(found.log_probs, found.offsets, (), _size(found.offsets))

    return method


def _size(offsets: Sequence[Offset]) -> int:
    """Numbers that are not 0, mean over splits."""
    sizes = [int((part != 0).sum()) for one in offsets for part in one.parameters()]
    return round(sum(sizes) / len(offsets))


def _of_two_stages(name: str) -> Method:
    def fit(bench: Bench) -> HeldOut:
        given = (bench.answers, bench.sae, bench.survey, bench.splits, bench.settings)
        return suite.first_stage(*given) if name == "shared-delta" else suite.two_stages(*given)[name]

    return _held(fit)


def _dense(bench: Bench) -> HeldOut:
    answers, survey, settings = bench.answers, bench.survey, bench.settings
    return held_out(answers, bench.splits, lambda split: fit_dense(answers, survey, split, settings))


class After:
    """An offset that reads, in the stream as a shared offset leaves it."""

    def __init__(self, first: Offset, then: ReadingOffset):
        self.first, self.then, self.groups, self.reads = first, then, then.groups, then.reads
        self.sae, self.mean = then.sae, getattr(then, "mean", None)

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        return self.then.steer(self.first.steer(x)[:, 0], read)


def _reading(name: str) -> Method:
    def method(bench: Bench) -> Outcome:
        given = (bench.answers, bench.sae, bench.survey, bench.splits, bench.settings)
        shared = bench.known.get("shared-delta") or suite.first_stage(*given).offsets
        read_out, own = read_outs(bench.answers, bench.sae, bench.survey, seed=bench.settings.seed)[name]
        bases = suite.bases_of(bench.answers, bench.splits, shared)
        found = held_out_reading([read_out] * len(bases), bases, own)
        steering = found.offsets
        if not own:
            steering = [After(base.shared, one) for base, one in zip(bases, found.offsets, strict=True) if base.shared]
        return Outcome(found.log_probs, steering, (), _size(found.offsets))

    return method


def _read_only(name: str) -> Method:
    def method(bench: Bench) -> Outcome:
        survey = bench.survey
        if name in ("words", "embedding"):
            candidates = from_features.text_candidates(survey)[name]
        else:
            candidates = from_features.all_candidates(survey, bench.tokens, bench.sae, bench.settings.seed)[name]
        tables, _ = from_features.read_only(survey, bench.splits, {name: candidates})
        width = max(features(bench.splits[0].train).shape[1] for features in candidates.values())
        return Outcome(tables[name], parameters=len(survey.groups) * DEGREES * (width + 1))

    return method


def _unembedding(bench: Bench) -> Outcome:
    found, rows = readout.unembedding(bench.answers, bench.survey, bench.splits)
    return Outcome(found, parameters=rows[0].numel())


def _calibrated(bench: Bench) -> Outcome:
    options = bench.answers.letters.shape[1]
    size = len(bench.survey.groups) * (1 + options + (options + 1) * options)
    return Outcome(readout.calibrated(bench.answers, bench.survey, bench.splits), parameters=size)


def _probe(bench: Bench) -> Outcome:
    options, d = bench.answers.letters.shape[1], bench.answers.lm.width
    size = len(bench.survey.groups) * (options * d + (options + 1) * options)
    return Outcome(readout.probe(bench.answers, bench.survey, bench.splits), parameters=size)


# in order of worth: what runs first
METHODS: Mapping[str, Entry] = {
    "unsteered": Entry("reference", lambda bench: Outcome(bench.answers.predict().numpy())),
    "uniform": Entry("reference", lambda bench: Outcome(baselines.uniform(bench.survey))),
    "position-prior": Entry("reference", lambda bench: Outcome(baselines.position_prior(bench.survey, bench.splits))),
    "direct-mean": Entry("read only", pooled("mean")),
    "direct-max": Entry("read only", pooled("max")),
    "direct-binary": Entry("read only", pooled("binary")),
    "delta-purified": Entry("latents", purified),
    "corrsteer": Entry("latents", corrsteer),
    "prompt-portray": Entry("prompt", asked.styled("portray")),
    "cast": Entry("vector", cast),
    "gpo": Entry("read only", gpo),
    "persona-vector": Entry("vector", persona_vector),
    "delta-reading": Entry("reading", _reading("delta-reading")),
    "prompt-toplines": Entry("prompt", asked.with_toplines),
    "output-score": Entry("latents", output_score),
    "output-score-fitted": Entry("latents", output_score_fitted),
    "tier-token": Entry("latents", tiered("token")),
    "loreft": Entry("vector", loreft),
    "delta-reading-64": Entry("reading", _reading("delta-reading-64")),
    "sae-ssv": Entry("latents", sae_ssv),
    "tier-constant": Entry("latents", tiered("constant")),
    "yapo": Entry("latents", yapo),
    "gain-option-ends": Entry("latents", gain_option_ends),
    "tier-prompt": Entry("latents", tiered("prompt")),
    "diff-means": Entry("vector", diff_means),
    "dense": Entry("vector", _held(_dense)),
    "delta": Entry("latents", _of_two_stages("delta")),
    "shared-delta": Entry("latents", _of_two_stages("shared-delta")),
    "dense-reading": Entry("reading", _reading("dense-reading")),
    "few-shot": Entry("prompt", asked.examples_shown),
    "prompt-qa": Entry("prompt", asked.styled("qa")),
    "prompt-bio": Entry("prompt", asked.styled("bio")),
    "prompt-best": Entry("prompt", asked.best_style),
    "lora": Entry("weights", asked.adapted),
    "words": Entry("read only", _read_only("words")),
    "embedding": Entry("read only", _read_only("embedding")),
    "calibrated": Entry("weights", _calibrated),
    "probe": Entry("read only", _probe),
    "unembedding": Entry("weights", _unembedding),
    "direct": Entry("read only", _read_only("direct")),
    "direct-dense": Entry("read only", _read_only("direct-dense")),
    "direct-dense-last": Entry("read only", _read_only("direct-dense-last")),
    "words+direct": Entry("read only", _read_only("words+direct")),
    "delta-joint": Entry("latents", None),
    "delta-reading-joint": Entry("reading", None),
}
