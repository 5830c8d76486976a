"""A page for each latent: what a card gives, both roles on one page, the way to the next, and text that stays text."""

import re

import pytest

from opinion_sae.artifacts import write_json
from opinion_sae.book.build import explored
from opinion_sae.book.latent_pages import addresses, latent_pages
from opinion_sae.book.paths import ROOT

CARD = {
    **{"latent": 7, "role": "read", "axis": 1, "weight": 0.5, "weights": [0.5, -0.25], "label": "road, street"},
    **{"label_score": 0.75, "random_score": None, "fuzzing_score": 0.6, "random_fuzzing_score": 0.5},
    **{"gap_r_if_removed": None, "folds": 0, "in_fit_to_all": True, "seeds": 1, "others": 4, "pull": [("Up", 1.0)]},
    **{"promoted": [" way"], "suppressed": [], "nearest": [(9, 0.5), (8, 0.25)], "labels": [], "audit": "moves Up"},
    "contexts": {
        "questions": {"rate": 0.01, "top": [("a ", "road", " to", 2.5)], "middle": []},
        "texts": {"rate": 0.0, "top": [], "middle": []},
    },
}
WRITTEN = CARD | {"role": "write", "axis": None, "weight": -3.0, "weights": [-3.0], "pull": [("Down", -2.0)]}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Latent 7: road, street</title>
<meta name="description" content="Latent 7 of the sparse autoencoder (road, street), read on axis 1 with weight +0.5.">
<link rel="stylesheet" href="latents.css">
</head>
<body>
<nav aria-label="Book and lists of latents">
<ul>
<li><a href="../index.html">Opinion SAE</a></li>
<li><a href="../cards/axis-1.html#latent-7">Read on axis 1</a></li>
</ul>
</nav>
<main id="main-content">
<h1>Latent 7: road, street</h1>
<h2>Read on axis 1</h2>
<dl>\
<dt>Weight on each axis</dt><dd>1: +0.50, 2: -0.25</dd>\
<dt>Moves</dt><dd>Up +1</dd>\
<dt>Fits that use it</dt><dd>all questions; found again in 1 of 4 SAEs of other seeds</dd>\
<dt>Fires on</dt><dd>1% of the questions' tokens and 0% of the tokens in the SAE's texts</dd>\
<dt>Label's scores</dt><dd>detection 0.75 (random latent not measured), fuzzing 0.60 (random latent 0.50), on all of \
the texts that the label was not made from</dd>\
<dt>Taken out</dt><dd>not measured: no fold's offset uses it</dd>\
<dt>Turned up and down</dt><dd>moves Up</dd>\
<dt>Promotes</dt><dd><code>way</code></dd>\
<dt>Suppresses</dt><dd></dd>\
<dt>Nearest decoder rows</dt><dd>9 (0.50), 8 (0.25)</dd></dl>
<h2>Where it fires</h2>
<h3>Questions, strongest</h3><ul><li>a <mark>road</mark> to <small>2.5</small></li></ul>
</main>
</body>
</html>
"""


def made(*cards, questions=()):
    listed = {(card["role"], card["latent"]): f"list.html#{card['role']}-{card['latent']}" for card in cards}
    return latent_pages(cards, listed, dict(questions))


def links(page):
    return re.findall('href="(.*?)">(.*?)</a>', page)


def test_one_card_gives_one_page():
    assert latent_pages([CARD], {("read", 7): "axis-1.html#latent-7"}, {}) == {"7.html": PAGE}
    assert latent_pages([], {}, {}) == {}


def test_a_latent_with_both_roles_has_both_on_its_page_and_what_is_the_same_once():
    other = WRITTEN | {"audit": "moves Down"}
    pages = made(CARD, other)
    assert list(pages) == ["7.html"]
    page = pages["7.html"]
    assert re.findall("<h2>(.*?)</h2>", page) == ["Read on axis 1", "Written on every axis", "Where it fires"]
    role = page.partition("<h2>Written on every axis</h2>")[2].partition("<h2>")[0]
    assert re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", role) == [
        ("Weight, on every axis", "-3"),
        ("Written on every question", "Down -2"),
        ("Turned up and down", "moves Down"),
    ]
    assert "read on axis 1 with weight +0.5 and written on every axis with weight -3." in page
    assert page.count("<mark>road</mark>") == 1
    assert [address for address, _ in links(page)][1:] == ["../cards/list.html#read-7", "../cards/list.html#write-7"]


def test_previous_and_next_go_by_weight_in_each_list_of_its_own():
    """Latents 7, 9 and 8 are read on axis 1, 5 on axis 2; 9 and 6 are written."""
    read = [CARD | {"latent": n} for n in (7, 9, 8)] + [CARD | {"latent": 5, "axis": 2}]
    pages = made(*read, *(WRITTEN | {"latent": n} for n in (9, 6)))
    turns = {
        name: re.findall('rel="(prev|next)" href="../latents/([0-9]+).html">(?:previous|next): latent', page)
        for name, page in pages.items()
    }
    assert turns == {
        "7.html": [("next", "9")],
        "9.html": [("prev", "7"), ("next", "8"), ("next", "6")],
        "8.html": [("prev", "9")],
        "5.html": [],
        "6.html": [("prev", "9")],
    }


def test_links_are_relative_and_lead_to_pages_that_are_there():
    pages = made(CARD, CARD | {"latent": 9}, questions={7: "a&b #2"}.items())
    assert '<a href="../latents/9.html">9</a> (0.50), 8 (0.25)' in pages["7.html"]  # 8 has none
    assert '<a href="../chapters/20_explorer.html#question=a%26b%20%232">' in pages["7.html"]
    assert "20_explorer" not in pages["9.html"]
    for page in pages.values():
        own = [address for address, _ in links(page) if address.startswith("../latents/")]
        assert own and {address.removeprefix("../latents/") for address in own} <= set(pages)
        assert all(address.startswith("../") for address, _ in links(page))
    assert (ROOT / "book" / "_extra" / "latents" / "latents.css").is_file() and 'href="latents.css"' in pages["7.html"]
    assert (ROOT / "notebooks" / "20_explorer.ipynb").is_file()


def test_addresses_are_of_the_latent_whatever_its_role():
    assert addresses([CARD, WRITTEN]) == dict.fromkeys([("read", 7), ("write", 7)], "../latents/7.html")


BAD = "</title></dd>\n<script>alert(1)</script>{title}\"'><img src=x>"
HOSTILE = {
    **{"label": BAD, "audit": BAD, "pull": [(BAD, 1.0)], "promoted": [BAD], "suppressed": [BAD]},
    "contexts": {place: {"rate": 0.5, "top": [(BAD, BAD, BAD, 1.0)], "middle": []} for place in ("questions", "texts")},
    "labels": [
        {"by": f"m at {BAD}", "judge": f"m at {BAD}", "label": BAD, "contexts": 2, "marks": 2}
        | dict.fromkeys(("detection", "random_detection", "fuzzing", "random_fuzzing"), 0.5)
    ],
}


@pytest.mark.parametrize("part", HOSTILE)
def test_text_from_outside_stays_text(part):
    """Whichever part of a card holds it, the page has the tags that it has without."""
    plain, page = (made(CARD | {part: value})["7.html"] for value in (tame(HOSTILE[part]), HOSTILE[part]))
    assert re.findall("<[^>]+>", no_label(page)) == re.findall("<[^>]+>", no_label(plain))
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;{title}" in page


def no_label(page):
    """Without the description, which holds the label within its tag."""
    return re.sub('content="Latent.*?">', 'content="">', page)


def tame(value):
    """The same with a word in place of what is hostile."""
    if isinstance(value, str):
        return value.replace(BAD, "word")
    if isinstance(value, dict):
        return {name: tame(one) for name, one in value.items()}
    return [tame(one) for one in value] if isinstance(value, list | tuple) else value


def test_a_title_is_on_one_line_and_says_that_there_is_no_label():
    assert "<title>Latent 7: no label</title>" in made(CARD | {"label": ""})["7.html"]
    assert "<title>Latent 7: a b</title>" in made(CARD | {"label": "a\n b"})["7.html"]


def test_the_explorer_is_opened_at_the_first_question_that_lists_a_latent(tmp_path):
    path = tmp_path / "explorer.json"
    assert explored(path) == {}
    write_json(path, {"questions": [{"key": "q1", "latents": [3]}, {"key": "q2", "latents": [3, 4]}]})
    assert explored(path) == {3: "q1", 4: "q2"}
    write_json(path, {"questions": [{"key": "q1", "latents": ["3"]}]})
    with pytest.raises(ValueError, match="questions: 0: latents .* are not whole numbers"):
        explored(path)
