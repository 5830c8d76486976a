"""The explorer: its data against held-out answers and the committed table, and what its script may do."""

import csv
import json
import re
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch

from opinion_sae.artifacts import read_json
from opinion_sae.book import explorer
from opinion_sae.book.build import explorer_script
from opinion_sae.book.paths import ROOT
from opinion_sae.delta.held_out import answer_with, by_question
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.toplines import everyone, from_toplines

FOLDER = ROOT / "book" / "_extra" / "explorer"
DEFAULT = ROOT / "results" / "default"


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
    return survey, answers, splits, offsets, explorer.held_out_page(survey, answers, splits, offsets)


def test_strength_1_is_the_held_out_answer_and_people_are_beside(case):
    survey, answers, splits, offsets, found = case
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
        assert len(one["without"]) == len(one["latents"]) <= 4 and set(map(str, one["latents"])) <= set(
            found["latents"]
        )


def test_from_toplines_needs_no_more_than_is_in_the_file(case):
    """As the script does it: log p_g + log h_all - sum_k w_k log p_k, made to add up to 1."""
    survey, answers, splits, offsets, found = case
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
    """results/default/explorer.json at strength 1 against answers.csv, alone."""
    if not (DEFAULT / "explorer.json").is_file():
        pytest.skip("results/default has no explorer.json yet")
    assert (DEFAULT / "explorer.json").stat().st_size <= explorer.LARGEST
    found, expected = read_json(DEFAULT / "explorer.json"), defaultdict(list)
    with (DEFAULT / "answers.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            expected[row["question"], row["group"]].append(float(row["delta-reading-64"]))
    for one in found["questions"]:
        for group, logs in zip(found["groups"], table(one["logs"][2]), strict=True):
            if (one["key"], group) in expected:
                np.testing.assert_allclose(np.exp(logs), expected[one["key"], group], atol=1e-3)


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
    """The table's shares: a row per option, people and predicted of the first group, then of the second."""
    texts = window.eval_on_selector_all("tbody tr", "rows => rows.map(row => [...row.cells].map(c => c.textContent))")
    return [[text if text == "not asked" else float(text.rstrip("%")) / 100 for text in row[1:]] for row in texts]


def test_the_page_shows_the_held_out_answers_and_follows_the_controls(opened, case):
    survey, answers, splits, offsets, found = case
    held_out = answer_with(answers, splits, offsets)
    alone, given = np.exp(held_out), np.exp(from_toplines(survey, held_out))
    expected = np.stack([survey.shares[0, 0], given[0, 0], survey.shares[1, 0], given[1, 0]], -1)
    np.testing.assert_allclose(shown(opened), expected[:2], atol=2e-3)
    opened.get_by_label("alone: nothing else is known").check()
    np.testing.assert_allclose(np.array(shown(opened))[:, [1, 3]], alone[:, 0, :2].T, atol=2e-3)
    assert "predicted" in opened.locator("p[role=status]").inner_text()
    slider = opened.get_by_role("slider")
    slider.focus()
    opened.keyboard.press("End")
    twice = np.exp(answers.predict(offsets[0].dosed(2.0, 2.0), torch.tensor([0]))[:, 0, :2].numpy())
    np.testing.assert_allclose(np.array(shown(opened))[:, [1, 3]], twice.T, atol=2e-3)
    for _ in range(20):
        opened.keyboard.press("ArrowLeft")
    assert slider.input_value() == "1"
    opened.locator('input[name="without"][value="0"]').check()
    part = offsets[0].copy()
    part.a.data[:, :, found["questions"][0]["latents"][0]] = 0
    without = np.exp(answers.predict(part, torch.tensor([0]))[:, 0, :2].numpy())
    np.testing.assert_allclose(np.array(shown(opened))[:, [1, 3]], without.T, atol=2e-3)
    opened.locator('select[data-at="question"]').select_option("4")
    assert [row[2] for row in shown(opened)] == ["not asked"] * len(survey.questions[4].options)
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_file_of_ones_own_is_text_and_a_wrong_one_is_refused(opened, case, tmp_path):
    found = json.loads(json.dumps(case[-1]))
    nasty = "<img src=x onerror=alert(1)>"
    found["questions"] = found["questions"][:1]
    found["questions"][0] |= {"text": nasty, "options": [nasty, "Yes"]}
    del found["questions"][0]["people"], found["questions"][0]["everyone"]
    (tmp_path / "own.json").write_text(json.dumps(found))
    picker = opened.locator("input[type=file]")
    picker.set_input_files(tmp_path / "own.json")
    opened.get_by_text("not asked").first.wait_for()
    assert opened.locator("#explorer img").count() == 0 and nasty in opened.locator("tbody").inner_text()
    assert opened.get_by_label("from toplines").is_disabled() and opened.get_by_label("alone:").is_checked()
    for content, said in (
        ("{", "not JSON"),
        ('{"format": 1}', "has not the format"),
        (json.dumps(found | {"groups": ["a", "b", "c"]}), "numbers of groups and options do not match"),
    ):
        (tmp_path / "wrong.json").write_text(content)
        picker.set_input_files(tmp_path / "wrong.json")
        opened.get_by_text(said).wait_for()
        assert "wrong.json" in opened.get_by_role("alert").inner_text()
