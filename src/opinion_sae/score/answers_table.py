"""`answers.csv`: what people answered, option by option, and what each method said they would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from opinion_sae.score.toplines import options_there
from opinion_sae.survey import Survey


def answers_table(
    survey: Survey, tables: Mapping[str, Sequence[Float[np.ndarray, "_ question option"]]]
) -> pd.DataFrame:
    """A row per question, option and group that answered it, in this order of the survey.

    Columns: `question` (its key), `option` (its words), `group`, `people` (the group's weighted share that chose it, 0
    to 1), `n_effective` (Kish's effective number of people behind the share), then per method its held-out probability,
    the mean over `tables`, which hold log p, one per seed. ValueError if a method has the name of a column.
    """
    answered = (survey.respondents > 0).T[:, None] & options_there(survey)[..., None]
    question, option, group = np.nonzero(answered)
    columns: dict[str, object] = {
        "question": [survey.questions[q].key for q in question],
        "option": [survey.questions[q].options[o] for q, o in zip(question, option, strict=True)],
        "group": np.array(survey.groups, object)[group],
        "people": survey.shares[group, question, option],
        "n_effective": survey.effective[group, question],
    }
    for method, seeds in tables.items():
        if method in columns:
            raise ValueError(f"method {method!r} has the name of another column; rename it")
        mean = np.mean([np.exp(table.astype(float)) for table in seeds], axis=0)
        columns[method] = np.broadcast_to(mean, survey.counts.shape)[group, question, option]
    return pd.DataFrame(columns)
