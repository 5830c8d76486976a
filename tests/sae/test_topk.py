"""The sparse training step against plain dense formulas."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from opinion_sae.sae.topk import BLOCK, SparseDecode, TopKEncode, batch_top_k, scatter_rows, top_k
from opinion_sae.sae.train import TopKTraining, train_sae, unexplained

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 9))


def dense_latents(x, W_enc, b_enc, k):
    pre = x @ W_enc.T + b_enc
    top = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())


@settings(max_examples=60)
@given(SIZES, st.data(), st.integers(0, 2**32))
def test_values_and_all_gradients_equal_the_dense_formula(sizes, data, seed):
    batch, d, m = sizes
    k = data.draw(st.integers(1, m))
    generator = torch.Generator().manual_seed(seed)
    x, target = torch.randn(2, batch, d, generator=generator)
    weights = [torch.randn(*s, generator=generator) for s in [(m, d), (m,), (m, d), (d,)]]
    pre = (x @ weights[0].T + weights[1]).sort(1).values
    assume(pre.abs().min() > 1e-4 and (m == 1 or pre.diff(dim=1).min() > 1e-4))  # no ties
    sparse, dense = ([w.clone().requires_grad_() for w in weights] for _ in range(2))

    W_enc, b_enc, W_dec, b_dec = sparse
    values, indices = TopKEncode.apply(x, W_enc, b_enc, k, torch.float32)
    x_hat = SparseDecode.apply(values, indices, W_dec) + b_dec
    (x_hat - target).pow(2).sum().backward()

    W_enc, b_enc, W_dec, b_dec = dense
    z = dense_latents(x, W_enc, b_enc, k)
    expected = z @ W_dec + b_dec
    (expected - target).pow(2).sum().backward()

    assert torch.equal(torch.zeros(batch, m).scatter(1, indices, values.detach()) > 0, z > 0)
    torch.testing.assert_close(x_hat, expected, atol=1e-4, rtol=1e-4)
    for one, two in zip(sparse, dense, strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-3, rtol=1e-3)


@settings(max_examples=40)
@given(SIZES, st.data(), st.integers(0, 2**32))
def test_scatter_rows_is_the_product_with_the_sparse_matrix(sizes, data, seed):
    batch, d, m = sizes
    k = data.draw(st.integers(1, m))
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, k, generator=generator)
    indices = torch.rand(batch, m, generator=generator).argsort(1)[:, :k]
    rows = torch.randn(batch, d, generator=generator)
    S = torch.zeros(batch, m).scatter(1, indices, values)
    torch.testing.assert_close(scatter_rows(values, indices, rows, m), S.T @ rows, atol=1e-5, rtol=1e-5)


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 40), st.data(), st.integers(0, 2**32))
def test_top_k_in_rounds_finds_what_topk_finds(batch, blocks, data, seed):
    m = blocks * BLOCK**2
    k = data.draw(st.integers(1, m))
    pre = torch.randn(batch, m, generator=torch.Generator().manual_seed(seed))
    values, indices = top_k(pre, k)
    torch.testing.assert_close(values.sort(1).values, pre.topk(k).values.sort(1).values, rtol=0, atol=0)
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 30), st.data(), st.integers(0, 2**32))
def test_batch_top_k_shares_out_the_largest_of_all(batch, m, data, seed):
    k = data.draw(st.integers(1, m))
    generator = torch.Generator().manual_seed(seed)
    pre = 1 + torch.rand(batch, m, generator=generator) + torch.arange(batch)[:, None] * data.draw(st.booleans())
    values, indices = batch_top_k(pre, k)
    found = torch.zeros(batch, m).scatter(1, indices, values)
    expected = torch.zeros(batch * m).scatter(0, (top := pre.flatten().topk(k * batch)).indices, top.values)
    torch.testing.assert_close(found, expected.view(batch, m), rtol=0, atol=0)
    assert values.shape[1] == int((found > 0).sum(1).max())


def test_batch_top_k_of_latents_that_are_masked_has_no_nan():
    """Latents shut by -inf (adaptive temporal masking) come up where a row asks for more than are open."""
    pre = torch.tensor([[3.0, 2.0, -torch.inf, -torch.inf], [1.0, 0.5, -torch.inf, -torch.inf]])
    values, _ = batch_top_k(pre, 1)
    assert values.sort(1, descending=True).values.tolist() == [[3, 2], [0, 0]]


def test_batch_top_k_by_hand():
    values, indices = batch_top_k(torch.tensor([[5.0, 1.0, 4.0, 3.0], [0.0, 2.0, -1.0, 0.5]]), 2)
    assert [dict(zip(i, v, strict=True)) for i, v in zip(indices.tolist(), values.tolist(), strict=True)][0] == {
        0: 5.0, 2: 4.0, 3: 3.0
    }  # fmt: skip
    assert sorted(values[1].tolist()) == [0.0, 0.0, 2.0]  # one of this row's four, in a row of three places


@pytest.mark.parametrize("batch_topk", [False, True])
def test_the_loss_curve_is_that_of_the_dense_formula(batch_topk, sparse_data):
    data = (sparse_data[1] - sparse_data[1].mean(0)) / sparse_data[1].std()
    W = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    training = TopKTraining(W, 2, lr=1e-2, batch_topk=batch_topk)
    W_enc, W_dec, b_enc, b_dec = (w.clone().requires_grad_() for w in (W, W, torch.zeros(40), torch.zeros(16)))
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=1e-2)
    for step in range(20):
        x = data[100 * step : 100 * step + 100]
        pre = (x - b_dec.detach()) @ W_enc.T + b_enc
        rows = pre.view(1, -1) if batch_topk else pre
        top = rows.topk(2 * pre.numel() // 40 if batch_topk else 2)
        z = torch.zeros_like(rows).scatter(1, top.indices, top.values.relu()).view_as(pre)
        loss = (x - z @ W_dec - b_dec).pow(2).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
        assert training.step(x).loss.item() == pytest.approx(loss.item(), rel=1e-4)
    assert loss < 0.7 * (data**2).sum(1).mean()


def test_latents_by_hand():
    x, W_enc = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    values, indices = TopKEncode.apply(x, W_enc, torch.tensor([0.0, 3.0, 1.0]), 3, torch.float32)
    # pre-activations 2, 4, -1: the third is among the three largest, but not positive
    assert dict(zip(indices[0].tolist(), values[0].tolist(), strict=True)) == {0: 2.0, 1: 4.0, 2: 0.0}
    assert SparseDecode.apply(values, indices, 10 * W_enc).tolist() == [[20.0, 40.0]]


def test_bfloat16_rounds_but_does_not_change_the_step():
    generator = torch.Generator().manual_seed(0)
    x, W_enc = torch.randn(50, 8, generator=generator), torch.randn(40, 8, generator=generator)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        W = W_enc.clone().requires_grad_()
        values, _ = TopKEncode.apply(x, W, torch.zeros(40), 5, dtype)
        assert values.dtype == torch.float32
        values.sum().backward()
        grads.append(W.grad)
    assert torch.cosine_similarity(*(grad.flatten() for grad in grads), dim=0) > 0.98


@pytest.fixture(scope="module")
def sparse_data():
    """Sums of two of twenty known directions in sixteen dimensions, far from the origin and large."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20, 16, generator=generator), dim=1)
    which = torch.rand(3000, 20, generator=generator).argsort(1)[:, :2]
    amount = torch.rand(3000, 2, generator=generator) + 0.5
    data = 40 * torch.einsum("nk,nkd->nd", amount, directions[which]) + 300
    return directions, data[:2500], data[2500:]


