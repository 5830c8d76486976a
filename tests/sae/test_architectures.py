"""Each architecture's equation worked by hand or against SAELens' own, training, and SAELens' format."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opinion_sae.artifacts import write_json
from opinion_sae.sae import architectures, variants
from opinion_sae.sae.architectures import ARCHITECTURES, SaelensTraining, Sizes, level, train_architecture, unit_rows
from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.sae.train import TopKTraining, unexplained
from opinion_sae.sae.variants import HierarchicalTraining, MaskedTraining, MatryoshkaTraining, ThresholdTraining

pytestmark = pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")
SIZES = Sizes(width=64, l0=4, batch=64, steps=40, lr=3e-3)


@pytest.fixture(scope="module")
def tokens():
    """Three of 32 directions at a time, on a mean, in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator), dim=1)
    z = torch.zeros(2600, 32).scatter(1, torch.rand(2600, 32, generator=generator).topk(3).indices, 1.0)
    return 3 + 2 * z @ directions


@pytest.fixture(scope="module")
def trained(tokens):
    return {name: train_architecture(name, tokens, SIZES).sae for name in ARCHITECTURES}


def eye(kind=TopKTraining, k=2, **settings):
    """A training whose latents are the coordinates of x, before its first step."""
    return kind(torch.eye(4), k, lr=0.1, **settings)


X = torch.tensor([[4.0, 2.0, 1.0, 0.0]])


def test_hierarchical_topk_is_the_mean_error_of_all_its_budgets():
    # k = 3, budgets 1, 2, 3: what is left of x is (2, 1), (1) and nothing, so 5, 1 and 0
    training = eye(HierarchicalTraining, 3)
    values, indices = training.encode(X)
    assert training.loss(X, values, indices).item() == pytest.approx((5 + 1 + 0) / 3)
    shuffled = torch.tensor([[2, 0, 1]])  # in whatever order the active latents come
    loss = training.loss(X, values.gather(1, values.argsort(descending=True)[:, shuffled[0]]), shuffled)
    assert loss.item() == pytest.approx(2)


def test_matryoshka_is_the_mean_error_of_all_prefixes(monkeypatch):
    training = MatryoshkaTraining(torch.eye(16), 2, lr=0.1, batch_topk=True)
    x = torch.zeros(1, 16)
    x[0, [0, 1, 5]] = torch.tensor([3.0, 2.0, 1.0])
    # prefixes 1, 2, 4, 8, 16 with latents 0 and 1 active: what is left is (2, 1), then (1) four times
    assert training.loss(x, *training.encode(x)).item() == pytest.approx((5 + 1 + 1 + 1 + 1) / 5)


