"""The explorer: its data against held-out answers and the committed table, what its script may do, and the page in a
browser, on the book's data and on what `opinion-sae predict --json` writes."""

import csv
import json
import re
import shutil
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import read_json, write_json
from opinion_sae.book import explorer
from opinion_sae.book.build import explorer_script
from opinion_sae.book.command import main
from opinion_sae.book.paths import ROOT
from opinion_sae.delta.files import save_answers
from opinion_sae.delta.held_out import answer_with, by_question
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.names import label
from opinion_sae.score.toplines import everyone, from_toplines
from opinion_sae.use import published_run

FOLDER = ROOT / "book" / "_extra" / "explorer"
DEFAULT = ROOT / "results" / "default"
READING = label("delta-reading-64")


def table(text):
    """Rows of `explorer.numbers`, in units."""
    return [[int(number) / 1000 for number in row.split(",")] if row else None for row in text.split(";")]


@pytest.fixture(scope="module")
def case(tiny):
    rng = np.random.default_rng(0)
    questions = [tiny.question(f"q{i}", ("No", "Yes", "Very")[: 2 + i % 2], f"Do you like {i}?") for i in range(6)]
    shares = np.zeros((2, 6, 3))
    for q, question in enumerate(questions):
        shares[:, q, : len(question.options)] = rng.dirichlet(np.ones(len(question.options)), 2)
    shares[1, 4] = np.nan
    survey = tiny.survey(shares, questions)
    answers = AnswerPath(tiny.lm("llama"), survey.questions, 2, orders=1)
    offsets = []
    for seed in range(3):
        offset = ReadingDelta(survey.groups, tiny.sae(), axes=2, directions=1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in (offset.a, offset.b, offset.c):
                part.copy_(torch.randn(part.shape, generator=generator))
        offsets.append(offset)
    splits = by_question(np.arange(6) % 3)
    beside = {name: np.full((2, 6, 3), -np.inf) for name in explorer.BESIDE}
    for table in beside.values():
        for q, question in enumerate(questions):
            table[:, q, : len(question.options)] = np.log(rng.dirichlet(np.ones(len(question.options)), 2))
    beside["words"][1, 3] = np.nan
    return survey, answers, splits, offsets, beside, explorer.held_out_page(survey, answers, splits, offsets, beside)


def test_strength_1_is_the_held_out_answer_and_people_and_methods_are_beside(case):
    survey, answers, splits, offsets, beside, found = case
    expected, known = answer_with(answers, splits, offsets), everyone(survey)[0]
    assert [one["key"] for one in found["questions"]] == [question.key for question in survey.questions]
    for q, one in enumerate(found["questions"]):
        count = len(one["options"])
        logs = table(one["logs"][found["strengths"].index(1.0)])
        np.testing.assert_allclose(logs, expected[:, q, :count], atol=5.1e-4)
        assert len(table(one["logs"][0])) == 1
        people = table(one["people"])
        assert (people[1] is None) == (q == 4)
        np.testing.assert_allclose(people[0], survey.shares[0, q, :count], atol=5.1e-4)
        np.testing.assert_allclose(table(one["everyone"])[0], known[q, :count], atol=5.1e-4)
        assert set(one["methods"]) == set(explorer.BESIDE) - ({"words"} if q == 3 else set())
        for name, text in one["methods"].items():
            np.testing.assert_allclose(table(text), beside[name][:, q, :count], atol=5.1e-4)
        assert len(one["without"]) == len(one["latents"]) <= 4 and set(map(str, one["latents"])) <= set(
            found["latents"]
        )


def test_methods_are_read_from_the_files_of_their_chapters(case, tmp_path):
    beside, more = case[-2], np.log(np.full((2, 6, 3), 1 / 3))
    save_answers(tmp_path / "answers.safetensors", {"delta": beside["delta"], "unsteered": more[:1]})
    assert list(explorer.answers_beside(tmp_path)) == ["delta"]
    save_answers(tmp_path / "answers-reading.safetensors", {"direct": more, "words": beside["words"]})
    found = explorer.answers_beside(tmp_path)
    assert list(found) == ["delta", "words"]
    for name, expected in found.items():
        np.testing.assert_array_equal(expected, beside[name])


def test_methods_have_the_names_that_they_have_everywhere(case):
    script = (FOLDER / "explorer.js").read_text()
    assert case[-1]["names"] == {method: label(method) for method in explorer.METHODS}
    assert all(f'"{method}"' in script for method in explorer.METHODS)


def test_from_toplines_needs_no_more_than_is_in_the_file(case):
    """As the script does it: log p_g + log h_all - sum_k w_k log p_k, made to add up to 1."""
    survey, answers, splits, offsets, beside, found = case
    expected = np.exp(from_toplines(survey, answer_with(answers, splits, offsets)))
    for q, one in enumerate(found["questions"]):
        logs = np.array(table(one["logs"][2]))
        tilted = np.exp(logs + table(one["everyone"])[0] - np.array(found["weights"]) @ logs)
        np.testing.assert_allclose(tilted / tilted.sum(1, keepdims=True), expected[:, q, : logs.shape[1]], atol=2e-3)


def test_a_file_too_large_is_refused_and_nothing_written(case, tmp_path):
    found = case[-1] | {"about": "x" * explorer.LARGEST}
    with pytest.raises(ValueError, match="the explorer takes 3 MB at most"):
        explorer.write_page(tmp_path / "page.json", found)
    assert not list(tmp_path.iterdir())


def test_the_script_holds_the_file_or_null(case, tmp_path):
    explorer.write_page(tmp_path / "page.json", case[-1])
    text = explorer_script(tmp_path / "page.json")
    assert json.loads(text.removeprefix("globalThis.explorerData = ").removesuffix(";\n")) == case[-1]
    assert explorer_script(tmp_path / "none.json") == "globalThis.explorerData = null;\n"


def test_latents_with_a_card_have_the_address_of_their_page(case, tmp_path):
    explorer.write_page(tmp_path / "page.json", case[-1])
    first, other, *_ = map(int, case[-1]["latents"])
    cards = [{"role": "read", "latent": first, "axis": 2}, {"role": "write", "latent": other, "axis": None}]
    cards.append({"role": "write", "latent": 10**6, "axis": None})  # at no question
    write_json(tmp_path / "cards.json", {"cards": cards})
    text = explorer_script(tmp_path / "page.json").removeprefix("globalThis.explorerData = ").removesuffix(";\n")
    linked = case[-1] | {"cards": {str(latent): f"../latents/{latent}.html" for latent in (first, other)}}
    assert json.loads(text) == linked
    write_json(tmp_path / "cards.json", {"cards": [card | {"label": "taxes"} for card in cards]})
    text = explorer_script(tmp_path / "page.json").removeprefix("globalThis.explorerData = ").removesuffix(";\n")
    assert json.loads(text) == linked | {"labels": {str(first): "taxes", str(other): "taxes"}}


def test_what_comes_from_outside_is_written_as_text_and_nothing_is_fetched():
    script = (FOLDER / "explorer.js").read_text()
    assert "textContent" in script
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "XMLHttp",
        "http",
    ):
        assert word not in script
    page = (ROOT / "notebooks" / "20_explorer.ipynb").read_text()
    wanted = set(re.findall(r'at\("([a-z-]+)"\)', script)) | {"first", "second", "alone", "toplines", "without"}
    assert wanted == set(re.findall(r'data-at=\\"([a-z-]+)\\"', page)) - {"taken"}


