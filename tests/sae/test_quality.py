"""The SAE that a run makes is the one that it publishes."""

import torch

from opinion_sae.sae.quality import as_float16_holds, obtain_sae
from opinion_sae.use.published_run import as_sae, in_float16


def test_a_trained_sae_is_the_published_one_to_the_bit(lm):
    tokens = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    sae, history = obtain_sae("train", lm, tokens[:150], tokens[150:], 1, width=32, k=4, steps=20, batch=32)
    _, tensors = in_float16(sae)
    published = as_sae(tensors, {"k": sae.k})
    assert published.sha256() == sae.sha256() and len(history) and not sae.W_dec.requires_grad
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32), atol=1e-3, rtol=0)


def test_an_sae_that_float16_cannot_hold_stays_as_it_is(tiny):
    sae, before = tiny.sae(), tiny.sae().sha256()
    sae.b_dec[0] = 1e5
    held = as_float16_holds(sae)
    assert held.b_dec[0] == 1e5 and torch.isfinite(held.b_dec).all() and before != held.sha256()
    assert torch.equal(held.W_enc, tiny.sae().W_enc)
