"""Pages of latents: for each axis of the reading offset what it divides, and a card for every latent that it reads; and
cards of all that it writes, by weight.

Made from `cards.json`, chapter 22's `causal_audit.csv` and the study `audit`, when the book is staged. Whatever comes
from questions, texts or tokens is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from opinion_sae.artifacts import check_fields, read_csv
from opinion_sae.book.markdown import captioned
from opinion_sae.book.profile import model_name
from opinion_sae.book.recorded import read_fields
from opinion_sae.book.sentences import counted, with_ends
from opinion_sae.book.study_tables import of_sae

FILE, AUDIT = "cards.json", "causal_audit.csv"
LABELS = "labels.csv"  # of `opinion-sae label`
SCORES = ("detection", "random_detection", "fuzzing", "random_fuzzing")
COLUMNS = ("latent", "by", "judge", "label", *SCORES, "contexts", "marks", "sae")
CARDS = "cards"  # the folder of the pages
ON_A_PAGE = 128  # latents that are written
STRONGEST = 10  # latents listed at either end of an axis
MISSING = "not measured"
ANCHORS = {"read": "latent", "write": "written"}  # of a card, with its latent
AUDITED = ["role", "latent", "meant_for", "strength", "on_target", "bounded_from", "bounded_to"]  # of causal_audit.csv


def pages(results: Path) -> dict[str, str]:
    """Markdown of each page by its name, from what chapter 09 left in a run's results; none where it left nothing."""
    path = results / FILE
    if not path.is_file():
        return {}
    found = read_cards(path)
    check_fields(found, {"axes": list}, str(path), more=True)
    for number, axis in enumerate(found["axes"]):
        check_fields(axis, {"axis": int}, f"{path}: axis {number}", more=True)
    labels = read_labels(results, found.get("sae", ""))
    places, audit = addresses(found["cards"]), results / AUDIT
    turned = of_sae("audit", results, found.get("sae", ""))["written"]
    at = {latent: place for (_, latent), place in sorted(places.items(), reverse=True)}  # where it is read, if it is
    read = read_csv(audit, AUDITED) if audit.is_file() else turned[:0]
    audited = on_cards(pd.concat([read[read["role"] == "read"], turned]))
    cards = []
    for card in found["cards"]:
        rows = labels[labels["latent"] == card["latent"]]
        others = rows.astype(object).where(rows.notna(), None).to_dict("records")
        cards.append(card | {"audit": audited.get((card["role"], card["latent"]), MISSING), "labels": others})
    made = {
        f"{CARDS}/axis-{axis['axis']}": _page(axis, [c for c in cards if c["axis"] == axis["axis"]], at)
        for axis in found["axes"]
    }
    written = [card for card in cards if card["role"] == "write"]
    parts = [written[start : start + ON_A_PAGE] for start in range(0, len(written), ON_A_PAGE)]
    return made | {f"{CARDS}/{_page_of(n)}": _written(n, parts, at) for n in range(len(parts))}


def read_cards(path: Path) -> dict[str, Any]:
    """What chapter 09 left in `cards.json`; ValueError unless each card says what it is a card of."""
    found = read_fields(path, {"cards": list})
    for number, card in enumerate(found["cards"]):
        check_fields(card, {"role": str, "latent": int, "axis": int | None}, f"{path}: card {number}", more=True)
    if not isinstance(found.get("sae", ""), str):
        raise ValueError(f"{path}: sae is {found['sae']!r}, not a hash")
    return found


