"""The tables of the study of specialised SAEs, from the parts that are there; intervals are over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized

import numpy as np
import pandas as pd

from opinion_sae.score.metrics import ENDS, as_cells
from opinion_sae.studies import Parts
from opinion_sae.studies.dictionary import FREQUENCIES, QUANTILES, RANKS
from opinion_sae.studies.seeds import over_questions, over_seeds

SAE = ["start", "strategy", "tilt"]
MEASURES = {  # of `dictionary.csv`: what its rows are numbered by
    "covered": [f"from {count}" for count in FREQUENCIES],
    "error": [f"from {rank}" for rank in RANKS],
    **{name: [f"{q:g}" for q in QUANTILES] for name in ("entropy", "maximum", "cosine", "own")},
}
UNEXPLAINED = ("fvu_text", "fvu_questions", "fvu_answers", "live")
Kind = tuple[str, str, float]
Found = Mapping[Kind, Sequence[Mapping[str, np.ndarray]]]  # parts of one kind of SAE, one per seed


def about(kind: Kind, of: Sized) -> dict[str, object]:
    """The first columns of a row."""
    return {**dict(zip(SAE, kind, strict=True)), "n_seeds": len(of)}


def quality(found: Found, latents: Sequence[int]) -> pd.DataFrame:
    """L0 and perplexity with the SAE spliced in, by latents active on a token; first the model's own."""
    columns = "l0_text", "perplexity_text", "l0_questions", "perplexity_questions"
    rows = []
    for kind, of in found.items():
        if "plain" in of[0]:
            plain = of[0]["plain"][:, None]
            own = over_seeds("perplexity_text", plain[0]) | over_seeds("perplexity_questions", plain[1])
            rows.append({**about(("model", "", 0.0), of), "k": 0, **own})
        for number, k in enumerate(latents):
            values = np.stack([part["splice"][2 * number : 2 * number + 2].ravel() for part in of])
            cells = {"k": k}
            for column, name in enumerate(columns):
                cells |= over_seeds(name, values[:, column])
            rows.append(about(kind, of) | cells)
    return pd.DataFrame(rows, columns=[*SAE, "n_seeds", "k", *(f"{name}{end}" for name in columns for end in ENDS)])


def unexplained(found: Found) -> pd.DataFrame:
    """Unexplained variance at held-out text, at the tokens of held-out questions and at the last of their prompts, and
    the share of latents that fire on any of these tokens."""
    rows = []
    for kind, of in found.items():
        values = np.stack([part["fvu"] for part in of])
        cells = [over_seeds(name, values[:, column]) for column, name in enumerate(UNEXPLAINED)]
        rows.append(about(kind, of) | {key: value for cell in cells for key, value in cell.items()})
    return pd.DataFrame(rows, columns=[*SAE, "n_seeds", *(f"{name}{end}" for name in UNEXPLAINED for end in ENDS)])


def dictionary(found: Found) -> pd.DataFrame:
    """The rest of what was measured, one number a row."""
    rows = []
    for kind, of in found.items():
        for measure, places in MEASURES.items():
            if measure in of[0]:
                values = np.stack([part[measure] for part in of])
                rows += [
                    {**about(kind, of), "measure": measure, "place": place, **over_seeds("value", values[:, number])}
                    for number, place in enumerate(places)
                ]
    return pd.DataFrame(rows, columns=[*SAE, "n_seeds", "measure", "place", *(f"value{end}" for end in ENDS)])


def gaps(found: Sequence[Found], seed: int) -> pd.DataFrame:
    """Gap correlation and group KL closed of `delta-reading` on each SAE by the number of latents that it may read (0:
    all), and their difference from the book's SAE.

    Means over seeds, with 95 % intervals over questions and seeds; the same questions are drawn for all SAEs, so that
    the difference is paired.
    """
    rows, general = [], {}
    for one in found:
        general |= next(iter(one.get(("general", "", 0.0), ())), {})
        for kind, of in one.items():
            for count in sorted({count for part in of for count in part}, key=int):
                values = np.stack([part[count] for part in of if count in part])
                cells: dict[str, object] = {"latents": int(count)}
                for number, measure in enumerate(("gap_r", "group_kl_closed")):
                    cells |= over_questions(measure, values[:, number], seed)
                    if count in general:
                        gain = values[:, number] - general[count][number]
                        cells |= over_questions(f"{measure}_gain", gain, seed)
                rows.append(about(kind, values) | cells)
    columns = [f"{name}{gain}{end}" for name in ("gap_r", "group_kl_closed") for gain in ("", "_gain") for end in ENDS]
    return pd.DataFrame(rows, columns=[*SAE, "n_seeds", "latents", *columns])


def labels(found: Found) -> pd.DataFrame:
    """Mean detection score of latents' labels, with 1.96 standard errors over latents to either side; none of an SAE of
    which fewer than two were scored."""
    rows = []
    for kind, of in found.items():
        scores = np.concatenate([part["detection"] for part in of])
        if len(scores) < 2:
            continue
        mean, error = float(scores.mean()), 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5
        cells = as_cells("detection", mean, mean - error, mean + error)
        rows.append(about(kind, of) | {"latents": len(scores)} | cells)
    return pd.DataFrame(rows, columns=[*SAE, "n_seeds", "latents", *(f"detection{end}" for end in ENDS)])


def places(part: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Decoder rows on the first two principal axes of the book's SAE; `explained`: by either, of its variance."""
    rows = []
    for name in part:
        if name not in ("row", "explained"):
            cells = zip(part["row"].tolist(), *part[name].T.tolist(), strict=True)
            rows += [{"sae": name, "row": row, "first": first, "second": second} for row, first, second in cells]
    first, second = part["explained"]
    return pd.DataFrame(rows).assign(first_explained=first, second_explained=second)


def by_kind(parts: Parts, kinds: Mapping[str, Kind]) -> Found:
    """Parts by kind of SAE, in the order of `kinds` (the kind of each item by its name)."""
    found: dict[Kind, list[Mapping[str, np.ndarray]]] = {}
    for name, kind in kinds.items():
        if name in parts:
            found.setdefault(kind, []).append(parts[name])
    return found
