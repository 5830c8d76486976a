"""What a run of the book keeps for `opinion-sae predict`: the SAE, the offset, and what its intervals hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from opinion_sae.artifacts import write_json
from opinion_sae.book.coverage import said_of
from opinion_sae.book.paths import Run
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.coverage import coverage_table
from opinion_sae.score.toplines import from_toplines
from opinion_sae.survey import Survey, question_clusters
from opinion_sae.use.published_run import LARGEST_SAE, keep_published, load_published_run


def keep_for_predict(
    run: Run,
    answers: AnswerPath,
    offset: ReadingDelta,
    survey: Survey,
    held_out: Float[np.ndarray, "group question option"],
    folds: Int[np.ndarray, "question"],
    labels: Mapping[int, str],
) -> str:
    """Write `published/`, `hash-published.json` and `numbers-predict.json` to the work folder; sentences on it.

    An SAE above the limit is not kept: then there are no hashes, and the intervals are measured all the same.
    """
    size = 2 * sum(tensor.numel() for tensor in offset.sae.state_dict().values())  # in float16
    if size > LARGEST_SAE:
        tables = {"alone": held_out, "toplines": from_toplines(survey, held_out)}
        hashes, coverage = {}, coverage_table(survey, tables, question_clusters(survey), folds)
        said = f"its SAE takes {size / 1e6:.1f} MB in float16, and at most {LARGEST_SAE / 1e6:.0f} MB are kept"
        said = f"This run is not kept for `opinion-sae predict`: {said}."
    else:
        hashes = keep_published(run.work / "published", answers, offset, survey, held_out, folds, labels)
        coverage = load_published_run(run.work / "published").coverage
        said = f"Kept for `opinion-sae predict`: {', '.join(sorted(hashes))} ({size / 1e6:.1f} MB of them the SAE)."
    write_json(run.work / "hash-published.json", hashes)
    held = said_of(coverage)
    write_json(run.work / "numbers-predict.json", {f"coverage_{task}": f"{task}: {one}" for task, one in held.items()})
    return "\n\n".join([said, *(f"Task *{task}*: {one}." for task, one in held.items())])