def test_the_committed_file_has_the_committed_answers():
    """results/default/explorer.json, the reading offset at strength 1, against answers.csv in both tasks."""
    if not (DEFAULT / "explorer.json").is_file():
        pytest.skip("results/default has no explorer.json yet")
    assert (DEFAULT / "explorer.json").stat().st_size <= explorer.LARGEST
    found, expected = read_json(DEFAULT / "explorer.json"), defaultdict(lambda: defaultdict(list))
    with (DEFAULT / "answers.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for column, value in row.items():
                expected[row["question"], row["group"]][column].append(value)
    for one in found["questions"]:
        said = {"delta-reading-64": one["logs"][2], **one.get("methods", {})}
        for method, logs in ((method, np.array(table(text))) for method, text in said.items()):
            tilted = np.exp(logs + table(one["everyone"])[0] - np.array(found["weights"]) @ logs)
            given = tilted / tilted.sum(1, keepdims=True)
            for g, group in enumerate(found["groups"]):
                if (one["key"], group) in expected:
                    of = expected[one["key"], group]
                    np.testing.assert_allclose(np.exp(logs[g]), np.array(of[method], float), atol=1e-3)
                    np.testing.assert_allclose(given[g], np.array(of[f"{method}-from-toplines"], float), atol=2e-3)


@pytest.fixture
def opened(case, tmp_path):
    """The page in Chromium, from disk, with the made-up survey's data."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to drive a browser with")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no Chromium on this machine")
    cells = read_json(ROOT / "notebooks" / "20_explorer.ipynb")["cells"]
    page = next(text for text in ("".join(cell["source"]) for cell in cells) if text.startswith("```{raw} html"))
    folder = tmp_path / "explorer"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("data.js"))
    explorer.write_page(tmp_path / "page.json", case[-1])
    card = {"role": "read", "latent": case[-1]["questions"][0]["latents"][0], "axis": 1, "label": "taxes, work"}
    write_json(tmp_path / "cards.json", {"cards": [card]})
    (folder / "data.js").write_text(explorer_script(tmp_path / "page.json"), encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    path = tmp_path / "chapters" / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{page.split(chr(10), 1)[1].removesuffix('```')}", "utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path)
        window = browser.new_page(viewport={"width": 390, "height": 844})
        errors = []
        window.on("pageerror", lambda error: errors.append(str(error)))
        window.goto(path.as_uri())
        yield window
        browser.close()
    assert not errors


def shown(window):
    """The table: by group's and method's name the shares of the options."""
    rows = window.eval_on_selector_all("table tr", "rows => rows.map(row => [...row.cells].map(c => c.textContent))")
    groups, methods, body = rows[0][1:], rows[1][: len(rows[1]) // 2], np.array(rows[2:])[:, 1:].T
    assert rows[1] == methods * 2 and len(body) == len(rows[1]) <= 11
    heads = [(group, method) for group in groups for method in methods]
    return {
        head: [text if text == "not asked" else float(text.rstrip("%")) / 100 for text in column]
        for head, column in zip(heads, body.tolist(), strict=True)
    }


def follows(window, method, expected):
    """Whether the page shows these shares, (group, option), for a method, in the table and as bars."""
    found = shown(window)
    np.testing.assert_allclose([found[group, method] for group in ("Female", "Male")], expected, atol=2e-3)
    read = (
        "lines => lines.map(line => [...line.querySelectorAll('.track > div')].map(bar => parseFloat(bar.style.width)))"
    )
    bars = window.locator(".bar").filter(has=window.get_by_text(method, exact=True)).evaluate_all(read)
    np.testing.assert_allclose(np.array(bars).T / 100, expected, atol=2e-3)


def test_the_page_shows_all_methods_of_both_tasks(opened, case):
    """Each named as in `score.names`, with people's shares first."""
    survey, answers, splits, offsets, beside, _ = case
    tables = {"delta": beside["delta"], "delta-reading-64": answer_with(answers, splits, offsets)}
    tables |= {"words": np.nan_to_num(beside["words"], nan=-1.0, neginf=-np.inf)}
    for task, first in (("from toplines", np.exp(everyone(survey))), ("alone:", np.exp(answers.predict().numpy()))):
        opened.get_by_label(task).check()
        start = label("unsteered" if task == "alone:" else "toplines")
        assert [method for _, method in shown(opened)] == ["people", start, *(label(name) for name in tables)] * 2
        follows(opened, "people", survey.shares[:, 0, :2])
        follows(opened, start, first[[0, 0], 0, :2])
        for name, logs in tables.items():
            given = logs if task == "alone:" else from_toplines(survey, logs)
            follows(opened, label(name), np.exp(given[:, 0, :2]))
        said = opened.locator("p[role=status]").inner_text()
        assert all(f"{label(name)} " in said for name in tables) and f"people {gap(survey.shares[:, 0, :2])}" in said
    opened.locator('select[data-at="question"]').select_option("3")
    assert label("words") not in {method for _, method in shown(opened)}  # one group has no answer of it


def gap(shares):
    """Where the first group stands less where the second does, of two options, as the page writes it."""
    return f"{shares[0, 1] - shares[1, 1]:+.2f}".replace("-", "−")


def test_the_page_follows_the_controls(opened, case):
    survey, answers, splits, offsets, _, found = case
    opened.get_by_label("alone: nothing else is known").check()
    still = {head: column for head, column in shown(opened).items() if head[1] != READING}
    slider = opened.get_by_role("slider")
    slider.focus()
    opened.keyboard.press("End")
    twice = np.exp(answers.predict(offsets[0].dosed(2.0, 2.0), torch.tensor([0]))[:, 0, :2].numpy())
    follows(opened, READING, twice)
    for _ in range(20):
        opened.keyboard.press("ArrowLeft")
    assert slider.input_value() == "1"
    opened.locator('input[name="without"][value="0"]').check()
    part = offsets[0].copy()
    part.a.data[:, :, found["questions"][0]["latents"][0]] = 0
    follows(opened, READING, np.exp(answers.predict(part, torch.tensor([0]))[:, 0, :2].numpy()))
    assert {head: column for head, column in shown(opened).items() if head[1] != READING} == still
    opened.locator('select[data-at="question"]').select_option("4")
    assert shown(opened)["Male", "people"] == ["not asked"] * len(survey.questions[4].options)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_reads_without_colour_and_without_eyes(opened, case):
    hatched = "bar => getComputedStyle(bar).backgroundImage.includes('gradient')"
    assert not opened.locator(".track .first").first.evaluate(hatched)
    assert opened.locator(".track .second").first.evaluate(hatched)
    assert opened.locator(".key").inner_text().split() == ["Female", "Male"]
    spans = opened.eval_on_selector_all("colgroup", "columns => columns.map(one => one.span)")
    assert spans == [1, 5, 5] and opened.locator("th[scope=colgroup]").all_inner_texts() == ["Female", "Male"]
    assert opened.locator("tbody th[scope=row]").count() == 2 and opened.locator("th:not([scope])").count() == 0
    region = opened.get_by_role("region", name="The same shares as a table")
    region.focus()
    assert region.evaluate("box => box === document.activeElement && box.scrollWidth > box.clientWidth")
    latent = case[-1]["questions"][0]["latents"][0]
    said = opened.locator('[data-at="without"] label').all_inner_texts()
    assert said[1].strip() == f"latent {latent} (taxes, work)" and all("(no page)" in text for text in said[2:])
    (card,) = opened.get_by_role("link").all()
    assert card.inner_text() == f"page of latent {latent}"
    assert card.get_attribute("href") == f"../latents/{latent}.html"


def test_a_file_of_ones_own_is_text_and_a_wrong_one_is_refused(opened, case, tmp_path):
    found = json.loads(json.dumps(case[-1]))
    nasty = "<img src=x onerror=alert(1)>"
    found["questions"] = found["questions"][:1]
    found["questions"][0] |= {"text": nasty, "options": [nasty, "Yes"]}
    found["names"]["unsteered"] = nasty
    found["cards"] = dict.fromkeys(found["latents"], "javascript:alert(1)")
    one = found["questions"][0]
    del one["people"], one["everyone"], one["methods"]["words"]
    picker = opened.locator("input[type=file]")
    (tmp_path / "own.json").write_text(json.dumps(found))
    picker.set_input_files(tmp_path / "own.json")
    opened.locator("tbody").get_by_text(nasty).first.wait_for()
    assert opened.locator("#explorer-page img, #explorer-page a").count() == 0
    assert [method for _, method in shown(opened)] == [nasty, label("delta"), READING] * 2
    assert opened.get_by_label("from toplines").is_disabled() and opened.get_by_label("alone:").is_checked()
    rows = ";".join(["-700,-700"] * 3)
    for content, said in (
        ("{", "not JSON"),
        ('{"format": 1}', "has not the format"),
        (found | {"groups": ["a", "b", "c"]}, "groups, their attributes and their weights do not match"),
        (found | {"weights": [0.5, None]}, "groups, their attributes and their weights do not match"),
        (found | {"strengths": found["strengths"][::-1]}, "strengths do not rise from 0"),
        (found | {"names": {"delta": 1}}, "names of methods are not texts"),
        (found | {"names": ["delta"]}, "names of methods are not texts"),
        (found | {"questions": [None]}, "a question has no text"),
        (wrong(found, logs=[rows] * 5), "numbers of groups and options do not match"),
        (wrong(found, people=rows), "people's shares do not match"),
        (wrong(found, everyone=""), "everybody's shares do not match"),
        (wrong(found, methods={"delta": rows}), "methods' answers do not match"),
        (wrong(found, methods={"words": "-700,-700;"}), "methods' answers do not match"),
        (wrong(found, methods={"words": "-700,-700;-700,much"}), "methods' answers do not match"),
        (wrong(found, methods={"words": None}), "methods' answers do not match"),
        (wrong(found, methods=["-700,-700;-700,-700"]), "methods' answers do not match"),
        (wrong(found, methods=None), "methods' answers do not match"),
    ):
        opened.locator("[role=alert]").evaluate("box => { box.textContent = ''; }")
        (tmp_path / "wrong.json").write_text(content if isinstance(content, str) else json.dumps(content))
        picker.set_input_files(tmp_path / "wrong.json")
        opened.get_by_text(said).wait_for()
        assert "wrong.json" in opened.get_by_role("alert").inner_text()
    assert [method for _, method in shown(opened)] == [nasty, label("delta"), READING] * 2


def wrong(found, **changes):
    """The file with parts of its only question changed."""
    return found | {"questions": [found["questions"][0] | changes]}


def test_what_predict_writes_opens_and_is_what_its_table_says(opened, case, tiny, tmp_path, monkeypatch):
    """`opinion-sae predict --json` on the tiny run: at strength 1 the shares of its CSV, in both tasks."""
    survey, answers, _, offsets, _, _ = case
    monkeypatch.setattr(published_run, "load_language_model", lambda model, dtype: answers.lm)
    held_out = answers.predict(offsets[0]).numpy()
    published_run.keep_published(tmp_path / "kept", answers, offsets[0], survey, held_out, np.arange(6) % 3)
    asked, written = tmp_path / "asked.csv", tmp_path / "own.json"
    asked.write_text("question,options,toplines\nIs it cold?,Never|At times|Always,\nIs it fair?,Yes|No,62|38\n")
    assert main(["predict", str(asked), "--run", str(tmp_path / "kept"), "--json", str(written)]) == 0
    found, shares = read_json(written), pd.read_csv(tmp_path / "asked-predictions.csv")
    assert found["format"] == explorer.FORMAT and found["groups"] == list(survey.groups)
    assert [one["text"] for one in found["questions"]] == ["Is it cold?", "Is it fair?"]
    opened.locator("input[type=file]").set_input_files(written)
    opened.locator('p[data-at="text"]').get_by_text("Is it cold?").wait_for()
    for q, tasks in enumerate((("alone",), ("alone", "toplines"))):
        opened.locator('select[data-at="question"]').select_option(str(q))
        assert opened.locator('[data-at="toplines"]').is_disabled() == (len(tasks) == 1)
        for task in tasks:
            opened.locator(f'[data-at="{task}"]').check()
            first = label("unsteered" if task == "alone" else "toplines")
            assert [method for _, method in shown(opened)] == [first, READING] * 2
            part = shares[(shares["question"] == found["questions"][q]["key"]) & (shares["task"] == task)]
            follows(opened, READING, [part[part["group"] == group]["share"].tolist() for group in survey.groups])
