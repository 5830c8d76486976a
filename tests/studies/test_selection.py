"""Which text is chosen: BM25 and TracIn worked by hand, choosing in turn, bad input."""

import math

import numpy as np
import pytest
import torch

from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.studies.selection import bm25, in_turn, loss_gradient, mean_by, tracin


def test_bm25_by_hand():
    """Three texts of 3, 2 and 1 words, mean 2; 'space' stands in two of them, 'taxes' in one, twice."""
    texts = ["Taxes, taxes: space!", "a dog", "space"]
    scores = bm25(["space", "taxes space", "taxes taxes", "cat"], texts, k1=1.2, b=0.75)
    space, taxes = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    long, short = 1.2 * (0.25 + 0.75 * 1.5), 1.2 * (0.25 + 0.75 * 0.5)
    first = [space * 2.2 / (1 + long), 0, space * 2.2 / (1 + short)]
    of_taxes = taxes * 2 * 2.2 / (2 + long)
    expected = [first, [first[0] + of_taxes, 0, first[2]], [2 * of_taxes, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_queries_choose_in_turn():
    scores = np.array([[9.0, 8.0, 1.0, 0.0], [5.0, 1.0, 0.0, 4.0]])  # both have the first, then 8 and 4
    assert in_turn(scores, 3).tolist() == [0, 1, 3]
    assert in_turn(scores, 4).tolist() == [0, 1, 3, 2]
    with pytest.raises(ValueError, match="5 of 4 texts cannot be chosen"):
        in_turn(scores, 5)


def test_nothing_to_search_is_refused():
    with pytest.raises(ValueError, match="no texts to search"):
        bm25(["a"], [])


def test_tracin_by_hand():
    """One latent of one number: x_hat = w_dec relu(w_enc (x - b_dec) + b_enc) + b_dec, here 0.5 x."""
    sae = SparseAutoencoder(*(torch.tensor(part) for part in ([[1.0]], [0.0], [[0.5]], [0.0])), k=1)
    gradient = loss_gradient(sae, torch.tensor([[2.0]]))
    # error e = 2 - 1 = 1: d/dw_dec = -2 e z = -4, d/dw_enc = -2 e w_dec x = -2, d/db_enc = -2 e w_dec = -1,
    # d/db_dec = -2 e (1 - w_dec w_enc) = -1
    assert {name: part.item() for name, part in gradient.items()} == {
        "W_dec": -4,
        "W_enc": -2,
        "b_enc": -1,
        "b_dec": -1,
    }
    # at x = 4 the error is 2 and z = 4: (-16, -8, -2, -2), of which the product with the former is 84
    assert tracin(sae, torch.tensor([[4.0], [2.0]]), gradient).tolist() == [84.0, 22.0]


def test_tracin_is_the_product_of_gradients_and_lowers_the_loss(tiny):
    sae = tiny.sae()
    x, target = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    towards = loss_gradient(sae, target, batch=5)
    found = tracin(sae, x, towards, batch=5)
    for token in range(3):
        own = loss_gradient(sae, x[token : token + 1])
        product = sum((own[name] * towards[name]).sum() for name in own)
        torch.testing.assert_close(found[token], product, rtol=1e-4, atol=1e-3)
    before = (target - sae(target)).pow(2).sum(1).mean()
    with torch.no_grad():  # a step on the tokens of the highest influence
        best = x[found.argsort(descending=True)[:6]]
        for name, part in loss_gradient(sae, best).items():
            getattr(sae, name).sub_(1e-4 * part)
    assert (target - sae(target)).pow(2).sum(1).mean() < before


def test_a_chunk_is_the_mean_of_its_tokens():
    found = mean_by(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), 3)
    assert found.tolist() == [2.0, -math.inf, 5.0]
