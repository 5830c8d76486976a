"""From a read-out to an offset, and what training does to it."""

import copy

import numpy as np
import pytest
import torch

from opinion_sae.delta.directions import Effects
from opinion_sae.delta.fit_reading import Axes, Tuning, axes_of, few_features, start, task_loss, tune
from opinion_sae.delta.reading import DenseReading, ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.train import untrained_sae
from opinion_sae.score.toplines import from_toplines

ALL = torch.arange(3)


def test_axes_are_the_read_outs_first_and_all_of_them_are_the_read_out():
    generator = torch.Generator().manual_seed(0)
    W, constant = torch.randn(4, 2, 9, generator=generator), torch.randn(4, 2, generator=generator)
    W[1] = -3 * W[0]
    r = torch.randn(20, 9, generator=generator)
    said = torch.einsum("gbf,qf->gqb", W, r) + constant[:, None]
    torch.testing.assert_close(axes_of(W, constant, 4, r).tilts(r), said, atol=1e-4, rtol=1e-4)
    first = axes_of(W, constant, 1, r)
    assert first.c[1, 0] / first.c[0, 0] == pytest.approx(-3, rel=0.2)
    two, three = ((axes_of(W, constant, count, r).tilts(r) - said).norm() for count in (2, 3))
    assert three < 1e-3 < two  # rank three


def test_few_features_find_those_that_matter():
    generator = torch.Generator().manual_seed(1)
    r = torch.randn(200, 30, generator=generator)
    r[:, 7] = 0  # never fires
    true = torch.zeros(1, 2, 30)
    true[0, :, [3, 11, 20, 21]] = torch.tensor([[3.0, -2.0, 2.0, 1.5], [1.0, 2.0, -2.0, 3.0]])
    c, constant = torch.tensor([[0.6], [-0.8]]), torch.tensor([[0.1, 0.0], [0.0, 0.2]])
    tilts = Axes(true, c, constant).tilts(r)
    found = few_features(Axes(torch.ones(1, 2, 30), c, constant), r, tilts, 4, 1e-4)
    torch.testing.assert_close(found.a, true, atol=1e-2, rtol=1e-2)
    more = few_features(Axes(torch.ones(1, 2, 30), c, constant), r, tilts, 29, 1.0).a
    assert (more != 0).any(1).sum() == 29 and not more[..., 7].any()
    among = torch.zeros(1, 30, dtype=torch.bool)
    among[0, [3, 7, 11]] = True  # 7 never fires
    own = few_features(Axes(torch.ones(1, 2, 30), c, constant), r, tilts, 3, 1e-4, among).a
    assert (own != 0).any(1)[0].nonzero()[:, 0].tolist() == [3, 11]


def test_the_start_says_what_the_read_out_says(lm, tiny):
    """To first order: a small lean along the scale comes out of the model as the read-out has it."""
    answers, sae = AnswerPath(lm, tiny.questions, 1, orders=1), untrained_sae(torch.zeros(2, 32), 400, 4, seed=0)
    wishes = torch.zeros(3, 1, 4)
    for row, question in zip(wishes, tiny.questions, strict=True):
        row[0, : len(question.options)] = torch.linspace(-1, 1, len(question.options))
    for offset in (
        ReadingDelta(("a", "b"), sae, axes=1, reads="last"),
        DenseReading(("a", "b"), 32, axes=1, reads="last"),
    ):
        read = answers.read(offset.sae, offset.reads, ALL)
        offset.learn_weights(read)
        r = offset.weigh(read)
        axes = Axes(0.02 * r[1][None, None], torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.0], [0.01]]))
        start(offset, axes, Effects(answers), wishes, ALL, penalty=1e-4)
        moved = answers.log_probs(offset) - answers.log_probs()
        lean = (moved.nan_to_num() * wishes[:, 0]).sum(-1) / wishes[:, 0].square().sum(-1)
        expected = axes.tilts(r)[..., 0]
        torch.testing.assert_close(lean, expected, atol=4e-3, rtol=0.15)
        assert lean[0, 1] > 0.008 > 0 > lean[1, 1]


@pytest.fixture
def fitted(lm, tiny):
    answers = AnswerPath(lm, tiny.questions, 1, orders=1)
    shares = np.full((2, 3, 4), 0.0)
    shares[0, 0, :2], shares[1, 0, :2] = (0.9, 0.1), (0.3, 0.7)
    shares[0, 1], shares[1, 1] = (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)
    shares[0, 2, :3], shares[1, 2, :3] = (0.2, 0.5, 0.3), (0.5, 0.2, 0.3)
    return answers, tiny.survey(shares), tiny.sae()


def begun(survey, sae, seed=0):
    offset, generator = ReadingDelta(survey.groups, sae, axes=1), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in "abc":
            part = getattr(offset, name)
            part.copy_(0.1 * torch.randn(part.shape, generator=generator))
    return offset


def test_training_lowers_the_loss_keeps_the_best_epoch_and_reads_no_more_than_it_did(fitted):
    answers, survey, sae = fitted
    loss, offset = task_loss(survey), begun(survey, sae)
    offset.a.data[..., ::2] = 0
    before = loss(answers.predict(offset, ALL), ALL).item()
    history = tune(answers, offset, loss, ALL, ALL, Tuning(epochs=12, batch=3, lr=0.3))
    after = loss(answers.predict(offset, ALL), ALL).item()
    assert history["validation_kl"][0] == pytest.approx(before)
    assert after == pytest.approx(history["validation_kl"].min()) and after < 0.7 * before
    assert not offset.a[..., ::2].any() and offset.a[..., 1::2].any()
    assert history["train_kl"].isna().tolist() == [True] + [False] * (len(history) - 1)


def test_an_l1_term_makes_exact_zeros(fitted):
    answers, survey, sae = fitted
    loss = task_loss(survey, "alone")
    counts = []
    for l1 in (0.0, 1e-5, 20.0):
        offset = begun(survey, sae)
        settings = Tuning(epochs=10, batch=3, lr=0.1, l1_a=l1, l1_b=l1, l1_c=l1, l1_constant=l1, patience=10)
        history = tune(answers, offset, loss, ALL, ALL, settings)
        counts.append(history["entries_b"].min())
    assert counts[0] == 24 > counts[1] > counts[2] == 0


def test_only_the_parts_named_are_trained(fitted):
    answers, survey, sae = fitted
    offset = begun(survey, sae)
    before = copy.deepcopy(offset.state_dict())
    tune(answers, offset, task_loss(survey), ALL, ALL, Tuning(epochs=2, batch=3, lr=0.3), parts=("c",))
    changed = [name for name, part in offset.state_dict().items() if not torch.equal(part, before[name])]
    assert changed == ["c"]


def test_the_loss_of_a_task_is_the_measure_of_it(fitted):
    answers, survey, sae = fitted
    log_probs = answers.predict(begun(survey, sae), ALL)
    tilted = torch.from_numpy(from_toplines(survey, log_probs.numpy())).float()
    alone, toplines = task_loss(survey, "alone"), task_loss(survey)
    torch.testing.assert_close(toplines(log_probs, ALL), alone(tilted, ALL))
    with pytest.raises(ValueError, match="task 'both' is not one of alone, toplines"):
        task_loss(survey, "both")
    with pytest.raises(ValueError, match=r"not be negative, and batch at least 1: \{'batch': 0\}"):
        Tuning(batch=0)
