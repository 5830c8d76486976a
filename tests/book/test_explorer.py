"""The explorer: its data against held-out answers and the committed table, and what its script may do."""

import csv
import json
import re
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
