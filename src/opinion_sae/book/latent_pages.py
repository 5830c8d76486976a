"""A page of its own for every latent that the reading offset reads or writes, and what a card says: the one template.

The pages are plain html beside what Sphinx makes, since there are hundreds of them. Whatever comes from questions,
texts or tokens is escaped.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from opinion_sae.book.profile import model_name
from opinion_sae.book.sentences import counted, with_ends

FOLDER = "latents"  # of the pages, at the root of the html
MISSING = "not measured"
Card = Mapping[str, Any]
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<meta name="description" content="{description}">
<link rel="stylesheet" href="latents.css">
</head>
<body>
<nav aria-label="Book and lists of latents">
<ul>
{links}
</ul>
</nav>
<main id="main-content">
<h1>{title}</h1>
{parts}
</main>
</body>
</html>
"""


def addresses(cards: Sequence[Card]) -> dict[tuple[str, int], str]:
    """`address` of each card's latent, by role and latent."""
    return {(card["role"], card["latent"]): address(card["latent"]) for card in cards}


def address(latent: int) -> str:
    """A latent's page, from a page in any folder of the html."""
    return f"../{FOLDER}/{latent}.html"


def latent_pages(
    cards: Sequence[Card], places: Mapping[tuple[str, int], str], questions: Mapping[int, str]
) -> dict[str, str]:
    """HTML by the file's name: a page for each latent, with all of its roles.

    cards: of `cards.complete`, the largest weights first; places: of `cards.places`, where the lists have each;
    questions: of each latent that the explorer shows, the key of a question at which it does.
    """
    of: dict[int, list[Card]] = {}
    for card in cards:
        of.setdefault(card["latent"], []).append(card)
    turns = _turns(cards)
    made = {}
    for latent, own in of.items():
        links = ['<a href="../index.html">Opinion SAE</a>']
        links += [_list_link(card, places, turns) for card in own]
        if latent in questions:
            at = f"../chapters/20_explorer.html#question={quote(questions[latent], safe='')}"
            links.append(f'<a href="{at}">A question in the explorer at which it counts</a>')
        made[f"{latent}.html"] = _page(own, links, of)
    return made


def _turns(cards: Sequence[Card]) -> dict[tuple[str, int], tuple[int | None, int | None]]:
    """By role and latent those before and after it in the list of its axis, or of what is written."""
    lists: dict[tuple[str, int | None], list[int]] = {}
    for card in cards:
        lists.setdefault((card["role"], card["axis"]), []).append(card["latent"])
    return {
        (role, latent): (before, after)
        for (role, _), own in lists.items()
        for before, latent, after in zip([None, *own], own, [*own[1:], None], strict=False)
    }


def _list_link(
    card: Card,
    places: Mapping[tuple[str, int], str],
    turns: Mapping[tuple[str, int], tuple[int | None, int | None]],
) -> str:
    """The list that has a card, and the latents before and after it there."""
    key = card["role"], card["latent"]
    said = f'<a href="../cards/{places[key]}">{_list_name(card)}</a>'
    for way, word, other in zip(("prev", "next"), ("previous", "next"), turns[key], strict=True):
        if other is not None:
            said += f', <a rel="{way}" href="{address(other)}">{word}: latent {other}</a>'
    return said


def _list_name(card: Card) -> str:
    return f"Read on axis {card['axis']}" if card["role"] == "read" else "Written on every axis"


def _page(own: Sequence[Card], links: Sequence[str], known: Container[int]) -> str:
    """The page of a latent: what each role has of its own, then where the latent fires."""
    first = own[0]
    label = " ".join(first["label"].split()) or "no label"
    roles = " and ".join(f"{_list_name(card).lower()} with weight {card['weight']:+.3g}" for card in own)
    parts, said = [], {}
    for card in own:
        rows = facts(card, known)
        new = {name: value for name, value in rows.items() if said.get(name) != value}  # what is the same stands once
        parts.append(f"<h2>{_list_name(card)}</h2>\n{described(new)}")
        said |= rows
    if found := contexts(first, "h3"):
        parts.append(f"<h2>Where it fires</h2>\n{found}")
    return PAGE.format(
        title=escape(f"Latent {first['latent']}: {label}"),
        description=escape(f"Latent {first['latent']} of the sparse autoencoder ({label}), {roles}."),
        links="\n".join(f"<li>{link}</li>" for link in links),
        parts="\n".join(parts),
    )