def addresses(cards: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Where each of all cards stands, by role and latent, beside the other pages of cards."""
    found = {("read", card["latent"]): f"axis-{card['axis']}" for card in cards if card["role"] == "read"}
    written = [card["latent"] for card in cards if card["role"] == "write"]
    found |= {("write", latent): _page_of(n // ON_A_PAGE) for n, latent in enumerate(written)}
    return {(role, latent): f"{page}.html#{ANCHORS[role]}-{latent}" for (role, latent), page in found.items()}


def _page_of(number: int) -> str:
    """The name of a page of what is written, counted from 0."""
    return f"written-{number + 1}" if number else "written"


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


def labeler_name(by: str) -> str:
    """Who wrote or judged labels, in `labels.csv`: a model by its `model_name`, 'a at URL' and rules as they are."""
    return by if " at " in by else model_name(by)


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


def _page(axis: Mapping[str, Any], cards: Sequence[Mapping[str, Any]], at: Mapping[int, str]) -> str:
    number = axis["axis"]
    parts = [
        f"(axis-{number})=\n# Axis {number}: what it reads\n",
        f"{_md(axis['sentence'])}\n",
        "## Where groups stand\n",
    ]
    parts += [
        _table(
            "Codes of the groups on this axis, mean over folds and range",
            ["Group", "Code", "Folds"],
            [_group_row(*row) for row in axis["groups"]],
        )
    ]
    parts += ["## Questions at the ends\n", _questions("Questions with the highest scores", axis["up"])]
    parts += [_questions("Questions with the lowest scores", axis["down"]), "## Latents with the largest weights\n"]
    parts += [_ends(number, cards), "## Cards\n", f"{_count(cards)} The largest weights come first.\n"]
    return "\n".join([*parts, *(_card(card, at) for card in cards)])


def _written(number: int, pages: Sequence[Sequence[Mapping[str, Any]]], at: Mapping[int, str]) -> str:
    """One of the pages of what is written, the largest weights first."""
    cards = pages[number]
    ranks = [f"{1 + n * ON_A_PAGE} to {n * ON_A_PAGE + len(page)}" for n, page in enumerate(pages)]
    others = [f"{{doc}}`{said} <{_page_of(n)}>`" for n, said in enumerate(ranks) if n != number]
    parts = [
        f"{'' if number else '(what-is-written)='}\n# What is written, {ranks[number]}\n",
        f"Latents that the groups' own part of the offset writes, fitted to all questions, the same on every axis: "
        f"{ranks[number]} by the size of their weights{'; the others: ' if others else ''}{', '.join(others)}.\n"
        "Chapter {doc}`../chapters/22_causal_audit` turns them up and down.\n",
        "## In order of weight\n",
        _listed([(card["weight"], card) for card in cards], "+.3g"),
        "## Cards\n",
    ]
    return "\n".join([*parts, *(_card(card, at) for card in cards)])


def _group_row(group: str, code: float, low: float, high: float) -> list[str]:
    return [_md(group), f"{code:+.2f}", f"{low:+.2f} to {high:+.2f}"]


def _questions(title: str, rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return f"{title}: none.\n"
    return _table(title, ["Score", "Question", "Topic"], [[f"{s:+.2f}", _md(q), _md(t)] for q, t, s in rows])


def _ends(number: int, cards: Sequence[Mapping[str, Any]]) -> str:
    """The latents with the largest weights above 0 and below, side by side with their labels."""
    weight = {card["latent"]: card["weights"][number - 1] for card in cards}
    order = sorted(cards, key=lambda card: -weight[card["latent"]])
    up = [card for card in order if weight[card["latent"]] > 0][:STRONGEST]
    down = [card for card in order[::-1] if weight[card["latent"]] < 0][:STRONGEST]
    return _listed([(weight[card["latent"]], card) for card in (*up, *down[::-1])], "+.2f")


def _listed(weighted: Sequence[tuple[float, Mapping[str, Any]]], form: str) -> str:
    """Weights and labels, with a link to each card."""
    rows = [
        [
            format(weight, form),
            f"{{ref}}`{card['latent']} <{ANCHORS[card['role']]}-{card['latent']}>`",
            _md(card["label"]),
            _number(card["label_score"]),
        ]
        for weight, card in weighted
    ]
    said = "Latents by weight, with labels by statistics and how well these detect them on other texts (0.5 is chance)"
    return _table(said, ["Weight", "Latent", "Label", "Label's score"], rows) if rows else "None.\n"


def _count(cards: Sequence[Mapping[str, Any]]) -> str:
    have = "has its" if len(cards) == 1 else "have their"
    return f"{counted(len(cards), 'latent')} {have} largest weight on this axis."


def _card(card: Mapping[str, Any], at: Mapping[int, str]) -> str:
    """A heading that can be linked to, and the card as HTML: the one template."""
    latent, contexts = card["latent"], card["contexts"]
    by_axis = ", ".join(f"{n}: {w:+.2f}" for n, w in enumerate(card["weights"], 1) if w) or "0"
    moves = "; ".join(f"{escape(group)} {value:+.2g}" for group, value in card["pull"]) or "no group"
    rows = {
        **(
            {"Weight on each axis": by_axis}
            if card["role"] == "read"
            else {"Weight, on every axis": f"{card['weight']:+.3g}"}
        ),
        "Moves" if card["role"] == "read" else "Written on every question": moves,
        "Used by": f"{'the fit to all questions and ' if card['in_fit_to_all'] else ''}{counted(card['folds'], 'fold')}"
        f"; {_again(card)}",
        "Fires on": f"{_percent(contexts['questions']['rate'])} of the questions' tokens and "
        f"{_percent(contexts['texts']['rate'])} of the tokens in the SAE's texts",
        "Label's scores": f"detection {_number(card['label_score'])} (random latent {_number(card['random_score'])}), "
        f"fuzzing {_number(card['fuzzing_score'])} (random latent {_number(card['random_fuzzing_score'])}), on all of "
        "the texts that the label was not made from",
        **{f"Label by {escape(labeler_name(one['by']))}": _other_label(one) for one in card["labels"]},
        "Taken out": _taken_out(card),
        "Turned up and down": escape(card["audit"]),
        "Promotes": _tokens(card["promoted"]),
        "Suppresses": _tokens(card["suppressed"]),
        "Nearest decoder rows": ", ".join(_link(other, at) + f" ({cosine:.2f})" for other, cosine in card["nearest"]),
    }
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    shown = "".join(
        f"<h4>{title}</h4>{_contexts(contexts[place][part])}"
        for place, what in (("questions", "Questions"), ("texts", "The SAE's texts"))
        for part, title in (("top", f"{what}, strongest"), ("middle", f"{what}, middling"))
        if contexts[place][part]
    )
    head = f"({ANCHORS[card['role']]}-{latent})=\n### Latent {latent}: {_md(card['label']) or 'no label'}\n"
    return f'{head}\n```{{raw}} html\n<div class="latent-card"><dl>{facts}</dl>{shown}</div>\n```\n'


def _other_label(row: Mapping[str, Any]) -> str:
    """One of `opinion-sae label`, with the scores that its own judge gives it, and on how much."""
    said = [f"{name} {_number(row[name])} (random latent {_number(row[f'random_{name}'])})" for name in SCORES[::2]]
    judged = f"judged by {escape(labeler_name(row['judge']))} on {_some(row['contexts'], 'stretch', 'es')}"
    judged += f" and {_some(row['marks'], 'word', 's')} of these texts"
    if row["by"] == "statistics":
        judged += ", the same on which a model's labels are judged"
    return f"{escape(row['label']) or 'none'}: {', '.join(said)}; {judged}"


def _some(count: int | float | None, one: str, more: str) -> str:
    return f"{count or 0:.0f} {one}{'' if count == 1 else more}"


def _again(card: Mapping[str, Any]) -> str:
    if card["seeds"] is None:
        return "whether SAEs of other seeds have it is not known: <code>make evaluate</code> has not run"
    return f"found again in {card['seeds']} of {card['others']} SAEs of other seeds"


def _contexts(found: Sequence[Sequence[Any]]) -> str:
    lines = (
        f"<li>{_flat(before)}<mark>{_flat(word)}</mark>{_flat(after)} <small>{value:.1f}</small></li>"
        for before, word, after, value in found
    )
    return f"<ul>{''.join(lines)}</ul>"


def _flat(text: str) -> str:
    """On one line: a fence that stood at the start of one would end the card."""
    return escape(text.replace("\r", " ").replace("\n", " / "))


def _tokens(tokens: Sequence[str]) -> str:
    seen = (token.strip() for token in tokens)  # blank ones say nothing
    return " ".join(f"<code>{escape(token)}</code>" for token in seen if token)


def _link(latent: int, at: Mapping[int, str]) -> str:
    return f'<a href="{at[latent]}">{latent}</a>' if latent in at else str(latent)


def _taken_out(card: Mapping[str, Any]) -> str:
    if card["gap_r_if_removed"] is None:
        return f"{MISSING}: no fold's offset uses it" if not card["folds"] else MISSING
    gap_r, kl = ([card[f"{name}_{end}"] for end in ("if_removed", "low", "high")] for name in ("gap_r", "kl"))
    changes = (
        f"gap correlation {with_ends(gap_r[0], gap_r[1], gap_r[2], 3)}, KL {with_ends(kl[0], kl[1], kl[2], 5)} nats"
    )
    return f"to first order, {changes}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2g}%"


def _md(text: str) -> str:
    """Text from outside as Markdown that says the same: what could be markup is escaped, on one line."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|$~:&\"'" and not c.isalnum() else c for c in flat)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " :-- |" * len(head)]
    return captioned(caption, [*lines, *("| " + " | ".join(row) + " |" for row in rows)])
