r"""`diff-means`: the difference of persona means, added at one strength (Rimsky et al. 2024).

    x_g = x + s (mean_q x | told to be of g   -   mean over groups of the same)

Published for pairs of a text with a behaviour and one without; a group's other side is the mean of all groups. The
stream is read at the last token of a few training questions under each persona (`personas.py`), and s is chosen on
validation, given toplines. Chapter 06 has the same direction as a control, its strength, none included, chosen by KL
alone (`controls.py`).
"""

from __future__ import annotations

from opinion_sae.delta.held_out import Split
from opinion_sae.delta.offsets import DenseOffset
from opinion_sae.methods.contract import STRENGTHS, Bench, Outcome, best_of, steered


def diff_means(bench: Bench) -> Outcome:
    """One direction per group, one strength for all."""
    groups, width = bench.survey.groups, bench.answers.lm.width

    def fit(split: Split) -> DenseOffset:
        means = bench.personas_of(split).mean(1)
        v, nothing = means - means.mean(0), DenseOffset(groups, width)
        return best_of(bench, split, [nothing.with_parts(deviation=s * v) for s in STRENGTHS])

    return steered(bench, fit, len(groups) * width)