def test_matryoshka_is_saelens_sum_over_as_many_levels():
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import TrainStepInput

    W_dec = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    config = MatryoshkaBatchTopKTrainingSAEConfig(d_in=8, d_sae=16, k=3, matryoshka_widths=[1, 2, 4, 8, 16])
    theirs = MatryoshkaBatchTopKTrainingSAE(config)
    theirs.W_dec.data, theirs.W_enc.data = W_dec.clone(), W_dec.T.clone()
    expected = theirs.training_forward_pass(TrainStepInput(x, {}, None, 0, False)).loss
    ours = MatryoshkaTraining(W_dec, 3, lr=0.1, batch_topk=True)
    loss = ours.loss(x, *ours.encode(x))
    assert 5 * loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(5 * ours.W_dec.grad, theirs.W_dec.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(5 * ours.W_enc.grad.T, theirs.W_enc.grad, rtol=1e-4, atol=1e-5)


def test_a_threshold_keeps_what_passes_it_and_follows_the_level():
    training = eye(ThresholdTraining, 1)
    x = torch.tensor([[4.0, 2.0, 1.0, 0.0], [3.0, 0.5, 0.2, 0.1]])
    values, _ = training.encode(x)  # two entries for two rows: the level is 3, and so is tau at first
    assert training.tau == 3 and sorted(values[values > 0].tolist()) == [3, 4]
    values, _ = training.encode(x + 2)  # 6, 4, 3, 2 and 5, 2.5, ...: four pass 3, the level is 5
    assert sorted(values[values > 0].tolist()) == [3, 4, 5, 6] and training.tau == pytest.approx(3.2)


def test_the_mask_of_adaptive_temporal_masking_by_hand():
    importance = variants.importance(torch.tensor([[2.0, 0.0], [0.3, 0.1], [1.0, -1.0]]))
    # over their means: (2, 0), (1.5, 0.5), (2, 0)
    assert importance.tolist() == pytest.approx([5.5 / 3, 0.5 / 3])
    chance = variants.mask_chance(importance, 0.0, 0.5)  # theta = 1
    assert chance.tolist() == pytest.approx([0, 1 - math.exp(-0.5 * (1 - 0.5 / 3))])
    wider = variants.mask_chance(importance, 2.0, 0.5)  # theta = 1 + 2 x 5 / 6, above the first too
    assert wider[0] == pytest.approx(1 - math.exp(-0.5 * (1 - 5.5 / 3 / (8 / 3))))
    assert not variants.mask_chance(torch.zeros(3), 0.0, 0.5).any()


def test_masked_latents_are_silent_and_keep_their_means():
    training = eye(MaskedTraining, 2)
    training.step(X)
    # z = (4, 2); without latent 0 the error would be 16 + 1 in place of 1, and without latent 1 it would be 4 + 1
    assert training.means.tolist() == [
        pytest.approx([0.4, 0.2, 0, 0]),
        pytest.approx([0.1, 0.1, 0, 0]),
        pytest.approx([1.6, 0.4, 0, 0]),
    ]
    training.rate, before = 1e9, training.means.clone()  # whatever is below theta is masked
    step = training.step(X)
    # over their means of (0.15, 0.05, 0.5), latent 0 has (2.7, 2, 3.2) and latent 1 (1.3, 2, 0.8): above 1 both
    assert training.masked.tolist() == [False, False, True, True]
    assert set(step.indices[step.values > 0].tolist()) == {0, 1}
    assert torch.equal(training.means[:, 2:], before[:, 2:]) and (training.means[0, 0] > before[0, 0])


def test_the_level_passes_so_many_a_row():
    assert level(torch.tensor([[4.0, 2.0], [3.0, 1.0]]), 1) == 3
    assert level(torch.tensor([[4.0, 2.0], [3.0, 1.0]]), 99) == 1


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_saelens_losses_by_hand(name):
    """x = (4, 2, 1, 0), coordinates for latents, one row; biases let (twice one) two pass at first: 4 and 2."""
    training = SaelensTraining(name, torch.eye(4), Sizes(4, 1, 1, 1), X)
    # standard, gated: the bias is -2, and so is the gate's; jumprelu: the threshold is 2, above which 4 alone is
    expected = {
        "standard": 4 + 4 + 1 + 2,  # z = (2, 0, 0, 0), |x - x_hat|^2 + |z|_1
        "gated": (0 + 4 + 1) + 2 + (4 + 4 + 1),  # z = (4, 0, 0, 0); L1 of the gate's 2; x rebuilt from the gate's 2
        "jumprelu": 4 + 1 + 1,  # z = (4, 0, 0, 0), + |z|_0
    }
    assert training.step(X).item() == pytest.approx(expected[name])
    assert training.weight == 1  # one was active, as wished
    more = SaelensTraining(name, torch.eye(4), Sizes(4, 1, 1, 1), X)
    more.step(X + 8)
    assert more.weight == pytest.approx(2**0.1)  # four were: no more than a factor of 2 counts


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_explains_the_tokens_with_about_as_many_latents_as_wished(name, trained, tokens):
    sae = trained[name]
    active = (sae.encode(tokens) > 0).sum(1).float().mean().item()
    assert SIZES.l0 / 2 < active < 2 * SIZES.l0
    start = SparseAutoencoder(sae.W_enc * 0, sae.b_enc * 0, sae.W_dec, tokens.mean(0), k=1)
    assert unexplained(sae, tokens) < 0.7 * unexplained(start, tokens) and not sae.W_dec.requires_grad
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(SIZES.width))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_was_trained_comes_back_from_saelens_format(name, trained, tokens, tmp_path):
    from sae_lens import SAE

    trained[name].save(tmp_path / "sae")
    x = tokens[:50]
    assert torch.equal(load_sae(tmp_path / "sae")(x), trained[name](x))
    theirs = SAE.load_from_disk(tmp_path / "sae")
    torch.testing.assert_close(theirs.encode(x), trained[name].encode(x))


def test_equal_seeds_train_equal_saes_on_equal_batches(tokens):
    one, other = (train_architecture("atm", tokens, SIZES).sae.sha256() for _ in range(2))
    assert one == other
    assert train_architecture("atm", tokens, dataclasses.replace(SIZES, seed=1)).sae.sha256() != one


