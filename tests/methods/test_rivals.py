"""The equation of each rival in a case that can be worked by hand."""

import numpy as np
import pytest
import torch

from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.methods.asked import toplines_told
from opinion_sae.methods.cast import Condition, Conditional, conditions, f1, similarity
from opinion_sae.methods.contract import Scaled
from opinion_sae.methods.corrsteer import correlated, outcomes
from opinion_sae.methods.gpo import InContext
from opinion_sae.methods.loreft import LoReFT
from opinion_sae.methods.output_score import kept, ranked
from opinion_sae.methods.persona_vector import contrary, mean_written
from opinion_sae.methods.pooled import POOLS, pool_latents
from opinion_sae.methods.purified import remaining, shared_with_others
from opinion_sae.methods.sae_ssv import largest, probes
from opinion_sae.methods.tiers import Tiered, most, tiered
from opinion_sae.sae.autoencoder import SparseAutoencoder


@pytest.fixture
def axes_sae():
    """Three latents along the three axes of the stream: z = max(x, 0)."""
    return SparseAutoencoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3)).requires_grad_(False)


def test_scaled_goes_that_share_of_the_way(axes_sae):
    delta = GroupDelta(("a",), axes_sae).with_parts(deviation=torch.tensor([[2.0, 0.0, 0.0]]))
    x = torch.tensor([[1.0, 1.0, 1.0]])
    assert Scaled(delta, 0.5).steer(x)[0, 0].tolist() == [2.0, 1.0, 1.0]


def test_loreft_moves_only_within_its_rows_to_where_it_wants_them():
    change = LoReFT(("a", "b"), torch.tensor([1.0, 0.0, 0.0]), rank=1)
    change.rows.data = torch.tensor([[[0.0, 2.0, 0.0]], [[0.0, 0.0, 1.0]]])  # made orthonormal, up to the sign
    x = torch.tensor([[3.0, 5.0, 7.0]])
    assert torch.equal(change.steer(x), x[:, None].expand(-1, 2, -1))  # nothing is changed at the start
    change.A.data[0, 0, 0], change.b.data[1, 0] = 1.0, 4.0
    moved = change.steer(x)[0] - x
    assert moved.abs().tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 4.0]]  # 1 (x_1 - mean_1) = 2, and b = 4


def test_output_score_takes_the_best_of_rank_and_probability():
    p = torch.tensor([[0.5, 0.1, 0.4, 0.0]])
    # token 2 has rank 1: 0.4 (1 - 1/4) = 0.3; token 1 rank 2: 0.1 (1 - 2/4) = 0.05
    assert ranked(p, torch.tensor([[1, 2]])).tolist() == pytest.approx([0.3])
    assert ranked(p, torch.tensor([[0, 1]])).tolist() == pytest.approx([0.5])


def test_output_score_keeps_a_groups_largest_latents_that_change_the_output():
    difference = torch.tensor([[3.0, 2.0, 1.0, -9.0], [0.0, 1.0, 2.0, 4.0]])
    scores = torch.tensor([0.0, 0.5, 0.9, 0.6])  # the first group's largest does nothing to the output
    found = kept(difference, scores, largest=2, count=1)
    assert found.tolist() == [[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]
    assert kept(difference, scores, largest=4, count=4).tolist() == difference.clamp_min(0).tolist()


def test_corrsteer_correlates_over_the_questions_a_group_answered():
    z = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [9.0, 1.0]])
    y = torch.tensor([[0.1, 0.2, 0.3, torch.nan], [0.3, 0.2, 0.1, torch.nan]])
    r, means = correlated(z, y)
    assert r[:, 0].tolist() == pytest.approx([1.0, -1.0], abs=1e-3) and r[:, 1].tolist() == [0.0, 0.0]
    assert means[0].tolist() == pytest.approx([(0.2 + 0.6) / 0.6, 1.0])


def test_corrsteers_outcome_is_the_share_that_gave_the_models_answer(two_groups):
    said = np.log(np.full((1, 3, 4), 0.25))
    said[0, 0, 1], said[0, 1, 3] = 0.0, 0.0
    found = outcomes(two_groups, said)
    assert found[0].tolist() == pytest.approx([0.1, 0.4, 0.0]) and found[1, :2].tolist() == pytest.approx([0.8, 0.1])
    assert torch.isnan(found[1, 2])


def test_cast_adds_its_vector_where_the_stream_is_like_the_condition():
    condition = Condition(torch.tensor([[1.0, 0.0]] * 2), torch.tensor([0.8, 0.8]), torch.tensor([True, False]))
    x = torch.tensor([[3.0, 4.0], [4.0, 3.0]])  # similarities 0.6 and 0.8
    assert similarity(x, condition.c)[:, 0].tolist() == pytest.approx([0.6, 0.8])
    x[1, 0] = 5.0
    moved = Conditional(("a", "b"), torch.tensor([[1.0, 1.0]] * 2), condition).steer(x) - x[:, None]
    assert moved[..., 0].tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_cast_finds_a_condition_that_parts_what_it_helps():
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [8.0, 5.0], [9.0, 5.0]])
    found = conditions(x, torch.tensor([[0.1, 0.2, -0.1, -0.2], [torch.nan, 0.1, 0.1, -0.3]]))
    assert found.holds(x)[:, 0].tolist() == [False, False, True, True]
    assert f1(torch.tensor([True, True]), torch.tensor([True, False])) == pytest.approx(2 / 3)
    assert f1(torch.tensor([False]), torch.tensor([False])) == 0


