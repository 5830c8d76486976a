"""Latents amplified and suppressed: the same as scaling their weights; shifts, bounds and choices by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects import audit
from opinion_sae.effects.audit import (
    STRENGTHS,
    Amplified,
    Plan,
    Rewritten,
    audit_table,
    bounded,
    bounded_range,
    means_table,
)
from opinion_sae.model.answers import AnswerPath

GROUPS = ("Female", "Male", "18-29", "30-49", "50-64")


@pytest.fixture(scope="module")
def case(tiny):
    answers = AnswerPath(tiny.lm("llama"), tiny.questions, 2)
    offset = ReadingDelta(GROUPS, tiny.sae(), axes=2, directions=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in (offset.a, offset.b, offset.c, offset.shared, offset.deviation):
            part.copy_(torch.randn(part.shape, generator=generator))
    return answers, offset.requires_grad_(False)


def read_most(answers, offset, count):
    r = offset.weigh(answers.read(offset.sae, "question", torch.arange(len(answers.prompts))))
    return (r != 0).sum(0).topk(count).indices.tolist()


def test_amplified_is_as_if_the_latents_weights_were_larger(case):
    answers, offset = case
    made = [Plan(j, np.array([1, 0]), np.array([4]), np.array([1])) for j in read_most(answers, offset, 3)]
    found = answers.predict(Amplified(offset, made), torch.tensor([1]))[:, 0].unflatten(0, (3, len(STRENGTHS), 3))
    assert (found[:, 0] - found[:, -1]).nan_to_num().abs().max() > 1e-3
    for plan, rows in zip(made, found, strict=True):
        for strength, of_strength in zip(STRENGTHS, rows, strict=True):
            part = offset.copy()
            part.a.data[:, :, plan.latent] *= strength
            expected = answers.predict(part, torch.tensor([1]))[[1, 0, 4], 0]
            torch.testing.assert_close(of_strength, expected, atol=1e-5, rtol=1e-4)


def test_rewritten_is_as_if_more_were_written_on_the_latent(case):
    answers, offset = case
    made = [Plan(j, np.array([1, 0]), np.array([4]), np.array([1])) for j in (3, 8)]
    found = answers.predict(Rewritten(offset, made), torch.tensor([1]))[:, 0].unflatten(0, (2, len(STRENGTHS), 3))
    for plan, rows in zip(made, found, strict=True):
        for strength, of_strength in zip(STRENGTHS, rows, strict=True):
            part = offset.copy()
            part.b.data[:, :, plan.latent] *= strength
            part.deviation.data[:, plan.latent] *= strength
            expected = answers.predict(part, torch.tensor([1]))[[1, 0, 4], 0]
            torch.testing.assert_close(of_strength, expected, atol=1e-5, rtol=1e-4)


def test_shifts_by_hand():
    """Yes-no: taken out all stand at 0.5. The first target is meant to go up and goes to 0.7, the second down and goes
    to 0.4: 0.15 on average. Of the others one goes to 0.6, one stays: 0.05."""
    p = np.full((5, 4, 2), 0.5)
    p[3] = [[0.3, 0.7], [0.6, 0.4], [0.4, 0.6], [0.5, 0.5]]
    p[4] = [[0.4, 0.6], [0.4, 0.6], [0.5, 0.5], [0.5, 0.5]]  # both up: one the right way, one the wrong
    on, size, off, kl = audit._shifts(p, np.array([0.0, 1.0]), np.array([1.0, -1.0])).T
    np.testing.assert_allclose(on, [0, 0, 0, 0.15, 0], atol=1e-12)
    np.testing.assert_allclose(size, [0, 0, 0, 0.15, 0.1], atol=1e-12)
    np.testing.assert_allclose(off, [0, 0, 0, 0.05, 0], atol=1e-12)
    expected = (0.5 * np.log(0.5 / 0.4) + 0.5 * np.log(0.5 / 0.6)) / 2
    np.testing.assert_allclose(kl, [0, 0, 0, expected, 0], atol=1e-12)


def test_bounded_is_the_right_way_and_little_besides():
    assert bounded(0.0, 0.0, 0.0, 0.1) and bounded(2.0, 0.1, 0.05, 0.1) and bounded(-2.0, -0.1, 0.05, 0.1)
    assert bounded(2.0, -0.9e-4, 0.0, 0.1) and not bounded(2.0, -1.1e-4, 0.0, 0.1)  # rounding is no move
    assert not bounded(2.0, -0.1, 0.0, 0.1) and not bounded(2.0, 0.1, 0.1, 0.1) and not bounded(-2.0, 0.1, 0.0, 0.1)


def test_the_range_ends_where_it_first_fails():
    assert bounded_range([True] * 5) == (STRENGTHS[0], STRENGTHS[-1])
    assert bounded_range([True, False, True, True, False]) == (0.0, 1.0)
    assert bounded_range([False, True, True, False, True]) == (-1.0, 0.0)


def test_who_and_what_is_asked(case):
    answers, offset = case
    read = answers.read(offset.sae, "question", torch.arange(0, len(answers.prompts), answers.orders))
    latents, questions = read_most(answers, offset, 2), np.arange(3)
    r = offset.weigh(read)
    targets = {latent: [4, 1, 0] for latent in latents}
    plan = audit.plans(lambda j: audit.meant(offset, r, j), questions, targets, 0, 4)[0]
    assert set(plan.questions) == set(questions[(r[:, latents[0]] != 0).numpy()])
    assert plan.targets.tolist() == [4, 1]  # of five groups, two and two
    assert len(plan.others) == 2 and not set(plan.others) & set(plan.targets)
    unread = offset.copy()
    unread.a.data[:, 0] = 0
    assert audit.plans(lambda j: audit.meant(unread, r, j), questions, targets, 0, 4) == []
    assert audit.plans(lambda j: audit.meant(offset, r, j), questions, {latents[0]: []}, 0, 4) == []


def test_an_audit_from_end_to_end(case, tiny):
    answers, offset = case
    survey = tiny.survey(np.full((5, 3, 4), 0.25), tiny.questions, GROUPS, ["sex"] * 2 + ["age"] * 3)
    splits = [tiny.split([0, 1], test=[2]), tiny.split([0], test=[0, 1])]
    latents, allowed = read_most(answers, offset, 4), np.array([True, True, False])
    keys = [("read", latent) for latent in latents] + [("write", 3), ("write", 8)]
    targets = {key: [number % 5, (number + 2) % 5] for number, key in enumerate(keys)}
    cells = audit.audit(answers, survey, splits, [offset, offset], targets, allowed)
    assert set(cells["question"]) <= {0, 1} and (cells["fold"] == 1).all()
    out = cells[cells["strength"] == 0]
    assert len(out) and (out[audit.MEASURES].abs() < 1e-12).all(axis=None)
    table = audit_table(cells, targets, GROUPS, np.arange(3), bound=0.1, replicates=20)
    assert len(table) == 6 * len(STRENGTHS) and list(table) == audit.COLUMNS
    own = table.drop_duplicates(["role", "latent"]).set_index(["role", "latent"])["meant_for"].to_dict()
    assert own == {key: "; ".join(GROUPS[g] for g in targets[key]) for key in keys}
    means = means_table(cells, table, np.arange(3), replicates=20)
    assert means["strength"].tolist() == [*STRENGTHS, *STRENGTHS] and means["bounded"].iloc[[2, 7]].tolist() == [4, 2]


def test_all_that_is_written_goes_the_way_that_it_goes(case, tiny):
    """Of an offset that writes one latent, that latent does what the groups' own part does in all."""
    answers, offset = case
    alone = offset.copy()
    alone.b.data[:, :, :3] = alone.b.data[:, :, 4:] = 0
    alone.deviation.data[:, :3] = alone.deviation.data[:, 4:] = 0
    survey = tiny.survey(np.full((5, 3, 4), 0.25), tiny.questions, GROUPS, ["sex"] * 2 + ["age"] * 3)
    splits, targets = [tiny.split([0], test=[1, 2])], {("write", 3): [0, 2]}
    cells = audit.audit(answers, survey, splits, [alone], targets, np.ones(3, bool))
    as_it_is = cells[cells["strength"] == 1]
    assert len(as_it_is) and (as_it_is["on_target"] >= 0).all() and as_it_is["on_target"].max() > 0