def test_rows_of_norm_one_change_no_reconstruction(tokens):
    W_dec = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    threshold = torch.linspace(-1, 2, 24)
    sae = SparseAutoencoder(W_dec.T.clone(), torch.ones(24), W_dec, torch.ones(16), threshold=threshold)
    unit = unit_rows(sae)
    torch.testing.assert_close(unit(tokens), sae(tokens), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(unit.W_dec.norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("name", ["gated", "batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("saved", ["save_model", "save_inference_model"])
def test_saelens_own_are_read(name, saved, tmp_path):
    """Trained by their class, saved either way; SAELens itself reads only what is saved for inference."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import TrainStepInput

    kind, config = get_sae_training_class(name)
    more = {"k": 2} if "topk" in name else {}
    more |= {"matryoshka_widths": [4, 12]} if "matryoshka" in name else {}
    theirs = kind(config(d_in=6, d_sae=12, **more))
    generator = torch.Generator().manual_seed(0)
    for key, tensor in theirs.named_parameters():
        tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator) if key != "W_dec" else tensor.data * 3
    x = torch.randn(40, 6, generator=generator)
    if "topk" in name:
        theirs.training_forward_pass(TrainStepInput(x, {}, None, 0, False))
        theirs.topk_threshold.fill_(0.3)
    theirs.save_inference_model(tmp_path / "inference")
    getattr(theirs, saved)(tmp_path / "sae")
    expected = SAE.load_from_disk(tmp_path / "inference")
    ours = load_sae(tmp_path / "sae")
    z = ours.encode(x)
    assert ours.architecture == "jumprelu" and 0 < (z > 0).float().mean() < 1
    assert torch.equal(z > 0, expected.encode(x) > 0)
    torch.testing.assert_close(ours(x), expected(x))


def gated_folder(folder, **changes):
    shapes = {"W_enc": (2, 3), "W_dec": (3, 2), "b_dec": (2,), "b_gate": (3,), "b_mag": (3,), "r_mag": (3,)}
    weights = {name: torch.ones(shape) for name, shape in shapes.items()} | changes
    folder.mkdir()
    save_file({name: one for name, one in weights.items() if one is not None}, folder / "sae_weights.safetensors")
    write_json(folder / "cfg.json", {"architecture": "gated", "d_in": 2, "d_sae": 3})
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b_gate": None}, r"tensors \['b_gate'\] are missing"),
        ({"r_mag": torch.ones(2)}, r"r_mag has shape \(2,\), expected \(3,\)"),
        ({"r_mag": torch.full((3,), 200.0)}, r"exp\(r_mag\) holds values that are not finite"),
        ({"b_mag": torch.tensor([0, torch.inf, 0])}, "b_mag holds values that are not finite"),
    ],
)
def test_bad_gated_folders_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=f"SAE .*mine: sae_weights.safetensors: {message}"):
        load_sae(gated_folder(tmp_path / "mine", **changes))


def test_a_gated_sae_by_hand(tmp_path):
    gate = torch.tensor([-1.0, 0.0, 1.0])
    rate = torch.log(torch.tensor([2.0, 1.0, 0.5]))
    sae = load_sae(gated_folder(tmp_path / "mine", b_gate=gate, r_mag=rate, b_mag=torch.tensor([1.0, 0.0, -1.0])))
    x = torch.tensor([[1.5, 0.5], [2.0, 0.5]])  # x - b_dec = (0.5, -0.5), (1, -0.5); W x = 0, 0.5 for every latent
    # gates: (-1, 0, 1), (-0.5, 0.5, 1.5); magnitudes: (1, 0, -1), (2, 0.5, -0.75)
    assert sae.encode(x).tolist() == [[0, 0, 0], [0, 0.5, 0]]


def test_what_cannot_be_trained_is_refused(tokens):
    with pytest.raises(ValueError, match="architecture 'vector' is not one of topk, batchtopk"):
        train_architecture("vector", tokens, SIZES)
    with pytest.raises(ValueError, match="40 batches of 99 need more than the 2600 tokens"):
        train_architecture("topk", tokens, dataclasses.replace(SIZES, batch=99))
    broken = tokens.clone()
    broken[0] = np.nan
    with pytest.raises(FloatingPointError, match="SAE topk, step 40: the loss is nan"):
        train_architecture("topk", broken, SIZES)
    assert set(architectures.OURS) | set(architectures.SAELENS) == set(ARCHITECTURES)
