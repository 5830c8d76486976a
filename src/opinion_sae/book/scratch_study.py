"""What the study of constant offsets found on SAEs trained along from scratch, as chapter 05 shows it."""

from __future__ import annotations

from matplotlib.figure import Figure

from opinion_sae.book import sentences
from opinion_sae.book.figures import training
from opinion_sae.book.figures.style import nothing
from opinion_sae.book.study_tables import ABSENT, StudyTables


def scratch(study: StudyTables) -> str:
    """`joint_training` of the SAE from scratch."""
    return ABSENT if study["scratch"].empty else sentences.joint_training(study["scratch"])


def scratch_figure(study: StudyTables) -> Figure:
    """The training of the SAE from scratch."""
    return nothing(ABSENT) if study["scratch"].empty else training.joint_training(study["scratch"])


def joint_costs(study: StudyTables) -> str:
    """What joint training from scratch costs in reconstruction."""
    return ABSENT if study["joint"].empty else sentences.joint_costs(study["joint"].set_index("training"))
