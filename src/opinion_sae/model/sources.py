"""Where the text for an SAE comes from, and how much from each: the profile's `texts`."""

from __future__ import annotations

import math

BUILT_IN = ("addresses", "prompts", "self")  # a folder and hf:<dataset> beside these


def parse_sources(texts: str | list[str]) -> dict[str, float]:
    """Each source and its share of the tokens, from `texts`: one source, or a list of '<source> <share>'.

    ['addresses 0.8', 'prompts 0.2'] or ['addresses 4', 'prompts 1'] give {'addresses': 0.8, 'prompts': 0.2}: shares
    are relative to their sum. Raises ValueError that names an entry without a positive share, or a source given twice.
    """
    if isinstance(texts, str):
        return {texts: 1.0}
    found: dict[str, float] = {}
    for entry in texts:
        source, _, share = entry.rpartition(" ")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if not source or not 0 < number < math.inf:
            raise ValueError(
                f"texts: {entry!r} must be a source and its share of the tokens, more than 0, such as 'addresses 0.8'"
            )
        if source in found:
            raise ValueError(f"texts: {source!r} is given twice")
        found[source] = number
    return {source: share / sum(found.values()) for source, share in found.items()}
