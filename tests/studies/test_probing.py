"""Probes and absorption worked by hand."""

import math

import numpy as np
import pytest
import torch

from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.studies.probing import absorption, auc, probe, stability


def test_the_area_under_the_curve_by_hand():
    # pairs: 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert auc(torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([True, True, False, False])) == (2 + 0.5) / 4
    assert math.isnan(auc(torch.tensor([1.0]), torch.tensor([True])))


def test_one_latent_is_enough_where_one_tells_and_two_where_two_do():
    labels = np.arange(48) % 2
    noise = torch.randn(48, 20, generator=torch.Generator().manual_seed(0))
    told = noise.clone()
    told[:, 7] = torch.from_numpy(labels).float()
    folds = np.arange(48) // 2 % 3
    assert probe(told, labels.tolist(), folds) == [1.0, 1.0, 1.0]
    assert max(probe(noise, labels.tolist(), folds)) < 0.8
    assert all(math.isnan(value) for value in probe(told, ["a"] * 47 + ["b"], folds))  # b has too few members


def letters(absorbing):
    """Words of two letters, a along the first axis and b along the second; every third a is special, along the third
    too. Latent 0 is a, 1 is b; 2 is the special word, which with `absorbing` has a's direction in it."""
    letter = torch.arange(60) % 2
    special = (letter == 0) & (torch.arange(60) % 5 == 0)
    x = torch.nn.functional.one_hot(letter, 3).float()
    x[special, 2] = 1.0
    encoder = torch.eye(3)
    rows = torch.eye(3)
    if absorbing:
        encoder[2, 0] = -1.0  # a's own latent is silent on the special word
        rows[2, 0] = 1.0
    return SparseAutoencoder(encoder, torch.zeros(3), rows, torch.zeros(3)), x, letter


def test_a_latent_that_takes_a_letters_place_absorbs_it():
    sae, x, letter = letters(absorbing=False)
    plain = absorption(sae, x, letter)
    assert plain.accuracy == 1 and plain.f1 == 1 and plain.absorbed == 0
    sae, x, letter = letters(absorbing=True)
    found = absorption(sae, x, letter)
    test = torch.arange(60) % 3 == 0
    special = (letter == 0) & (torch.arange(60) % 5 == 0)
    assert found.accuracy == 1 and found.f1 < 1
    assert found.absorbed == pytest.approx((special & test).sum().item() / test.sum().item())


def test_stability_by_hand():
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    # rows' best: 1 (to the second), 0.8 (to the first)
    assert stability(one, other) == pytest.approx(0.9)
