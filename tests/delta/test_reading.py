"""Offsets that read the question: the equation by hand, its gradients, codes of intersections, files."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import DenseReading, ReadingDelta, RectifiedReading, memberships
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder

GROUPS = ("Democrat", "Female")


def hand_made_sae():
    """x = (x0, x1, x2) has latents (x0, x1 - 1, x2) rectified."""
    return SparseAutoencoder(
        torch.eye(3), torch.tensor([0.0, -1.0, 0.0]), torch.eye(3), torch.zeros(3), subtract_b_dec=False
    ).requires_grad_(False)


def hand_made():
    """One axis that reads latent 0 and writes latent 1 up and latent 2 down; the second group stands at -2."""
    offset = ReadingDelta(GROUPS, hand_made_sae(), axes=1, directions=1)
    with torch.no_grad():
        offset.a[0, 0] = torch.tensor([2.0, 0.0, 0.0])
        offset.b[0, 0] = torch.tensor([0.0, 1.0, -1.0])
        offset.c[:, 0] = torch.tensor([1.0, -2.0])
        offset.idf.copy_(torch.tensor([1.0, 1.0, 1.0]))
        offset.deviation[1, 0] = 0.5
    return offset


def random_offset(seed=0, groups=GROUPS, axes=2, directions=2, sae=None):
    generator = torch.Generator().manual_seed(seed)
    offset = ReadingDelta(groups, sae or hand_made_sae(), axes=axes, directions=directions)
    with torch.no_grad():
        for part in offset.parameters():
            part.copy_(torch.randn(part.shape, generator=generator))
    return offset


def test_steering_by_hand():
    x = torch.tensor([[1.0, 1.5, 2.0], [1.0, 0.0, 2.0]])  # latents (1, 0.5, 2) and (1, 0, 2)
    read = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])  # r = (1, 0, 0) and (0, 1, 0), so a . r = 2 and 0
    found = hand_made().steer(x, read=read)
    # first question: +2 b = (0, 2, -2) for Democrat, -4 b = (0, -4, 4) and 0.5 for Female; second: nothing is read
    expected = [[[1, 3.5, 0], [1.5, 1.0, 6]], [[1, 0, 2], [1.5, 0, 2]]]
    assert found.tolist() == expected


def test_every_direction_is_written_by_what_was_read_for_it():
    offset, read = random_offset(), torch.tensor([[1.0, 0.0, 2.0]])
    offset.shared.data.fill_(9.0)  # all latents open, so that the equation is linear
    r = offset.weigh(read)[0]
    delta = torch.zeros(2, 3)
    for g in range(2):
        delta[g] = offset.shared + offset.deviation[g]
        for k in range(2):
            for w in range(2):
                delta[g] += offset.c[g, k] * (offset.a[k, w] @ r) * offset.b[k, w]
    x = torch.tensor([[5.0, 5.0, 5.0]])
    torch.testing.assert_close(offset.steer(x, read=read)[0], x + delta)


def test_an_offset_of_zero_leaves_the_model_exactly_as_it_was(lm, tiny):
    answers, sae = AnswerPath(lm, tiny.questions, 1), tiny.sae()
    for offset in (ReadingDelta(("all",), sae), DenseReading(("all",), 32)):
        assert torch.equal(answers.log_probs(offset), answers.log_probs())


def test_without_axes_it_is_the_constant_offset():
    sae, generator = hand_made_sae(), torch.Generator().manual_seed(1)
    offset = random_offset(axes=0)
    constant = GroupDelta(GROUPS, sae)
    constant.load_state_dict({name: getattr(offset, name).detach() for name in ("shared", "deviation")})
    x = torch.randn(6, 3, generator=generator)
    mine, theirs = offset.steer(x, read=torch.ones(6, 3)), constant.steer(x)
    torch.testing.assert_close(mine, theirs)
    outer = torch.randn(mine.shape, generator=generator)
    (mine * outer).sum().backward()
    (theirs * outer).sum().backward()
    always_open = ((sae.encode(x)[:, None] + constant.offsets()) > 0).all(0)
    assert always_open.any()
    torch.testing.assert_close(offset.deviation.grad[always_open], constant.deviation.grad[always_open])


def test_what_is_read_depends_on_the_question_and_on_the_order(lm, tiny):
    answers, sae = AnswerPath(lm, tiny.questions, 1, orders=2), tiny.sae()
    offset = random_offset(sae=sae)
    assert offset.steer(answers.residual[:1], read=answers.read(sae, "question", torch.tensor([0]))).shape == (1, 2, 32)
    scores = offset.scores(answers.read(sae, "question", torch.arange(6)))
    assert (scores[0] - scores[2]).abs().max() > 0.01
    assert (torch.sign(scores[0::2]) == -torch.sign(scores[1::2])).float().mean() > 0.8
    moved = answers.log_probs(offset)
    assert not torch.allclose(moved[0], moved[1])


def dense_formula(constant, c, written, z, W_dec):
    moved = z[:, None] + constant + torch.einsum("gk,ikm->igm", c, written)
    return (moved.relu() - z[:, None]) @ W_dec


def test_gradients_are_autograds_where_latents_are_open_and_none_of_reading_where_shut():
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(5, 7, generator=generator).relu()
    values, indices = z.topk(4)
    parts = [torch.randn(size, generator=generator) for size in ((3, 7), (3, 2), (5, 2, 7))]
    W_dec, outer = torch.randn(7, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    z = torch.zeros(5, 7).scatter(1, indices, values)
    ours, exact = ([part.clone().requires_grad_() for part in parts] for _ in "ab")
    found, expected = RectifiedReading.apply(*ours, values, indices, W_dec), dense_formula(*exact, z, W_dec)
    torch.testing.assert_close(found, expected)
    (found * outer).sum().backward()
    (expected * outer).sum().backward()
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    # the constant part also hears of items for which the latent is shut, if opening it would help
    shut = dense_formula(*parts, z, W_dec).new_tensor(0) + (
        (outer @ W_dec.T) * (z[:, None] + parts[0] + torch.einsum("gk,ikm->igm", parts[1], parts[2]) < 0)
    ).sum(0)
    torch.testing.assert_close(ours[0].grad, exact[0].grad + shut.clamp_max(0))


def test_a_silent_latent_that_nothing_writes_to_is_recruited():
    offset = ReadingDelta(("a", "b"), hand_made_sae(), axes=1)
    x, read = torch.tensor([[1.0, 0.0, 2.0]] * 2), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    goal = x[:, None].repeat(1, 2, 1)
    goal[0, 0, 1] = 3.0  # latent 1, silent: up by 3 for the first question and the first group alone
    with torch.no_grad():
        offset.a[0, 0] = torch.tensor([1.0, -1.0, 0.0])
        offset.c[:, 0] = torch.tensor([1.0, 0.0])
    optimiser = torch.optim.Adam([offset.b], lr=0.1)
    losses = []
    for _ in range(300):
        loss = (offset.steer(x, read=read) - goal).pow(2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == 9 and losses[-1] < 0.01


def test_an_intersection_has_the_sum_of_its_groups_codes():
    offset = random_offset()
    both = offset.for_groups(["Democrat & Female", "Female"])
    assert both.groups == ("Democrat & Female", "Female") and both.sae is offset.sae
    torch.testing.assert_close(both.codes(), torch.stack([offset.c.sum(0), offset.c[1]]))
    torch.testing.assert_close(both.offsets()[0], offset.shared + offset.deviation.sum(0))
    # and one that is fitted to intersections has a code for each of their groups
    fitted = random_offset(groups=("Democrat & Female", "Democrat & Male"))
    assert fitted.parts == ("Democrat", "Female", "Male")
    torch.testing.assert_close(fitted.for_groups(["Male"]).codes(), fitted.c[2:])
    with pytest.raises(KeyError, match=r"no offset for \['Asian'\], which 'Asian & Female' needs; there are"):
        offset.for_groups(["Asian & Female"])


@pytest.mark.parametrize("groups", [("a",), ("a", "b & a")])
def test_memberships(groups):
    assert memberships(groups, ("b", "a")).tolist() == [[0, 1], [1, 1]][: len(groups)]


def test_copies_share_the_sae_and_nothing_else():
    offset = random_offset()
    for other in (copy.deepcopy(offset), offset.copy()):
        assert other.sae is offset.sae
        for part, same in zip(offset.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(part, same) and part.data_ptr() != same.data_ptr()
    assert sorted(dict(offset.named_parameters())) == ["a", "b", "c", "deviation", "shared"]
    half = offset.dosed(2.0, 0.5)
    torch.testing.assert_close(half.offsets(), 2 * offset.shared + 0.5 * offset.deviation)
    torch.testing.assert_close(half.codes(), 0.5 * offset.codes())
    torch.testing.assert_close(half.a, offset.a)


def test_a_saved_offset_comes_back(tmp_path):
    path, offset = tmp_path / "reading.safetensors", random_offset().for_groups(["Democrat & Female"])
    offset.idf.mul_(3)
    offset.save(path, model="packaged:tiny", hook_layer="3")
    back = ReadingDelta.load(path, hand_made_sae())
    assert back.about == {"model": "packaged:tiny", "hook_layer": "3"}
    assert back.groups == offset.groups and back.parts == offset.parts and back.reads == "question"
    x, read = torch.rand(2, 3), torch.rand(2, 3)
    assert torch.equal(back.steer(x, read), offset.steer(x, read))
    assert [file.name for file in tmp_path.iterdir()] == ["reading.safetensors"]
    with pytest.raises(ValueError, match="needs what the prompts hold to read"):
        back.steer(x)
    other = SparseAutoencoder(torch.eye(3), torch.ones(3), torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match="reading.safetensors: fitted with the SAE .*, but loaded with the SAE"):
        ReadingDelta.load(path, other)
    back.save(path)  # what it was read with is kept
    assert ReadingDelta.load(path, hand_made_sae()).about["hook_layer"] == "3"


def test_a_dense_reading_comes_back_too(tmp_path):
    offset = DenseReading(GROUPS, 3, axes=1, directions=2, reads="options")
    with torch.no_grad():
        for part in offset.parameters():
            part.normal_()
    offset.learn_weights(torch.randn(8, 3) + 5)
    offset.save(tmp_path / "dense.safetensors")
    back = DenseReading.load(tmp_path / "dense.safetensors")
    x, read = torch.rand(2, 3), torch.rand(2, 3)
    assert back.about == {} and torch.equal(back.steer(x, read), offset.steer(x, read))
    with pytest.raises(ValueError, match="needs what the prompts hold to read"):
        back.steer(x)


def test_files_that_are_no_reading_offsets_are_refused(tmp_path):
    path, offset = tmp_path / "file.safetensors", random_offset()
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"file.safetensors: not a file of group offsets"):
        ReadingDelta.load(path, hand_made_sae())
    GroupDelta(GROUPS, hand_made_sae()).save(path)
    with pytest.raises(ValueError, match="not a ReadingDelta; .*kind 'GroupDelta'"):
        ReadingDelta.load(path, hand_made_sae())
    offset.save(path)
    header = {"format": "opinion-sae-delta", "kind": "ReadingDelta", "reads": "question"}
    header |= {"groups": '["Democrat", "Female"]', "parts": '["Democrat", "Female"]'}
    good = load_file(path)
    for name, bad, message in (
        ("b", good["b"][:1], r"tensor b has shape \(1, 2, 3\), expected \(2, 2, 3\)"),
        ("idf", good["idf"] * torch.nan, "file.safetensors: idf holds values that are not finite"),
        ("c", None, r"tensor c is not there, expected \(2, 2\)"),
    ):
        tensors = {**good, name: bad}
        if bad is None:
            del tensors[name]
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata=header)
        with pytest.raises(ValueError, match=message):
            ReadingDelta.load(path, hand_made_sae())


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="may read last, question, options, not 'answer'"):
        ReadingDelta(GROUPS, hand_made_sae(), reads="answer")


def test_dense_reading_by_hand():
    offset = DenseReading(("a", "b"), 2, axes=1)
    offset.learn_weights(torch.tensor([[4.0, 1.0], [6.0, 3.0], [5.0, 2.0]]))  # mean (5, 2), deviation (1, 1)
    with torch.no_grad():
        offset.a[0, 0], offset.b[0, 0] = torch.tensor([2.0**0.5, 0.0]), torch.tensor([0.0, 1.0])
        offset.c[:, 0] = torch.tensor([1.0, -1.0])
    x = torch.zeros(2, 2)
    found = offset.steer(x, read=torch.tensor([[6.0, 2.0], [-6.0, -2.0]]))  # the second's options are reversed
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1.0], [0.0, -1.0]], [[0.0, -1.0], [0.0, 1.0]]]))


def test_arithmetic_is_that_of_every_offset():
    offset = random_offset()
    x, read = torch.rand(2, 3), torch.rand(2, 3)
    alone = offset.shared_for(["x", "y", "z"])
    torch.testing.assert_close(alone.offsets(), offset.shared.expand(3, 3))
    assert alone.groups == ("x", "y", "z") and not alone.codes().any()
    view = offset.shared_only()
    assert view.shared is offset.shared and view.steer(x, read).shape == (2, 1, 3)
    back = offset.flip(keep_shared=True)
    torch.testing.assert_close(back.offsets(), offset.shared - offset.deviation)
    torch.testing.assert_close(back.codes(), -offset.codes())
    torch.testing.assert_close(offset.scaled(0.0).steer(x, read), x[:, None].expand(2, 2, 3))
    assert not offset.scaled(2.0).c.requires_grad
    assert offset.composed([("Democrat", "Female")]).groups == ("Democrat & Female",)
