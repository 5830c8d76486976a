"""Every figure of the book, in one style; each function returns a matplotlib Figure.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; each series also has a marker or line style of
its own, so that the figures read in black and white.
"""

from opinion_sae.book.figures.answers import alignment, alignment_by_group, differences, group_distance, position_shares
from opinion_sae.book.figures.controls import against, claims
from opinion_sae.book.figures.dose import dose
from opinion_sae.book.figures.latents import latent_heatmap, latent_path, latent_path_by_group, tilt
from opinion_sae.book.figures.predictions import predictions
from opinion_sae.book.figures.published import compare_models, groups_by_model
from opinion_sae.book.figures.selection import doses, layer_grid
from opinion_sae.book.figures.side_effects import trade_off
from opinion_sae.book.figures.style import MARKS, STYLE, group_labels, matrix, reference_line, save_svg
from opinion_sae.book.figures.training import delta_training, joint_training, sae_training
from opinion_sae.score.names import rank

__all__ = [
    "MARKS",
    "STYLE",
    "against",
    "alignment",
    "alignment_by_group",
    "compare_models",
    "claims",
    "delta_training",
    "differences",
    "dose",
    "doses",
    "group_distance",
    "group_labels",
    "groups_by_model",
    "joint_training",
    "latent_heatmap",
    "latent_path",
    "latent_path_by_group",
    "layer_grid",
    "matrix",
    "position_shares",
    "predictions",
    "rank",
    "reference_line",
    "sae_training",
    "save_svg",
    "tilt",
    "trade_off",
]
