"""Pages of lists: for each axis of the reading offset what it divides, the cards of the latents that it reads most and
a table of all; and tables of all that are written, by weight. Each latent's own page is `latent_pages`'.

Made from `cards.json`, chapter 22's `causal_audit.csv` and the study `audit`, when the book is staged. Whatever comes
from questions, texts or tokens is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv
from opinion_sae.book.latent_pages import MISSING, Card, address, contexts, described, facts, fits, number
from opinion_sae.book.markdown import captioned
from opinion_sae.book.recorded import read_fields
from opinion_sae.book.sentences import counted, with_ends
from opinion_sae.book.study_tables import of_sae

FILE, AUDIT = "cards.json", "causal_audit.csv"
LABELS = "labels.csv"  # of `opinion-sae label`
SCORES = ("detection", "random_detection", "fuzzing", "random_fuzzing")
COLUMNS = ("latent", "by", "judge", "label", *SCORES, "contexts", "marks", "sae")
CARDS = "cards"  # the folder of the pages
ON_A_PAGE = 128  # latents that are written
STRONGEST = 10  # latents listed at either end of an axis, with their cards
HEAD = ["Weight", "Latent", "Label", "Label's score", "Fits"]
SAID = "Latents by weight, with labels by statistics and how well these detect them on other texts (0.5 is chance)"
ANCHORS = {"read": "latent", "write": "written"}  # of a latent in a list, with its number
AUDITED = ["role", "latent", "meant_for", "strength", "on_target", "bounded_from", "bounded_to"]  # of causal_audit.csv


def complete(results: Path) -> dict[str, Any]:
    """What chapter 09 left in a run's results, `axes` and `cards`, with the labels of `labels.csv` and what the audit
    found on each card; both empty where it left nothing. ValueError for files that are not of their form."""
    path, audit = results / FILE, results / AUDIT
    if not path.is_file():
        return {"axes": [], "cards": []}
    found = read_cards(path)
    check_fields(found, {"axes": list}, str(path), more=True)
    for n, axis in enumerate(found["axes"]):
        check_fields(axis, {"axis": int}, f"{path}: axis {n}", more=True)
    labels = read_labels(results, found.get("sae", ""))
    turned = of_sae("audit", results, found.get("sae", ""))["written"]
    read = read_csv(audit, AUDITED) if audit.is_file() else turned[:0]
    audited = on_cards(pd.concat([read[read["role"] == "read"], turned]))
    cards = []
    for card in found["cards"]:
        rows = labels[labels["latent"] == card["latent"]]
        others = rows.astype(object).where(rows.notna(), None).to_dict("records")
        cards.append(card | {"audit": audited.get((card["role"], card["latent"]), MISSING), "labels": others})
    return {"axes": found["axes"], "cards": cards}


def pages(found: Mapping[str, Any]) -> dict[str, str]:
    """Markdown of each page of lists by its name, of what `complete` returns."""
    cards = found["cards"]
    known = {card["latent"] for card in cards}
    made = {
        f"{CARDS}/axis-{axis['axis']}": _page(axis, [c for c in cards if c["axis"] == axis["axis"]], known)
        for axis in found["axes"]
    }
    written = [card for card in cards if card["role"] == "write"]
    parts = [written[start : start + ON_A_PAGE] for start in range(0, len(written), ON_A_PAGE)]
    return made | {f"{CARDS}/{_page_of(n)}": _written(n, parts) for n in range(len(parts))}


def read_cards(path: Path) -> dict[str, Any]:
    """What chapter 09 left in `cards.json`; ValueError unless each card says what it is a card of."""
    found = read_fields(path, {"cards": list})
    for n, card in enumerate(found["cards"]):
        check_fields(card, {"role": str, "latent": int, "axis": int | None}, f"{path}: card {n}", more=True)
    if not isinstance(found.get("sae", ""), str):
        raise ValueError(f"{path}: sae is {found['sae']!r}, not a hash")
    return found


def places(cards: Sequence[Card]) -> dict[tuple[str, int], str]:
    """Where the lists have each of all cards, by role and latent, beside the other pages of lists."""
    found = {("read", card["latent"]): f"axis-{card['axis']}" for card in cards if card["role"] == "read"}
    written = [card["latent"] for card in cards if card["role"] == "write"]
    found |= {("write", latent): _page_of(n // ON_A_PAGE) for n, latent in enumerate(written)}
    return {(role, latent): f"{page}.html#{ANCHORS[role]}-{latent}" for (role, latent), page in found.items()}


def _page_of(n: int) -> str:
    """The name of a page of what is written, counted from 0."""
    return f"written-{n + 1}" if n else "written"


def read_labels(results: Path, sae: str | None = None) -> pd.DataFrame:
    """`labels.csv` of a results folder, or its rows for the SAE of this hash; without rows if there is none. ValueError
    for one that is not of its form."""
    path = results / LABELS
    if not path.exists():
        return pd.DataFrame({name: [] for name in COLUMNS})
    numbers = ("latent", *SCORES, "contexts", "marks")
    empty = {"keep_default_na": False, "na_values": {name: [""] for name in numbers}}  # a label may be 'None'
    text = {"label": str, "by": str, "judge": str, "sae": str}
    table = read_csv(path, COLUMNS, numbers, ("latent", "by"), dtype=text, **empty)
    return table if sae is None else table[table["sae"] == sae]


def on_cards(table: pd.DataFrame) -> dict[tuple[str, int], str]:
    """By role and latent what a card says: the shift of those meant, as it is and at the ends, and the range."""
    said: dict[Any, str] = {}
    for key, part in table.groupby(["role", "latent"]):
        of = {row["strength"]: row for row in part.to_dict("records")}
        one, ends = of[1], (max(of), min(of))
        shifts = ", ".join(f"{with_ends(of[end]['on_target'], None, None, 3)} at {end:g} times" for end in ends)
        said[key] = (
            f"moves {one['meant_for'].replace('; ', ', ')} by {with_ends(one['on_target'], None, None, 4)} places as "
            f"it is, {shifts}, in the direction meant; bounded "
            f"{range_said(float(one['bounded_from']), float(one['bounded_to']))}"
        )
    return said


def range_said(low: float, high: float) -> str:
    """'from -10 to 10', or that it is not even as it stands."""
    return "at no strength" if low == high else f"from {low:g} to {high:g}"


def _page(axis: Mapping[str, Any], cards: Sequence[Card], known: set[int]) -> str:
    n = axis["axis"]
    up, down = _ends(cards, n)
    shown = {card["latent"] for card in (*up, *down)}
    groups = [_group_row(*row) for row in axis["groups"]]
    rows = [[*_row(card, n, _linked(card, card["latent"] not in shown)), _again(card)] for card in cards]
    parts = [
        f"(axis-{n})=\n# Axis {n}: what it reads\n",
        f"{_md(axis['sentence'])}\n",
        "## Where groups stand\n",
        _table("Codes of the groups on this axis, mean over folds and range", ["Group", "Code", "Folds"], groups),
        "## Questions at the ends\n",
        _questions("Questions with the highest scores", axis["up"]),
        _questions("Questions with the lowest scores", axis["down"]),
        "## Latents with the largest weights\n",
        _table(SAID, HEAD, [_row(card, n, f"{{ref}}`{card['latent']} <{_anchor(card)}>`") for card in (*up, *down)]),
        "## Their cards\n",
        *(_card(card, known) for card in cards if card["latent"] in shown),
        f"## All latents\n\n{_count(cards)} Each has a page of its own.\n",
        _table("All latents of this axis by size of weight, as above", [*HEAD, "Found by other seeds"], rows),
    ]
    return "\n".join(parts)


def _written(n: int, parts: Sequence[Sequence[Card]]) -> str:
    """One of the pages of what is written, the largest weights first."""
    ranks = [f"{1 + k * ON_A_PAGE} to {k * ON_A_PAGE + len(part)}" for k, part in enumerate(parts)]
    others = [f"{{doc}}`{said} <{_page_of(k)}>`" for k, said in enumerate(ranks) if k != n]
    return (
        f"{'' if n else '(what-is-written)='}\n# What is written, {ranks[n]}\n\n"
        "Latents that the groups' own part of the offset writes, of the fit to all questions or of folds', the same on "
        f"every axis: {ranks[n]} by the size of their weights{'; the others: ' if others else ''}{', '.join(others)}.\n"
        "Each has a page of its own.\nChapter {doc}`../chapters/22_causal_audit` turns those of the fit to all "
        "questions up and down.\n\n" + _table(SAID, HEAD, [_row(card, None, _linked(card, True)) for card in parts[n]])
    )


def _group_row(group: str, code: float, low: float, high: float) -> list[str]:
    return [_md(group), f"{code:+.2f}", f"{low:+.2f} to {high:+.2f}"]


def _questions(title: str, rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return f"{title}: none.\n"
    return _table(title, ["Score", "Question", "Topic"], [[f"{s:+.2f}", _md(q), _md(t)] for q, t, s in rows])


def _ends(cards: Sequence[Card], axis: int) -> tuple[list[Card], list[Card]]:
    """Those with the largest weights above 0 and below, from the highest to the lowest."""
    order = sorted(cards, key=lambda card: -card["weights"][axis - 1])
    up = [card for card in order if card["weights"][axis - 1] > 0][:STRONGEST]
    return up, [card for card in order if card["weights"][axis - 1] < 0][-STRONGEST:]


def _row(card: Card, axis: int | None, link: str) -> list[str]:
    """Of a table with `HEAD`: an axis' weight, or that of what all of them write."""
    weight = f"{card['weight']:+.3g}" if axis is None else f"{card['weights'][axis - 1]:+.2f}"
    return [weight, link, _md(card["label"]), number(card["label_score"]), fits(card)]


