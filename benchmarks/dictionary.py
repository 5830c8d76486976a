"""train_sae_step: one step of a top-k SAE, against SAELens' trainer and dictionary_learning's."""

from __future__ import annotations

import statistics
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.timing import Machine, Row, Stage, Way, digits, in_turn, row
from opinion_sae.losses import reconstruction
from opinion_sae.model.activations import activations
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.train import TopKTraining

LR = 1e-3
STEPS = 12  # before explained variance is compared
AGREE = 0.015  # in explained variance: the peers treat the decoder's norm and bias differently


class Trainer(NamedTuple):
    """A trainer seen from outside: one step on a batch, and the reconstruction that it has come to."""

    step: Callable[[Tensor], object]
    reconstruct: Callable[[Tensor], Tensor]


class Start(NamedTuple):
    """Where all trainers start: equal weights, decoder rows of norm 1, biases zero."""

    W_dec: Float[Tensor, "m d"]
    k: int


def ours(start: Start, dtype: torch.dtype, batch_topk: bool = False) -> Trainer:
    training = TopKTraining(start.W_dec, start.k, lr=LR, dtype=dtype, batch_topk=batch_topk, clip=1.0)  # as both peers

    def reconstruct(x: Tensor) -> Tensor:
        return SparseAutoencoder(training.W_enc.T, training.b_enc, training.W_dec, training.b_dec, k=start.k)(x)

    return Trainer(training.step, reconstruct)


def saelens(start: Start, autocast: bool = False) -> Trainer:
    """SAELens' SAETrainer, stepped by hand as `fit` steps it."""
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    width, d = start.W_dec.shape
    device = str(start.W_dec.device)
    config = TopKTrainingSAEConfig(
        d_in=d, d_sae=width, k=start.k, device=device, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=False
    )
    sae = TopKTrainingSAE(config)
    copy_weights(sae.W_enc, start.W_dec.T)
    copy_weights(sae.W_dec, start.W_dec)
    settings = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=2048, device=device, autocast=autocast,
        lr=LR, lr_end=LR, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(settings, sae, data_provider=iter(()))
    return Trainer(trainer.step, sae)


def dictionary_learning(start: Start, autocast: bool = False) -> Trainer:
    """dictionary_learning's TopKTrainer; its own option for precision is torch's autocast around it."""
    with without_nnsight():
        from dictionary_learning.trainers.top_k import TopKTrainer

    width, d = start.W_dec.shape
    device = start.W_dec.device
    trainer = TopKTrainer(
        steps=10**9, activation_dim=d, dict_size=width, k=start.k, layer=0, lm_name="", lr=LR, warmup_steps=0,
        device=str(device),
    )  # fmt: skip
    copy_weights(trainer.ae.encoder.weight, start.W_dec)
    copy_weights(trainer.ae.decoder.weight, start.W_dec.T)

    def step(x: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            trainer.update(1, x)  # not step 0, which would move b_dec to the data's median

    return Trainer(step, trainer.ae)


@contextmanager
def without_nnsight() -> Iterator[None]:
    """dictionary_learning imports nnsight for reading activations, which no trainer does.

    nnsight in turn installs a torchvision for another torch, with which transformers no longer loads. So the package
    is installed without its dependencies, and an empty module stands in for that one.
    """
    stand_in = types.ModuleType("nnsight")
    stand_in.LanguageModel = None
    added = "nnsight" not in sys.modules
    sys.modules.setdefault("nnsight", stand_in)
    try:
        yield
    finally:
        if added:
            del sys.modules["nnsight"]


@torch.no_grad()
def copy_weights(into: Tensor, weights: Tensor) -> None:
    into.copy_(weights)


def training_batches(case: Case, count: int) -> Float[Tensor, "step batch d"]:
    """Real activations, centred and of variance 1, in batches drawn at random."""
    few = "".join(case.texts)[:60_000]
    x = activations(case.lm, [few], case.hook_layer, case.window)
    x = (x - x.mean(0)) / (x - x.mean(0)).pow(2).mean().sqrt()
    generator = torch.Generator().manual_seed(0)
    return x[torch.randint(len(x), (count, case.sae_batch), generator=generator)].to(case.device)


def make_trainers(start: Start, dtype: torch.dtype) -> dict[str, Trainer]:
    """Ours in the precision of the case; the peers in float32, their default, and in that precision too."""
    made = {"ours": ours(start, dtype)}
    for name, make in (("SAELens SAETrainer", saelens), ("dictionary_learning TopKTrainer", dictionary_learning)):
        made[f"{name}, float32"] = make(start)
        if dtype != torch.float32:
            made[f"{name}, bfloat16"] = make(start, autocast=True)
    return made


@torch.no_grad()
def explained(trainer: Trainer, x: Float[Tensor, "batch d"]) -> float:
    """Share of the variance of x that the trainer's reconstruction explains."""
    return 1 - reconstruction(x, trainer.reconstruct(x).float()).item()


def check_agree(found: dict[str, float]) -> None:
    """AssertionError where a trainer has come to another explained variance than ours."""
    off = {name: value for name, value in found.items() if not abs(value - found["ours"]) <= AGREE}
    if off:
        raise AssertionError(f"explained variance {found['ours']:.3f} by ours after {STEPS} steps, but {off}")


def train_sae_step(case: Case, machine: Machine, peer_rounds: int) -> tuple[list[Row], dict]:
    """One step on a batch; a row per peer and precision. All start equal and first run the same batches."""
    batches = training_batches(case, STEPS + 1)
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(case.sae_width, case.lm.width, generator=generator), dim=1)
    start = Start(W_dec.to(case.device), case.sae_k)
    trainers = make_trainers(start, case.lm.dtype)
    for trainer in trainers.values():
        for x in batches[:STEPS]:
            trainer.step(x)
    x = batches[STEPS]
    reached = {name: explained(trainer, x) for name, trainer in trainers.items()}
    check_agree(reached)
    ways = {
        name: Way(
            lambda trainer=trainer: trainer.step(x),
            3 if name == "ours" else 1,
            rounds=None if name == "ours" else peer_rounds,
        )
        for name, trainer in trainers.items()
    }
    batch_topk = ours(start, case.lm.dtype, batch_topk=True)
    batch_topk.step(x)
    ways["ours, BatchTopK"] = Way(lambda: batch_topk.step(x))
    times = in_turn(ways, case.rounds, case.device)
    floor = machine.floor(step_stages(case))
    rows = [row("train_sae_step", "s", times, name, floor, str(case.device)) for name in trainers if name != "ours"]
    return rows, {
        "explained_variance": {name: digits(value) for name, value in reached.items()},
        "steps_before": STEPS,
        "rounds": {name: len(found) for name, found in times.items()},
        "batch_topk_s": digits(statistics.median(times["ours, BatchTopK"])),
        "peer_settings": "batch as given; float32 and torch's autocast to bfloat16, a row each",
    }


def step_stages(case: Case) -> list[Stage]:
    """Least work: the encoder product, reading it once for the top k, four sparse products, Adam on all weights.

    The sparse products are the decoder, its gradient and the gradients of the active latents and of the encoder.
    """
    size, weights = case.lm.dtype.itemsize, case.sae_width * case.lm.width
    product = case.sae_batch * case.sae_width
    return [
        Stage("encoder", 2 * product * case.lm.width, (weights + product) * size, case.lm.dtype),
        Stage("top k", 0, product * size),
        Stage("active latents", 4 * 2 * case.sae_batch * case.sae_k * case.lm.width, 0),
        Stage("Adam", 0, 2 * weights * 7 * 4),  # reads weight, gradient and two moments, writes all but the gradient
    ]