def facts(card: Card, known: Container[int]) -> dict[str, str]:
    """What a card says, as HTML by the names of its rows; latents in `known` have pages and are linked."""
    rates, read = card["contexts"], card["role"] == "read"
    by_axis = ", ".join(f"{n}: {w:+.2f}" for n, w in enumerate(card["weights"], 1) if w) or "0"
    moves = "; ".join(f"{escape(group)} {value:+.2g}" for group, value in card["pull"]) or "no group"
    return {
        **({"Weight on each axis": by_axis} if read else {"Weight, on every axis": f"{card['weight']:+.3g}"}),
        "Moves" if read else "Written on every question": moves,
        "Fits that use it": f"{fits(card)}; {_again(card)}",
        "Fires on": f"{_percent(rates['questions']['rate'])} of the questions' tokens and "
        f"{_percent(rates['texts']['rate'])} of the tokens in the SAE's texts",
        "Label's scores": f"detection {number(card['label_score'])} (random latent {number(card['random_score'])}), "
        f"fuzzing {number(card['fuzzing_score'])} (random latent {number(card['random_fuzzing_score'])}), on all of "
        "the texts that the label was not made from",
        **{f"Label by {escape(labeler_name(one['by']))}": _other_label(one) for one in card["labels"]},
        "Taken out": _taken_out(card),
        "Turned up and down": escape(card["audit"]),
        "Promotes": _tokens(card["promoted"]),
        "Suppresses": _tokens(card["suppressed"]),
        "Nearest decoder rows": ", ".join(
            _link(other, known) + f" ({cosine:.2f})" for other, cosine in card["nearest"]
        ),
    }


def fits(card: Card) -> str:
    """Which fits use a latent: 'all questions, 2 folds', say."""
    of = ["all questions"] if card["in_fit_to_all"] else []
    return ", ".join([*of, *([counted(card["folds"], "fold")] if card["folds"] else [])])


def described(rows: Mapping[str, str]) -> str:
    """The list of `facts` as HTML."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in rows.items())}</dl>"


def contexts(card: Card, heading: str) -> str:
    """As HTML the stretches in which a latent fires, the word marked, under headings of this kind."""
    return "".join(
        f"<{heading}>{title}</{heading}>{_contexts(card['contexts'][place][part])}"
        for place, what in (("questions", "Questions"), ("texts", "The SAE's texts"))
        for part, title in (("top", f"{what}, strongest"), ("middle", f"{what}, middling"))
        if card["contexts"][place][part]
    )


def labeler_name(by: str) -> str:
    """Who wrote or judged labels, in `labels.csv`: a model by its `model_name`, 'a at URL' and rules as they are."""
    return by if " at " in by else model_name(by)


def _other_label(row: Mapping[str, Any]) -> str:
    """One of `opinion-sae label`, with the scores that its own judge gives it, and on how much."""
    said = [
        f"{name} {number(row[name])} (random latent {number(row[f'random_{name}'])})"
        for name in ("detection", "fuzzing")
    ]
    judged = f"judged by {escape(labeler_name(row['judge']))} on {_some(row['contexts'], 'stretch', 'es')}"
    judged += f" and {_some(row['marks'], 'word', 's')} of these texts"
    if row["by"] == "statistics":
        judged += ", the same on which a model's labels are judged"
    return f"{escape(row['label']) or 'none'}: {', '.join(said)}; {judged}"


def _some(count: int | float | None, one: str, more: str) -> str:
    return f"{count or 0:.0f} {one}{'' if count == 1 else more}"


def _again(card: Card) -> str:
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


def _link(latent: int, known: Container[int]) -> str:
    return f'<a href="{address(latent)}">{latent}</a>' if latent in known else str(latent)


def _taken_out(card: Card) -> str:
    if card["gap_r_if_removed"] is None:
        return f"{MISSING}: no fold's offset uses it" if not card["folds"] else MISSING
    gap_r, kl = ([card[f"{name}_{end}"] for end in ("if_removed", "low", "high")] for name in ("gap_r", "kl"))
    changes = (
        f"gap correlation {with_ends(gap_r[0], gap_r[1], gap_r[2], 3)}, KL {with_ends(kl[0], kl[1], kl[2], 5)} nats"
    )
    return f"to first order, {changes}"


def number(value: float | None) -> str:
    """A score, or that there is none."""
    return MISSING if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2g}%"