def _anchor(card: Card) -> str:
    return f"{ANCHORS[card['role']]}-{card['latent']}"


def _linked(card: Card, named: bool) -> str:
    """A link to the latent's page, as HTML, since Sphinx knows no such page; `named` where no card has the anchor."""
    name = f'id="{_anchor(card)}" ' if named else ""
    return f'<a {name}href="{address(card["latent"])}">{card["latent"]}</a>'


def _again(card: Card) -> str:
    return "not known" if card["seeds"] is None else f"{card['seeds']} of {card['others']}"


def _count(cards: Sequence[Card]) -> str:
    have = "has its" if len(cards) == 1 else "have their"
    return f"{counted(len(cards), 'latent')} {have} largest weight on this axis."


def _card(card: Card, known: set[int]) -> str:
    """A heading that can be linked to, and the card as HTML."""
    head = f"({_anchor(card)})=\n### Latent {card['latent']}: {_md(card['label']) or 'no label'}\n"
    body = described(facts(card, known)) + contexts(card, "h4")
    return f'{head}\n```{{raw}} html\n<div class="latent-card">{body}</div>\n```\n'


def _md(text: str) -> str:
    """Text from outside as Markdown that says the same: what could be markup is escaped, on one line."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|$~:&\"'" and not c.isalnum() else c for c in flat)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " :-- |" * len(head)]
    return captioned(caption, [*lines, *("| " + " | ".join(row) + " |" for row in rows)]) if rows else "None.\n"
