"""What a dictionary is like, of a few latents by hand."""

import math

import pytest
import torch

from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.studies.dictionary import (
    Firing,
    covered,
    entropies,
    error_by_rank,
    firing,
    nearest_rows,
    plane,
    quantiles,
    ranks,
)

# latent 0 fires on tokens 3, 3 and 5 (most strongly on 5), latent 2 on token 3
FOUND = Firing(
    torch.tensor([3, 3, 5, 3]), torch.tensor([0, 0, 0, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0])
)


def test_firing_is_that_of_the_sae(tiny):
    sae, x = tiny.sae(), torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    found = firing(sae, x, torch.arange(10, 17), batch=3)
    z = sae.encode(x)
    dense = torch.zeros_like(z).index_put((found.token - 10, found.latent), found.value)
    torch.testing.assert_close(dense, z)
    torch.testing.assert_close(found.error, (x - sae(x)).pow(2).sum(1))


def test_a_token_is_covered_by_the_latent_that_fires_most_strongly_on_it():
    counts = torch.tensor([0, 0, 0, 2, 9, 100, 0])
    share = covered(FOUND, torch.tensor([3, 3, 4, 5, 6]), counts)  # 3 and 5 are some latent's own, 4 and 6 are not
    assert share[[0, 1, 2, 4]].tolist() == [0.0, 1.0, 0.0, 1.0] and share[[3, 5]].isnan().all()


def test_rank_one_is_the_most_frequent():
    assert ranks(torch.tensor([5, 9, 5, 0])).tolist() == [2, 1, 3, 4]


def test_error_is_a_share_of_the_spread_by_rank():
    x = torch.tensor([[1.0], [-1.0]])  # spread 1
    found = error_by_rank(FOUND, x, torch.tensor([0, 1]), torch.tensor([1, 2000]))
    assert found[[0, 3]].tolist() == [1.0, 3.0] and found[1:3].isnan().all()


def test_entropy_is_that_of_the_tokens_and_the_maximum_the_strongest():
    entropy, most = entropies(FOUND)
    torch.testing.assert_close(entropy, torch.tensor([math.log(2), 0.0]))  # 3 of 6 on either token; one token
    assert most.tolist() == [3.0, 4.0]


def test_nearest_rows_and_plane():
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(nearest_rows(rows, torch.tensor([[1.0, 1.0], [-1.0, 0.0]])), torch.full((2,), 0.5**0.5))
    spread = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    places, share = plane(spread, spread)
    torch.testing.assert_close(places, spread)
    torch.testing.assert_close(share, torch.tensor([0.9, 0.1]))


def test_quantiles_of_nothing_are_missing():
    assert quantiles(torch.tensor([1.0, 2.0, 3.0]))[2] == 2 and quantiles(torch.empty(0)).isnan().all()


def test_an_sae_that_never_fires_covers_nothing():
    dead = SparseAutoencoder(torch.zeros(2, 3), torch.full((3,), -1.0), torch.zeros(3, 2), torch.zeros(2), k=1)
    found = firing(dead, torch.ones(4, 2), torch.tensor([1, 1, 0, 2]))
    assert len(found.token) == 0
    assert covered(found, torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1]))[1] == pytest.approx(0.0)
