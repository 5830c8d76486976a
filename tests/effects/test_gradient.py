"""The KL's gradient at offset zero, against torch's own through the offsets."""

import numpy as np
import pytest
import torch

from opinion_sae.delta.fit_reading import task_loss
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.gradient import COLUMNS, Gradients, constant_parts, gradient_table, reading_parts
from opinion_sae.model.answers import AnswerPath


@pytest.fixture(scope="module", params=[1, 2])
def case(request, six_questions, tiny):
    answers = AnswerPath(tiny.lm("llama"), six_questions.questions, 2, orders=request.param)
    return answers, six_questions, Gradients(answers, six_questions)


def by_autograd(answers, survey, offset, name, task):
    loss = task_loss(survey, task)(answers.log_probs(offset), torch.arange(len(survey.questions)))
    return -torch.autograd.grad(loss, getattr(offset, name))[0]


def everything(answers):
    return torch.ones(len(answers.prompts))


def test_constant_parts_are_torchs_gradient_at_zero(case, tiny):
    answers, survey, gradients = case
    zero = GroupDelta(survey.groups, tiny.sae())
    found = constant_parts(gradients, answers, tiny.split(range(6)), zero)
    expected = by_autograd(answers, survey, zero, "deviation", "alone")
    torch.testing.assert_close(
        found["own"].gradient(everything(answers)), expected - expected.mean(0), atol=1e-5, rtol=1e-3
    )
    shared = found["shared"].gradient(everything(answers))[0]
    torch.testing.assert_close(shared, expected.mean(0), atol=1e-5, rtol=1e-3)


def offset(survey, tiny):
    made = ReadingDelta(survey.groups, tiny.sae(), axes=2, directions=2)
    generator = torch.Generator().manual_seed(1)
    made.a.data.copy_(torch.randn(made.a.shape, generator=generator))
    made.c.data.copy_(torch.randn(made.c.shape, generator=generator))
    made.b.data.copy_(torch.randn(1, 2, 24, generator=generator).expand(2, -1, -1))
    return made


def test_what_is_written_is_torchs_gradient_by_b(case, tiny):
    answers, survey, gradients = case
    made = offset(survey, tiny)
    found = reading_parts(gradients, answers, tiny.split(range(5), [5]), made)["written"]
    start = made.copy()
    start.b.data.zero_()
    expected = by_autograd(answers, survey, start, "b", "toplines").sum(0)
    torch.testing.assert_close(found.gradient(everything(answers)), expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.fit, made.b[0].detach())


def test_sizes_of_what_is_read_are_norms_of_the_whole_matrix(case, tiny):
    """Both the gradient's and the fit's, over groups and the stream, latent by latent."""
    answers, survey, gradients = case
    made = offset(survey, tiny)
    read = answers.read(made.sae, "question", torch.arange(len(answers.prompts)))
    known = (made.weigh(read) != 0).sum(0) >= 5 * answers.orders
    assert known.any() and not known.all()
    part = reading_parts(gradients, answers, tiny.split(range(6)), made)["read"]
    matrix = torch.einsum("gid,im->gdm", gradients.toplines, made.weigh(read))
    torch.testing.assert_close(
        part.gradient(everything(answers))[0], matrix.norm(dim=(0, 1))[known], atol=1e-6, rtol=1e-3
    )
    fitted = torch.einsum("gk,kwj,kwm,md->gdj", made.codes(), made.a, made.b, made.sae.W_dec).detach()
    torch.testing.assert_close(part.fit[0], fitted.norm(dim=(0, 1))[known], atol=1e-4, rtol=1e-4)


def test_a_fit_that_follows_the_gradient_is_found_to(case, tiny):
    answers, survey, gradients = case
    splits = [tiny.split(range(4), [4], [5]), tiny.split(range(2, 6), [1], [0])]
    deltas = []
    for split in splits:
        delta, weights = GroupDelta(survey.groups, tiny.sae()), torch.zeros(6)
        weights[split.train] = 1
        parts = constant_parts(gradients, answers, split, delta)
        delta.shared.data.copy_(parts["shared"].gradient(weights.repeat_interleave(answers.orders))[0])
        deltas.append(delta)
    offsets = [(delta, offset(survey, tiny)) for delta in deltas]
    table = gradient_table(answers, survey, splits, offsets, np.arange(6)).set_index(["part", "fold"])
    assert list(table.reset_index()) == COLUMNS and set(table.index.get_level_values(0)) == {
        *("shared", "own", "read", "written")
    }
    shared = table.loc[("shared", "all")]
    assert shared["rank_r"] == pytest.approx(1) and shared["overlap"] == 1 and shared["same_sign"] == 1
    assert shared["rank_r_low"] < 1 == shared["rank_r_high"] and 0.5 < shared["chance"] < 1  # 24 latents, most used
    assert table.loc["own", "rank_r"].isna().all()  # not used
    assert table.loc["read", "same_sign"].isna().all()
