"""From a CSV file to every group's shares: the whole path on a tiny model, and each step by hand."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.book import predict as command
from opinion_sae.book.command import main
from opinion_sae.book.figures.predictions import predictions
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.coverage import scale
from opinion_sae.score.toplines import everyone, from_toplines, group_weights
from opinion_sae.use import predict as module
from opinion_sae.use import published_run
from opinion_sae.use.asked import Asked, read_questions
from opinion_sae.use.predict import READ, SHARES, as_survey, latents_read, predict, write_predictions
from opinion_sae.use.published_run import keep_published, load_published_run

LAYER = 2
QUESTIONS = (
    "key,question,options,toplines\n"
    "pay,Is pay of $30 - $50 fair_enough?,Yes|No,62|38\n"
    ",How often is it cold?,Never|Sometimes|Often|Always,\n"
    "road,What of the new road?,Good|Bad|Neither,0.5|0.5|0\n"
)


@pytest.fixture
def run(tmp_path, lm, tiny, six_questions, monkeypatch):
    """A published run whose model is the tiny one."""
    monkeypatch.setattr(published_run, "load_language_model", lambda model, dtype: lm)
    answers, sae = AnswerPath(lm, six_questions.questions, LAYER), tiny.sae()
    offset = GroupDelta(six_questions.groups, sae)
    with torch.no_grad():
        offset.deviation.copy_(2 * torch.randn(offset.deviation.shape, generator=torch.Generator().manual_seed(2)))
    held_out = answers.predict(offset).numpy()
    keep_published(tmp_path / "kept", answers, offset, six_questions, held_out, np.arange(6) % 2)
    return load_published_run(tmp_path / "kept")


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "questions.csv").write_text(QUESTIONS, encoding="utf-8")
    return read_questions(tmp_path / "questions.csv")


def test_shares_are_those_of_the_answer_path_and_from_toplines(run, asked, lm, six_questions):
    table = predict(run, asked).shares
    assert tuple(table) == SHARES and len(table) == 2 * (2 + 4 + 3) + 2 * (2 + 3)
    answers = AnswerPath(lm, [one.question for one in asked], LAYER)
    alone = answers.predict(run.offset).exp().numpy()
    for q, one in enumerate(asked):
        for g, group in enumerate(run.groups):
            cells = table[(table["question"] == one.question.key) & (table["group"] == group)]
            part = cells[cells["task"] == "alone"]
            options = len(one.question.options)
            assert part["option"].tolist() == list(one.question.options)
            assert part["share"].to_numpy() == pytest.approx(alone[g, q, :options], abs=1e-6)
            tilted = cells[cells["task"] == "toplines"]["share"].to_numpy()
            if not one.toplines:
                assert len(tilted) == 0
                continue
            known = (1000 * np.array(one.toplines) + 0.5) / (1000 + options / 2)
            mean = np.exp(np.log(alone[:, q, :options]).mean(0))  # both groups are as large
            expected = known * alone[g, q, :options] / mean
            assert tilted == pytest.approx(expected / expected.sum(), abs=1e-6)
    assert set(table.groupby(["question", "group", "task"])["share"].sum().round(6)) == {1.0}
    assert table["question"].drop_duplicates().tolist() == ["pay", "q2", "road"]  # in the file's order


def test_many_questions_are_answered_a_few_at_a_time_to_the_same_end(run, asked, monkeypatch):
    together = predict(run, asked)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    apart = predict(run, asked)
    names = ["question", "option", "attribute", "group", "task"]
    assert apart.shares[names].equals(together.shares[names]) and apart.unlike == together.unlike
    assert apart.shares["share"].to_numpy() == pytest.approx(together.shares["share"].to_numpy(), abs=1e-6)


def test_a_question_of_the_survey_gets_the_answer_that_the_run_gave(run, six_questions, lm):
    """Toplines and groups' sizes of the survey, put in from outside, lead to what the run itself measured."""
    offset = run.offset
    answers = AnswerPath(lm, six_questions.questions, LAYER)
    log_probs = answers.predict(offset).numpy()
    theirs = from_toplines(six_questions, log_probs)
    asked = [
        Asked(question, tuple(np.exp(everyone(six_questions)[0, q, : len(question.options)]).tolist()))
        for q, question in enumerate(six_questions.questions)
    ]
    survey = as_survey(run, asked)
    assert group_weights(survey) == pytest.approx(group_weights(six_questions))
    ours = from_toplines(survey, log_probs)
    assert np.exp(ours) == pytest.approx(np.exp(theirs), abs=2e-3)  # half a person in a thousand


def test_intervals_are_the_measured_factor_times_the_scale(run, asked):
    everything = predict(run, asked).shares  # six questions cannot promise 90 %
    assert (everything["low"] == 0).all() and (everything["high"] == 1).all()
    factors = {("alone", "Female"): 0.4, ("alone", "Male"): 0.3, ("toplines", "Female"): 0.2, ("toplines", "Male"): 0.1}
    found = run.coverage.set_index(["task", "group"]).index.map(factors)
    coverage = run.coverage.assign(factor=found)
    table = predict(replace(run, coverage=coverage), asked).shares
    half = table.set_index(["task", "group"]).index.map(factors).to_numpy() * scale(table["share"].to_numpy())
    assert table["low"].to_numpy() == pytest.approx(np.maximum(0, table["share"] - half))
    assert table["high"].to_numpy() == pytest.approx(np.minimum(1, table["share"] + half))


def test_the_runs_own_questions_are_like_themselves(run, six_questions, lm):
    assert predict(run, [Asked(question) for question in six_questions.questions]).unlike == ()
    strict = replace(run, about={**run.about, "unlike": -1.0})
    assert len(predict(strict, [Asked(question) for question in six_questions.questions]).unlike) == 6