def train(data, seed=0, steps=400, **more):
    return train_sae(data, width=40, k=2, steps=steps, batch=256, lr=3e-3, seed=seed, **more)


def test_training_finds_known_sparse_directions(sparse_data):
    directions, data, held_out = sparse_data
    sae, history = train(data, validation=held_out)
    assert history.validation_fvu.iloc[-1] < 0.03 < 0.15 < history.validation_fvu.iloc[0]
    # what is returned works on activations as they are, and is what the history speaks of
    assert unexplained(sae, held_out) == pytest.approx(history.validation_fvu.iloc[-1])
    assert unexplained(sae, held_out, batch=7) == pytest.approx(unexplained(sae, held_out), rel=1e-4)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    assert ((directions @ sae.W_dec.T).max(1).values > 0.95).all()  # every one has its latent
    assert not any(weight.requires_grad for weight in sae.parameters())


def test_the_same_seed_gives_the_same_weights(sparse_data):
    _, data, _ = sparse_data
    one, two, other = (train(data, seed, steps=30)[0] for seed in (0, 0, 1))
    assert one.sha256() == two.sha256() != other.sha256()


def test_history_has_a_row_a_twenty_fifth_and_the_last_step(sparse_data):
    _, data, _ = sparse_data
    _, history = train(data, steps=101, metadata={"hook_name": "blocks.1.hook_resid_post"})
    assert list(history) == ["step", "fvu", "validation_fvu", "l0", "dead"]
    assert history.step.tolist() == [*range(4, 101, 4), 101]
    assert history.validation_fvu.isna().all()
    assert history.l0.between(0, 2).all() and history.dead.between(0, 1).all()


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(sparse_data):
    _, data, _ = sparse_data
    with pytest.raises(FloatingPointError, match="SAE training, step 1: the loss is nan.*lower learning rate"):
        train(torch.cat([data[:50], torch.full((1, 16), torch.nan)]), steps=25)