def test_tiers_differ_in_when_they_steer(axes_sae):
    amounts = torch.tensor([[0.0, 2.0, 1.0]])
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    moved = {
        tier: Tiered(("a",), axes_sae, amounts, tier).steer(x)[:, 0] - x for tier in ("constant", "token", "prompt")
    }
    assert moved["constant"].tolist() == [[0, 2, 1]] * 3
    assert moved["token"].tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert moved["prompt"].tolist() == [[0, 2, 0], [0, 2, 0], [0, 2, 1]]  # in a text, from where it first fires
    read = torch.tensor([[0.0, -1.0, 0.0]] * 3)  # of questions, counted by what was read; options reversed
    assert (Tiered(("a",), axes_sae, amounts, "prompt").steer(x, read)[:, 0] - x).tolist() == [[0, 2, 0]] * 3
    assert most(torch.tensor([[1.0, -3.0, 2.0]]), 2).tolist() == [[0.0, -3.0, 2.0]]
    with pytest.raises(ValueError, match="tier 'sometimes' is not one of constant, prompt, token"):
        tiered("sometimes")


def test_purified_takes_out_what_other_attributes_have():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = shared_with_others(vectors, ["party", "party", "race", "race"])
    assert found[0].tolist() == pytest.approx([3.0, 0.0, 0.0])  # along the one direction of race
    assert found[2].tolist() == pytest.approx([2 * 0.36, 2 * 0.48, 0.0], abs=1e-6)  # along (3, 4) / 5
    assert not shared_with_others(vectors, ["party"] * 4).any()
    left = remaining(vectors, ["party", "party", "race", "race"])
    # of (3, 4, 0) the 4 is left of 25; of (2, 0, 0) what is not along (3, 4) / 5
    assert left == {"party without race": pytest.approx(16 / 25), "race without party": pytest.approx(1 - 0.36)}
    assert remaining(vectors, ["age", "party", "race", "party"]).keys() == {
        f"{one} without {other}"
        for one, other in (("age", "party"), ("age", "race"), ("race", "age"), ("race", "party"))
    }


def test_the_probe_finds_the_latent_that_tells_a_group(tiny):
    survey = tiny.survey(np.full((3, 3, 4), 0.25), groups=("a", "b", "c"), attributes=["sex", "sex", "age"])
    z = torch.zeros(3, 2, 4)
    z[0, :, 2], z[:, 0, 1] = 5.0, 1.0  # latent 2 tells the first; latent 1 fires at the first question for all
    weights, difference = probes(survey, z)
    assert weights[0].abs().argmax() == 2 and weights[0, 2] > 0 > weights[1, 2] and difference[0, 2] == 5
    assert largest(weights, 1)[0].tolist() == [False, False, True, False]
    assert not weights[2].any() and not largest(weights, 2)[2].any()  # nobody beside it


def test_pooling(axes_sae):
    stream = torch.tensor([[1.0, -1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    question = torch.tensor([0, 0, 2])
    found = {name: pool_latents(axes_sae, stream, question, 3, over).tolist() for name, over in POOLS.items()}
    assert found["mean"] == [[2, 0, 0], [0, 0, 0], [0, 2, 0]] and found["max"][0] == [3, 0, 0]
    assert found["binary"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_in_context_a_wanted_point_is_seen_by_no_other_and_given_ones_have_no_order():
    net = InContext(2, 0)
    torch.nn.init.normal_(net.out.weight)
    x, y = torch.randn(5, 2), torch.rand(1, 5)
    given = torch.tensor([[True, True, True, False, False]])
    before = net(x, y, given)
    other = x.clone()
    other[4] += 1
    after = net(other, y, given)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4], before[:, 4])
    torch.testing.assert_close(net(x, y + 9 * ~given, given), before)  # what is asked for is not known
    order = [2, 0, 1, 3, 4]
    torch.testing.assert_close(net(x[order], y[:, order], given)[:, 3], before[:, 3])


def test_persona_vectors_are_read_at_what_is_written_whatever_else_is_in_the_batch(lm):
    texts = ["Is it so?", "What do you say of the new road, and of the old?"]
    both = mean_written(lm, texts, 1, tokens=4)
    for text, row in zip(texts, both, strict=True):
        torch.testing.assert_close(mean_written(lm, [text], 1, tokens=4)[0], row, atol=1e-4, rtol=1e-4)
    ids = torch.tensor(lm.tokenizer(f"Question: {texts[0]}\nAnswer:")["input_ids"])[None]
    whole = lm.model.generate(input_ids=ids, max_new_tokens=4, min_new_tokens=2, do_sample=False, pad_token_id=1)
    by_hand = lm.residual(whole, 1)[0, ids.shape[1] : -1].mean(0)  # the last is never read back
    torch.testing.assert_close(both[0], by_hand, atol=1e-4, rtol=1e-4)
    assert contrary("sex", "Female") == (
        "Put yourself in the place of somebody who is not a Female adult. Answer as this person would."
    )


def test_a_prompt_with_toplines_tells_everybodys_answers(two_groups):
    text = toplines_told(two_groups, 0, 0)
    assert "a Female adult" in text and "55% 'Yes', 45% 'No'" in text
