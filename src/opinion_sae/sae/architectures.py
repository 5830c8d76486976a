"""SAEs of several architectures, trained alike: the same tokens in the same batches, from the same decoder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from opinion_sae.progress import progress
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import TopKTraining, check_finite
from opinion_sae.sae.variants import HierarchicalTraining, MaskedTraining, MatryoshkaTraining, ThresholdTraining

OURS = ("topk", "batchtopk", "matryoshka", "hierarchical", "atm", "threshold")
SAELENS = ("jumprelu", "gated", "standard")
ARCHITECTURES = (*OURS, *SAELENS)
QUICKER = 10  # times the learning rate, for JumpReLU's thresholds
BANDWIDTH = 0.5  # of JumpReLU's straight-through estimator, in units of a pre-activation's spread at the start


@dataclass(frozen=True)
class Sizes:
    """What all architectures of a comparison share. `l0` latents are to be active a token; `steps` batches are seen."""

    width: int = 4096
    l0: int = 32
    batch: int = 512
    steps: int = 200
    lr: float = 3e-3
    seed: int = 0


class Trained(NamedTuple):
    """An SAE, and the seconds that its steps took: on the wall, and of one processor."""

    sae: SparseAutoencoder
    seconds: float
    processor: float


def train_architecture(
    name: str, tokens: Float[Tensor, "token d"], sizes: Sizes, metadata: dict | None = None
) -> Trained:
    """An SAE of `ARCHITECTURES` from one pass over `steps * batch` of the tokens, drawn without repeats by the seed.

    As in `train_sae` the tokens are centred and scaled to unit variance, the scale is folded into the weights at the
    end, and the SAE that is returned has decoder rows of norm 1. The learning rate rises over the first tenth of the
    steps and falls over the last fifth. No architecture has a term for dead latents. Raises ValueError for another
    name, or for too few tokens; FloatingPointError if the loss is not finite.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture {name!r} is not one of {', '.join(ARCHITECTURES)}")
    if sizes.steps * sizes.batch > len(tokens):
        raise ValueError(f"{sizes.steps} batches of {sizes.batch} need more than the {len(tokens)} tokens there are")
    generator = torch.Generator().manual_seed(sizes.seed)
    W_dec = normalize(torch.randn(sizes.width, tokens.shape[1], generator=generator), dim=1)
    order = torch.randperm(len(tokens), generator=generator)[: sizes.steps * sizes.batch].split(sizes.batch)
    mean, scale = tokens.mean(0), 1 / tokens.var(0, correction=0).mean().sqrt()
    training, steps = start(name, W_dec, sizes, (tokens[order[0]] - mean) * scale), sizes.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        training.optimiser, lambda step: min(1.0, (step + 1) / (0.1 * steps), 0.05 + (steps - step) / (0.2 * steps))
    )
    wall, processor = time.perf_counter(), time.process_time()
    for number, rows in enumerate(progress(order, f"SAE {name}")):
        loss = training.step((tokens[rows] - mean) * scale)
        schedule.step()
        if number % 50 == 49 or number + 1 == steps:
            check_finite(loss if isinstance(loss, Tensor) else loss.loss, f"SAE {name}, step {number + 1}")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    sae = finished(name, training, sizes, (tokens[torch.cat(order[-8:])] - mean) * scale)
    return Trained(unscaled(sae, mean, scale.item(), metadata), wall, processor)


def start(
    name: str, W_dec: Float[Tensor, "m d"], sizes: Sizes, first: Float[Tensor, "batch d"]
) -> TopKTraining | SaelensTraining:
    """An SAE before its first step, for which `first` is the batch that sets what has to have a scale."""
    if name in SAELENS:
        return SaelensTraining(name, W_dec, sizes, first)
    given: dict[str, Any] = {"lr": sizes.lr, "variance": float(W_dec.shape[1])}
    if name == "hierarchical":
        return HierarchicalTraining(W_dec, sizes.l0, **given)
    if name == "matryoshka":
        return MatryoshkaTraining(W_dec, sizes.l0, batch_topk=True, **given)
    if name == "threshold":
        return ThresholdTraining(W_dec, sizes.l0, **given)
    if name == "atm":
        return MaskedTraining(W_dec, sizes.l0, seed=sizes.seed, **given)
    return TopKTraining(W_dec, sizes.l0, batch_topk=name == "batchtopk", **given)


def level(pre: Float[Tensor, "batch m"], l0: int) -> float:
    """What `l0` pre-activations a row pass on average."""
    return pre.flatten().topk(max(1, min(round(l0 * len(pre)), pre.numel()))).values[-1].item()