def test_tables_by_hand():
    rows = [("read", 7, 0, 0, s, 0.1 * s, 0.2 * abs(s), 0.01 * abs(s), 0.02 * abs(s)) for s in STRENGTHS]
    rows += [("read", 7, 1, 2, s, 0.3 * s, 0.4 * abs(s), 0.03 * abs(s), 0.02 * abs(s)) for s in STRENGTHS]
    cells = pd.DataFrame(rows, columns=audit.CELLS)
    targets = {("write", 9): [0], ("read", 7): [1, 0]}  # of which the first was not asked
    table = audit_table(cells, targets, list("abcd"), np.arange(3), bound=0.1, replicates=50).set_index("strength")
    one = table.loc[1.0]
    assert (table["latent"] == 7).all() and one["on_size"] == pytest.approx(0.3)
    assert one["on_target"] == pytest.approx(0.2) and one["off_target"] == pytest.approx(0.02)
    assert one["meant_for"] == "b; a" and one["folds"] == 2 and one["questions"] == 2
    assert (table["bounded_from"] == -1).all() and (table["bounded_to"] == 1).all()  # at 10 the KL is 0.2
    assert one["on_target_low"] == pytest.approx(0.1) and one["on_target_high"] == pytest.approx(0.3)
    means = means_table(cells, table.reset_index(), np.arange(3), 50)
    assert means["bounded"].tolist() == [0, 1, 1, 1, 0] and means["on_target"].iloc[4] == pytest.approx(2.0)
