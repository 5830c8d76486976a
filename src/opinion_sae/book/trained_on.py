"""What the study of training on found (`studies.trained_on`), as chapter 11 shows it: its tables and a sentence."""

from __future__ import annotations

import pandas as pd

from opinion_sae.book.gap_report import measured
from opinion_sae.book.study_tables import StudyTables, note

KL = ["train_kl_last", "validation_kl_start", "validation_kl_last"]


def trained_on_sentence(study: StudyTables) -> str:
    """Whether training on helps, in how many splits, what L1 leaves, and what a step costs."""
    if any(table.empty for table in study.tables.values()):
        return note(study)
    splits, gaps, step = study["splits"], study["gaps"], study["steps"].iloc[0]
    of = {row["method"]: row for _, row in gaps[gaps["task"] == "toplines"].iterrows()}
    before, after = of["before"], of["after"]
    chosen = splits[splits["chosen"]]
    kept = int((chosen["epoch"] > 0).sum())
    last = splits.groupby(["rate", "l1"])[KL].mean().reset_index()
    most = last.iloc[int(last["train_kl_last"].to_numpy().argmin())]
    change = f"from {measured(before, 'gap_r')} to {measured(after, 'gap_r')} and the share of the group KL closed "
    change += f"from {measured(before, 'group_kl_closed')} to {measured(after, 'group_kl_closed')}"
    stays = f"stays at {measured(before, 'gap_r')} and the share closed at {measured(before, 'group_kl_closed')}"
    return (
        f"The validation questions keep what training on changes in {kept or 'none'} of {len(chosen)} splits, and the "
        f"gap correlation {f'goes {change}' if kept else stays}. "
        f"Where the training questions are fitted best (learning rate {most['rate']:g}, γ = {most['l1']:g}), their KL "
        f"comes down to {most['train_kl_last']:.4f} nats in the last epoch, that of validation questions goes from "
        f"{most['validation_kl_start']:.4f} to {most['validation_kl_last']:.4f}, means over splits. "
        f"A step takes {step['ratio']:.2f} times as long as one of the constant Δ for the same groups "
        f"({step['least']:.2f} to {step['most']:.2f} over rounds, in turn)."
    )


def fits_sentence(study: StudyTables) -> str:
    """How many fits end with a higher validation KL than they began with, and how many keep their start."""
    splits = study["splits"]
    if splits.empty:
        return note(study)
    worse = int((splits["validation_kl_last"] > splits["validation_kl_start"]).sum())
    return (
        f"Of {len(splits)} fits {worse} end with a higher validation KL than they began with, and "
        f"{int((splits['epoch'] == 0).sum())} keep their start, epoch 0."
    )


def trained_on_page(study: StudyTables) -> pd.DataFrame:
    """A row per split and L1 weight: the epoch kept (0 is the start), KL on validation, and entries that are not 0."""
    heads = {"validation_kl_start": "validation KL at the start", "train_kl_last": "training KL, last epoch"}
    heads |= {"validation_kl_last": "validation KL, last epoch", "epoch": "epoch kept", "l1": "γ"}
    heads |= {"entries_a": "entries of a kept", "entries_b": "entries of b kept"}
    return study["splits"].drop(columns=["validation_kl", "entries_c", "entries_deviation"]).rename(columns=heads)