class SaelensTraining:
    """Steps of Adam on the loss of one of SAELens' own training classes, whose weight of sparsity follows the L0.

    'standard' is |x - x_hat|^2 + lambda |z|_1 (Bricken et al. 2023), 'gated' that of Rajamanoharan et al. 2024a, its
    L1 on the gate and its auxiliary reconstruction from the gate alone, and 'jumprelu' that of the same 2024b,
    |x - x_hat|^2 + lambda |z|_0 with straight-through gradients for the thresholds. lambda grows with each batch by
    (L0 / l0)^0.1, the ratio kept within 1/2 and 2. Encoder and decoder start as each other's transpose; biases and
    thresholds so that twice the l0 is active in the first batch; and thresholds learn ten times as fast as the rest: a
    pass over so few tokens would not bring them there.
    """

    def __init__(self, name: str, W_dec: Float[Tensor, "m d"], sizes: Sizes, first: Float[Tensor, "batch d"]):
        from sae_lens import (  # slow to import
            GatedTrainingSAE,
            GatedTrainingSAEConfig,
            JumpReLUTrainingSAE,
            JumpReLUTrainingSAEConfig,
            StandardTrainingSAE,
            StandardTrainingSAEConfig,
        )

        size: dict[str, Any] = {"d_in": W_dec.shape[1], "d_sae": len(W_dec), "decoder_init_norm": None}
        pre = first @ W_dec.T
        if name == "jumprelu":
            first_level: dict[str, Any] = {
                "jumprelu_init_threshold": level(pre, 2 * sizes.l0),
                "jumprelu_bandwidth": BANDWIDTH,
            }
            self.sae: Any = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**size, **first_level))
        elif name == "gated":
            self.sae = GatedTrainingSAE(GatedTrainingSAEConfig(**size))
            self.sae.b_gate.data.fill_(-level(pre, 2 * sizes.l0))
        else:
            self.sae = StandardTrainingSAE(StandardTrainingSAEConfig(**size))
            self.sae.b_enc.data.fill_(-level(pre, 2 * sizes.l0))
        self.sae.W_dec.data.copy_(W_dec)
        self.sae.W_enc.data.copy_(W_dec.T)
        self.name, self.l0, self.weight = name, sizes.l0, 1.0
        own = {key: tensor for key, tensor in self.sae.named_parameters() if key == "threshold"}
        rest = [tensor for key, tensor in self.sae.named_parameters() if key not in own]
        groups = [{"params": rest}, *({"params": [one], "lr": QUICKER * sizes.lr} for one in own.values())]
        self.optimiser = torch.optim.Adam(groups, lr=sizes.lr, betas=(0.9, 0.999), fused=True)

    def step(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
        """One step on a batch; the loss before it."""
        from sae_lens.saes.sae import TrainStepInput

        key = "l0" if self.name == "jumprelu" else "l1"
        found = self.sae.training_forward_pass(TrainStepInput(x, {key: self.weight}, None, 0, False))
        self.optimiser.zero_grad()
        found.loss.backward()
        self.optimiser.step()
        active = (found.feature_acts > 0).sum(1).float().mean().item()
        self.weight *= min(2.0, max(0.5, active / self.l0)) ** 0.1
        return found.loss.detach()


@torch.no_grad()
def finished(name: str, training: Any, sizes: Sizes, last: Float[Tensor, "token d"]) -> SparseAutoencoder:
    """The SAE as it is used after training, decoder rows of norm 1; `last` are tokens to find a threshold by."""
    if name in SAELENS:
        state = {key: tensor.detach().clone() for key, tensor in training.sae.state_dict().items()}
        return unit_rows(from_training(name, state))
    weights = (training.W_enc.T.contiguous(), training.b_enc, training.W_dec, training.b_dec)
    sae = SparseAutoencoder(*(tensor.detach().clone() for tensor in weights))
    if name in ("topk", "hierarchical"):
        sae.k = sizes.l0
    else:
        found = training.tau if name == "threshold" else level(sae.pre_activations(last), sizes.l0)
        sae.threshold = torch.full((sae.width,), max(found, 0.0))
    return sae


def from_training(name: str, state: dict[str, Tensor]) -> SparseAutoencoder:
    """As `load_sae` would read what SAELens leaves."""
    from opinion_sae.sae.autoencoder import from_saelens

    return from_saelens({"architecture": name}, state, name)


@torch.no_grad()
def unit_rows(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The same SAE, z |W_dec_i| being what z was, so that every decoder row has norm 1."""
    norm = sae.W_dec.norm(dim=1).clamp_min(1e-12)
    threshold = sae.threshold * norm if isinstance(sae.threshold, Tensor) else None
    weights = (sae.W_enc * norm, sae.b_enc * norm, sae.W_dec / norm[:, None], sae.b_dec.detach().clone())
    return SparseAutoencoder(*weights, k=sae.k, threshold=threshold, subtract_b_dec=sae.subtract_b_dec)


@torch.no_grad()
def unscaled(
    sae: SparseAutoencoder, mean: Float[Tensor, "d"], scale: float, metadata: dict | None = None
) -> SparseAutoencoder:
    """The SAE for activations as they are, from one for (x - mean) * scale: z, b_enc and thresholds shrink by it."""
    weights = (sae.W_enc.detach().clone(), sae.b_enc / scale, sae.W_dec.detach().clone(), sae.b_dec / scale + mean)
    threshold = sae.threshold / scale if isinstance(sae.threshold, Tensor) else None
    return SparseAutoencoder(*weights, k=sae.k, threshold=threshold, metadata=metadata).requires_grad_(False)