class Reads:
    """The parts of an offset that reads which `latents_read` uses, with two axes of two directions."""

    reads = "question"

    def __init__(self, a):
        self.a, self.sae = a, None

    def weigh(self, read):
        return read / read.norm(dim=1, keepdim=True)

    def steer(self, x, read=None):
        raise AssertionError("latents_read steers nothing")


class Kept(AnswerPath):
    """Prompts that were run, as far as reading them goes."""

    def __init__(self, questions, read):
        self.questions, self.orders, self.all = questions, 2, read

    def read(self, sae, place, items):
        assert sae is None and place == "question"
        return self.all[items]


def test_latents_read_by_hand(run, tiny):
    a = torch.zeros(2, 2, 5)
    a[0, 0, 1], a[0, 0, 2], a[1, 1, 2] = 2.0, -1.0, 0.5
    read = torch.tensor([[0, 3.0, 4.0, 0, 0], [0, -3.0, -4.0, 0, 0], [1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]])
    reading = replace(run, offset=Reads(a), labels={2: "roads"})
    table = latents_read(reading, Kept(tiny.questions[:2], read))
    assert tuple(table) == READ
    rows = [tuple(row) for row in table.round(6).itertuples(index=False)]
    assert rows == [  # r is (0, 0.6, 0.8, 0, 0); the second question holds nothing that is read
        ("a", 1, 1, 1, 0.6, 2.0, 1.2, 0.4, ""),
        ("a", 1, 1, 2, 0.8, -1.0, -0.8, 0.4, "roads"),
        ("a", 2, 2, 2, 0.8, 0.5, 0.4, 0.4, "roads"),
    ]


def test_an_offset_that_reads_nothing_leaves_the_columns_alone(run, asked):
    table = predict(run, asked).read
    assert tuple(table) == READ and len(table) == 0


def test_the_command_writes_everything_and_says_how_sure_it_is(run, tmp_path, capsys, asked):
    path = tmp_path / "questions.csv"
    assert main(["predict", str(path), "--run", str(tmp_path / "kept"), "--figure", str(tmp_path / "out.svg")]) == 0
    printed = capsys.readouterr().out
    for name in ("-predictions.csv", "-predictions-read.csv", "-predictions-coverage.csv"):
        assert (tmp_path / f"questions{name}").is_file() and f"questions{name}" in printed
    row = run.coverage.set_index(["task", "group", "nominal"]).loc[("toplines", "all", 0.9)]
    assert f"toplines: intervals made for 90% of shares held {row['coverage']:.1%}" in printed
    written = pd.read_csv(tmp_path / "questions-predictions.csv")
    assert written["share"].to_numpy() == pytest.approx(predict(run, asked).shares["share"].to_numpy(), rel=1e-5)
    coverage = pd.read_csv(tmp_path / "questions-predictions-coverage.csv")
    assert coverage["coverage"].to_numpy() == pytest.approx(run.coverage["coverage"].to_numpy())
    drawn = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "Is pay of $30 - $50" in drawn and "fair_enough?" in drawn and "sex: Female" in drawn  # text, no formulas


def test_a_question_unlike_the_survey_is_warned_about(run, asked):
    found = predict(run, asked)._replace(unlike=("road",))
    (line,) = [line for line in command.said(found, asked) if line.startswith("warning")]
    assert line.startswith("warning: road ('What of the new road?') was not asked like a survey question")
    assert "(unlike the survey's questions)" in titles(found, asked)


def titles(found, asked):
    figure = predictions(found.shares, asked, found.unlike)
    plt.close(figure)
    return " ".join(part.get_suptitle().replace("\n", " ") for part in figure.subfigs)


def test_the_figure_has_a_panel_per_option_and_draws_what_the_table_says(run, asked):
    coverage = run.coverage.assign(factor=0.3)
    table = predict(replace(run, coverage=coverage), asked).shares
    figure = predictions(table, asked)
    plt.close(figure)
    shown = [axes for part in figure.subfigs for axes in part.axes if axes.axison]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles == [option for one in asked for option in one.question.options]
    cells = table[(table["question"] == "road") & (table["task"] == "toplines") & (table["option"] == "Bad")]
    line, _, (bars,) = shown[titles.index("Bad")].containers[0]
    assert line.get_xdata() == pytest.approx(cells["share"].to_numpy())
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    assert ends == pytest.approx(cells[["low", "high"]].to_numpy())
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["sex: Female", "sex: Male"]


def test_more_options_than_fit_side_by_side_go_below(run, tiny):
    many = Asked(tiny.question("many", "abcdefg", "Which of $these$?"))
    figure = predictions(predict(run, [many]).shares, [many])
    plt.close(figure)
    assert [sum(axes.axison for axes in part.axes) for part in figure.subfigs] == [2, 2, 2, 1]


@pytest.mark.parametrize(
    "out, figure, message",
    [
        ("questions.csv", None, "need a .csv file of their own"),
        ("out.txt", None, "need a .csv file of their own"),
        ("out.csv", "out.png", "the figure is an .svg file"),
    ],
)
def test_names_that_would_not_do_are_refused_before_anything_is_written(run, asked, tmp_path, out, figure, message):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        command.answer(
            tmp_path / "questions.csv", tmp_path / "kept", tmp_path / out, None if figure is None else tmp_path / figure
        )
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="must end in .csv"):
        write_predictions(predict(run, asked), tmp_path / "out.txt")


def test_bad_questions_write_nothing(run, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text("question,options\nIs it?,a\n")
    assert main(["predict", str(path), "--run", str(tmp_path / "kept")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: row 2, column 'options': question 'q1' has 1 options")
    assert not list(tmp_path.glob("bad-*"))
