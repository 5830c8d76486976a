"""Tables as the book shows them: a caption, heads with units, names of methods, intervals in their cell; sentences."""

from __future__ import annotations

import re
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from opinion_sae.score.names import NAMES, label

WIDEST = 12  # columns
NUMBER = re.compile(r"$|[-+]?[\d.]|too few |not (measured|used)")  # how a cell starts that stands to the right
INTERVAL = re.compile(r"\(([^()\s]+) to ([^()\s]+)\)")  # in one piece on a phone
HEADS = {
    "accuracy": "factual accuracy",
    "accuracy_change": "accuracy, change",
    "alignment_change": "alignment, change",
    "ce_ablated": "CE with zeros (nats)",
    "ce_model": "CE of the model as it is (nats)",
    "ce_recovered": "CE recovered",
    "ce_spliced": "CE with the SAE's output (nats)",
    "dead_fraction": "latents silent on held-out text (share)",
    "difference": "difference (nats)",
    "effect": "effect (nats)",
    "entropy": "entropy (nats)",
    "fvu": "variance unexplained",
    "group_kl_closed": "group KL closed",
    "fvu_at_answers": "variance unexplained at the answers",
    "fvu_at_questions": "variance unexplained at the questions",
    "kl": "KL (nats)",
    "kl_at_1": "KL at strength 1 (nats)",
    "kl_change": "KL, change (nats)",
    "l0": "latents active on a token (L0)",
    "l0_at_answers": "latents active at the answers (L0)",
    "latents_at_answers": "latents active at any of the answers",
    "kl_difference": "KL, difference (nats)",
    "minus direct fit": "minus direct fit (nats)",
    "n_questions": "questions",
    "n_seeds": "seeds",
    "next_token_kl": "next-token KL (nats)",
    "option_mass": "on option letters",
    "order_tv": "TV between orders",
    "others_kl": "others' KL (nats)",
    "others_kl_change": "others' KL, change (nats)",
    "perplexity_ratio": "perplexity, ratio",
    "test_kl": "test KL (nats)",
    "text_loss": "text loss (nats)",
    "tv": "total variation",
}


class Link(NamedTuple):
    """A cell that leads somewhere."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text


class Shown(NamedTuple):
    """What a cell leaves on its page: html, or a sentence."""

    html: str | None
    text: str  # beside html its caption

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        given = {"text/html": self.html} if self.html else {"text/markdown": self.text}
        return {"text/plain": self.text} | given


def sentence(text: str) -> Shown:
    """A sentence for a page, with a capital at its start."""
    return Shown(None, text[:1].upper() + text[1:])


def table(frame: pd.DataFrame, caption: str, digits: int | None = 3) -> Shown:
    """The rows of a frame, its index first, for a page; without `digits` numbers have three significant ones.

    `x`, `x_low` and `x_high`, or `low` and `high` after a column, become one column 'x (low to high)'. Columns `method`
    and `reference` show the methods' labels; a sentence where there are no rows. Raises ValueError above `WIDEST`
    columns.
    """
    if not len(frame):
        return sentence(f"Nothing to show: {caption}")
    flat = _flat(frame)
    columns = {name: _cells(flat, name, digits) for name in flat if not _is_end(flat, name)}
    if len(columns) > WIDEST:
        raise ValueError(f"{caption}: {len(columns)} columns, at most {WIDEST} can be read: {list(columns)}")
    right = {name: all(NUMBER.match(str(text)) for text in cells) for name, cells in columns.items()}
    heads = "".join(_cell("th", head(name), right[name]) for name in columns)
    rows = [
        "<tr>" + "".join(_cell("td", text, right[name]) for name, text in zip(columns, row, strict=True)) + "</tr>"
        for row in zip(*columns.values(), strict=True)
    ]
    about = f'class="typeset" role="region" tabindex="0" aria-label="{escape(caption)}"'
    body = f"<thead><tr>{heads}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"
    return Shown(f"<div {about}>\n<table><caption>{escape(caption)}</caption>\n{body}</table>\n</div>", caption)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """The index, unless it only counts, as columns; heads of two levels in one, 'block: name'."""
    counts = frame.index.nlevels == 1 and frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
    flat = frame.copy() if counts else frame.reset_index(names=[name or " " for name in frame.index.names])
    flat.columns = [": ".join(filter(None, name)) if isinstance(name, tuple) else str(name) for name in flat]
    return flat


def head(name: str) -> str:
    """What stands above a column; of a method its label."""
    block, _, last = name.rpartition(": ")
    text = label(last) if last in NAMES else HEADS.get(last, last.replace("_", " ") if last.isascii() else last).strip()
    return f"{block}: {text}" if block else text


def _ends(flat: pd.DataFrame, name: str) -> tuple[str, str] | None:
    """The two columns that hold the interval of one."""
    names = list(flat)
    block = name[: len(name) - len(name.rpartition(": ")[2])]
    own, after = (f"{name}_low", f"{name}_high"), (f"{block}low", f"{block}high")
    if set(own) <= set(names):
        return own
    place = names.index(name) + 1
    return after if tuple(names[place : place + 2]) == after else None


def _is_end(flat: pd.DataFrame, name: str) -> bool:
    return any(name in (_ends(flat, other) or ()) for other in flat if other != name)


def _cells(flat: pd.DataFrame, name: str, digits: int | None) -> list[str | Link]:
    counts = name.rpartition(": ")[2].startswith("latents")
    values: list[str | Link] = [_count(value) if counts else _text(value, digits) for value in flat[name]]
    if name.rpartition(": ")[2] in ("method", "reference"):
        return [label(str(value)) for value in values]
    ends = _ends(flat, name)
    if ends is None:
        return values
    low, high = ([_text(value, digits) for value in flat[end]] for end in ends)
    return [f"{v} ({a} to {b})" if a else v for v, a, b in zip(values, low, high, strict=True)]


def _text(value: Any, digits: int | None) -> str | Link:
    """Empty for what is missing; never '-0.000'."""
    if isinstance(value, Link):
        return value
    if not isinstance(value, float | np.floating):
        return "" if value is None else str(value)
    if np.isnan(value):
        return ""
    if digits is not None and abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if digits is None else f"{round(float(value), digits) + 0.0:.{digits}f}"


def _count(value: Any) -> str | Link:
    """A count, or a mean of counts: a whole number as one, another with one decimal."""
    if isinstance(value, float | np.floating) and not np.isnan(value):
        return f"{value:.0f}" if value >= 1000 or value == round(value) else f"{value:.1f}"
    return _text(value, None)


def unbroken(text: str) -> str:
    """The text with every interval in one piece."""
    return INTERVAL.sub("(\\1\u00a0to\u00a0\\2)", text)


def _cell(tag: str, text: str | Link, right: bool) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    kind = ' class="number"' if right else ""
    shown = unbroken(escape(str(text)))
    if isinstance(text, Link):
        shown = f'<a href="{escape(text.address)}">{shown}</a>'
    return f"<{tag}{scope}{kind}>{shown}</{tag}>"
