"""Offsets to latents: the sparse formula against the dense one, and the rule where the rectifier is shut."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from opinion_sae.delta.offsets import DenseOffset, GroupDelta, LowRankDelta, RectifiedShift
from opinion_sae.sae.autoencoder import SparseAutoencoder

FIRST_EDITION = Path(__file__).parent / "data" / "first-edition.safetensors"
SIZES = st.tuples(*[st.integers(1, size) for size in (5, 3, 8, 4)])  # item, group, m, d


def random_case(sizes, active, seed, open_everywhere=False):
    """Sparse non-negative latents as (values, indices) and dense, offsets, decoder, outer gradient."""
    item, group, m, d = sizes
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(item, m, generator=generator).argsort(1)[:, :active]
    # as in a top-k code, some of the k places hold nothing
    values = torch.randn(item, active, generator=generator).relu()
    delta = torch.randn(group, m, generator=generator)
    if open_everywhere:
        delta = delta.abs() + 0.01
    z = torch.zeros(item, m).scatter(1, indices, values)
    W_dec = torch.randn(m, d, generator=generator)
    return values, indices, z, delta, W_dec, torch.randn(item, group, d, generator=generator)


@settings(max_examples=60)
@given(SIZES, st.data(), st.integers(0, 2**32))
def test_forward_is_the_dense_formula(sizes, data, seed):
    active = data.draw(st.integers(1, sizes[2]))
    values, indices, z, delta, W_dec, _ = random_case(sizes, active, seed)
    found = RectifiedShift.apply(delta, values, indices, W_dec)
    z_g = (z[:, None] + delta).clamp_min(0)
    torch.testing.assert_close(found, z_g @ W_dec - (z @ W_dec)[:, None], atol=1e-4, rtol=1e-4)


@settings(max_examples=40)
@given(SIZES, st.data(), st.integers(0, 2**32))
def test_backward_is_autograd_where_everything_is_open(sizes, data, seed):
    active = data.draw(st.integers(1, sizes[2]))
    values, indices, z, delta, W_dec, outer = random_case(sizes, active, seed, open_everywhere=True)
    sparse, dense = delta.clone().requires_grad_(), delta.clone().requires_grad_()
    (RectifiedShift.apply(sparse, values, indices, W_dec) * outer).sum().backward()
    (((z[:, None] + dense).relu() @ W_dec) * outer).sum().backward()
    torch.testing.assert_close(sparse.grad, dense.grad, atol=1e-4, rtol=1e-4)


@settings(max_examples=60)
@given(SIZES, st.data(), st.integers(0, 2**32))
def test_backward_lets_shut_latents_through_in_the_opening_direction_only(sizes, data, seed):
    active = data.draw(st.integers(1, sizes[2]))
    values, indices, z, delta, W_dec, outer = random_case(sizes, active, seed)
    found = delta.clone().requires_grad_()
    (RectifiedShift.apply(found, values, indices, W_dec) * outer).sum().backward()

    per_item = torch.einsum("igd,md->gim", outer, W_dec)  # gradient as if every rectifier were open
    fires = z > 0
    is_open = z + delta[:, None] > 0
    firing = torch.where(is_open, per_item, per_item.clamp_max(0)) * fires  # judged item by item
    silent = (per_item * ~fires).sum(1)  # all items at once: the same offset opens it for all
    silent = torch.where(delta > 0, silent, silent.clamp_max(0))
    torch.testing.assert_close(found.grad, firing.sum(1) + silent, atol=1e-4, rtol=1e-4)


def hand_made_sae():
    """x = (x0, x1) has latents (x0, x1 - 1) rectified; the second is silent for x1 = 0."""
    return SparseAutoencoder(
        torch.eye(2), torch.tensor([0.0, -1.0]), torch.eye(2), torch.zeros(2), subtract_b_dec=False
    )


def sae_of(width):
    """Any SAE with so many latents."""
    return SparseAutoencoder(torch.eye(width), torch.zeros(width), torch.eye(width), torch.zeros(width))


def test_steering_by_hand():
    delta = GroupDelta(("a", "b"), hand_made_sae())
    with torch.no_grad():
        delta.shared[:] = torch.tensor([-1.0, 0.0])
        delta.deviation[1] = torch.tensor([-4.0, 2.0])
    x = torch.tensor([[3.0, 0.5], [0.0, 4.0]])
    # latents (3, 0) and (0, 3);  group a: -1, 0;  group b: -5, +2
    found = delta.steer(x)
    assert found.tolist() == [[[2, 0.5], [0, 2.5]], [[0, 4], [0, 6]]]
    assert delta.offsets().tolist() == [[-1, 0], [-5, 2]]


def test_a_silent_latent_that_alone_helps_is_recruited():
    # the goal lies in the second direction only, where the latent is silent at the start
    x, goal = torch.tensor([[3.0, 0.0]]), torch.tensor([[[3.0, 2.0]]])
    delta = GroupDelta(("a",), hand_made_sae())
    optimiser = torch.optim.Adam([delta.deviation], lr=0.05)
    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        loss = (delta.steer(x) - goal).pow(2).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == 4 and losses[-1] < 0.01
    torch.testing.assert_close(delta.deviation.detach(), torch.tensor([[0.0, 2.0]]), atol=0.05, rtol=0)


def test_an_offset_of_zero_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    x = 100 * torch.randn(7, 2, generator=generator)
    for offset in (GroupDelta(("a", "b"), hand_made_sae()), DenseOffset(("a", "b"), 2)):
        assert torch.equal(offset.steer(x), x[:, None].expand(7, 2, 2))


def test_a_dense_offset_moves_every_group_by_its_own_vector():
    offset = DenseOffset(("a", "b"), 2)
    with torch.no_grad():
        offset.shared[0], offset.deviation[1, 1] = 1.0, 3.0
    assert offset.steer(torch.zeros(1, 2)).tolist() == [[[1, 0], [1, 3]]]


def test_a_frozen_sae_gets_no_gradients():
    sae = hand_made_sae().requires_grad_(False)
    delta = GroupDelta(("a",), sae)
    delta.steer(torch.ones(3, 2)).sum().backward()
    assert delta.shared.grad is not None and delta.deviation.grad is not None
    assert all(weight.grad is None for weight in sae.parameters())


@pytest.fixture
def trained():
    delta = GroupDelta(("Republican", "65+", "É"), sae_of(4))
    with torch.no_grad():
        delta.shared.normal_()
        delta.deviation.normal_()
    return delta


def test_a_saved_offset_comes_back_with_what_was_said_about_it(trained, tmp_path):
    path = tmp_path / "deltas.safetensors"
    trained.save(path, model="packaged:tiny", hook_layer="3")
    back = GroupDelta.load(path, trained.sae)
    assert back.groups == trained.groups and back.about == {"model": "packaged:tiny", "hook_layer": "3"}
    assert torch.equal(back.offsets(), trained.offsets())
    assert [p.name for p in tmp_path.iterdir()] == ["deltas.safetensors"]


def test_some_groups_keep_their_offsets(trained):
    part = trained.for_groups(["É", "Republican"])
    assert part.groups == ("É", "Republican")
    assert torch.equal(part.offsets(), trained.offsets()[[2, 0]])
    with pytest.raises(KeyError, match=r"no offset for \['Democrat'\]; there are \['Republican', '65\+', 'É'\]"):
        trained.for_groups(["É", "Democrat"])


def test_an_offset_for_another_sae_is_refused(trained, tmp_path):
    path = tmp_path / "deltas.safetensors"
    trained.save(path)
    other = SparseAutoencoder(2 * torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4))
    with pytest.raises(
        ValueError, match=f"fitted with the SAE {trained.sae.sha256()}, but loaded with the SAE {other.sha256()}"
    ):
        GroupDelta.load(path, other)
    with pytest.raises(ValueError, match="deltas.safetensors: the offset is for 4 latents, the SAE has 2"):
        GroupDelta.load(path, hand_made_sae())
    with pytest.raises(ValueError, match="for 4 latents, the SAE has 2"):
        trained.on(hand_made_sae())
    assert trained.on(other).sae is other and torch.equal(trained.on(other).offsets(), trained.offsets())


def test_a_file_of_the_first_edition_still_loads():
    """Written by its code for the SAE made by hand here."""
    delta = GroupDelta.load(FIRST_EDITION, hand_made_sae())
    assert delta.groups == ("Republican", "65+") and delta.offsets().tolist() == [[-1, 0], [-5, 2]] and delta.keep_error
    assert delta.about == {"model": "packaged:tiny", "model_sha256": "0ff", "hook_layer": "3"}
    with pytest.raises(ValueError, match="first-edition.safetensors: fitted with the SAE"):
        GroupDelta.load(FIRST_EDITION, sae_of(2))


def test_the_sae_is_known_but_is_no_part_of_the_offset(trained):
    assert [name for name, _ in trained.named_parameters()] == ["shared", "deviation"] == list(trained.state_dict())
    for part in (trained.for_groups(["É"]), trained.scaled(2.0), trained.flip(), trained.shared_only()):
        assert part.sae is trained.sae
    assert DenseOffset(("a",), 2).sae is None


def test_the_shared_part_is_trained_through_its_view(trained):
    view = trained.shared_only()
    view.steer(torch.ones(1, 4)).sum().backward()
    assert view.offsets().shape == (1, 4) and torch.equal(view.offsets()[0], trained.shared)
    assert trained.shared.grad is not None and trained.deviation.grad is None


def test_arithmetic_leaves_the_offset_as_it_was(trained):
    before = trained.offsets().detach().clone()
    for part in (trained.dosed(0.5, 2.0), trained.flip(), trained.shared_for(["x"]), trained.with_parts()):
        with torch.no_grad():
            part.shared.add_(1.0)
    assert torch.equal(trained.offsets(), before) and trained.shared_for(["x", "y"]).groups == ("x", "y")


def test_a_dense_offset_takes_the_norms_it_is_given():
    offset = DenseOffset(("a", "b"), 2)
    with torch.no_grad():
        offset.shared[:], offset.deviation[1] = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(offset.with_norms(torch.tensor([1.0, 10.0])).offsets(), torch.tensor([[1.0, 0], [6, 8]]))


def test_one_latent_at_a_time_is_taken_out(trained):
    part = trained.without(1, torch.tensor([2, 0]))
    expected = trained.offsets()[1].detach().repeat(3, 1)
    expected[0, 2] = expected[1, 0] = 0
    assert torch.equal(part.offsets(), expected)


def test_other_files_are_refused(trained, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"shared": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="other.safetensors: not a file of group offsets"):
        GroupDelta.load(path, sae_of(2))
    path.write_bytes(b"shared")
    with pytest.raises(ValueError, match="other.safetensors: not a file of group offsets"):
        GroupDelta.load(path, sae_of(2))
    header = {"format": "opinion-sae-delta", "groups": '["a", "b"]'}
    save_file({"shared": torch.zeros(2), "deviation": torch.zeros(3, 2)}, path, metadata=header)
    with pytest.raises(ValueError, match=r"other.safetensors: .*deviation has shape \(3, 2\), expected \(2, 2\)"):
        GroupDelta.load(path, sae_of(2))
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        GroupDelta.load(tmp_path / "absent.safetensors", sae_of(2))


def test_low_rank_deviations_by_hand(tmp_path):
    delta = LowRankDelta(("a", "b", "c"), sae_of(2), rank=1)
    with torch.no_grad():
        delta.shared[:] = 5.0
        delta.deviation.copy_(torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]]))
    A, B = delta.factors()  # the strongest direction: groups (0.6, 0.8, 0), latents (5, 0)
    torch.testing.assert_close(A @ B, torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]]))
    assert A.shape == (3, 1) and B.abs().tolist() == [pytest.approx([5.0, 0.0])]
    delta.constrain()
    torch.testing.assert_close(delta.offsets(), torch.tensor([[8.0, 5.0], [9.0, 5.0], [5.0, 5.0]]))
    delta.save(tmp_path / "delta.safetensors", model="tiny")
    back = GroupDelta.load(tmp_path / "delta.safetensors", sae_of(2))
    assert isinstance(back, LowRankDelta) and back.rank == 1 and back.about == {"model": "tiny"}
    assert torch.equal(back.deviation, delta.deviation) and back.for_groups(["c"]).rank == 1


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32))
def test_constrained_deviations_have_the_rank_and_stay_as_they_are(group, m, rank, seed):
    delta = LowRankDelta([str(i) for i in range(group)], sae_of(m), rank=rank)
    delta.deviation.data.normal_(generator=torch.Generator().manual_seed(seed))
    best = torch.linalg.svdvals(delta.deviation.detach())[rank:].norm()
    before = delta.deviation.detach().clone()
    delta.constrain()
    assert torch.linalg.matrix_rank(delta.deviation.detach(), rtol=1e-4) <= rank
    torch.testing.assert_close((before - delta.deviation).norm(), best, atol=1e-4, rtol=1e-3)
    once = delta.deviation.detach().clone()
    delta.constrain()
    torch.testing.assert_close(delta.deviation.detach(), once, atol=1e-5, rtol=1e-4)


def test_a_cut_keeps_the_named_entries_and_nothing_else():
    for kind in (GroupDelta, LowRankDelta):
        delta = kind(("a", "b"), sae_of(3))
        with torch.no_grad():
            delta.shared[:], delta.deviation[1] = 1.0, 2.0
        part = delta.cut(torch.tensor([[True, False, False], [True, True, False]]))
        part.constrain()  # what is cut has entries of its own for each group, whatever their rank
        assert part.offsets().tolist() == [[1, 0, 0], [3, 3, 0]] and not part.shared.any()
        assert delta.offsets().tolist() == [[1, 1, 1], [3, 3, 3]]
