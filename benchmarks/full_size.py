"""Gemma 2 2B's shape with random weights, a 16k-wide SAE, 100 questions, 12 groups: seconds and memory per stage.

    make full-size          writes benchmarks/full_size.json

The weights need no account and no download, and cost what the real ones would: the time and memory of a layer do not
depend on the numbers in it. Its answers mean nothing.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedTokenizerFast

from opinion_sae.artifacts import write_json
from opinion_sae.book.paths import ROOT
from opinion_sae.delta.fit import fit_frozen
from opinion_sae.delta.held_out import Split
from opinion_sae.delta.settings import FitSettings
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel, wrap
from opinion_sae.model.prompts import LETTERS, question_text
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import score
from opinion_sae.survey import Survey, load_survey

QUESTIONS, GROUPS, ORDERS, HOOK_LAYER, WIDTH, L0 = 100, 12, 2, 12, 16384, 70
LIMIT = 1.5  # peak memory over the bytes of the weights
GB = 1e9

GEMMA_2_2B = Gemma2Config(
    vocab_size=256000,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
)


def make_survey() -> Survey:
    """A hundred questions of the shipped surveys, evenly spread, and twelve groups."""
    return load_survey(["gss", "nonvoters-2020"], max_questions=QUESTIONS).select(groups=range(GROUPS))


def make_tokenizer(survey: Survey) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the survey's own words that puts ' A' and so on in one token, as Gemma's does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<eos>", "<bos>"]
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    texts = [question_text(q, range(len(q.options))) for q in survey.questions]
    bpe.train_from_iterator([*texts, *(f"Answer: {letter}" for letter in LETTERS * 3)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def make_model(config: Gemma2Config, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LanguageModel:
    """Random weights, drawn in bfloat16 tensor by tensor, so that no copy in float32 is ever there."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if module is model.lm_head:  # tied to the embedding
            continue
        for name, empty in module.named_parameters(recurse=False):
            weight = torch.empty(empty.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))
    model.tie_weights()
    return wrap("random gemma-2-2b", model, tokenizer, "random")


def make_sae(answers: AnswerPath, seed: int = 0) -> SparseAutoencoder:
    """A random JumpReLU SAE whose thresholds let L0 latents fire at the mean survey prompt."""
    x, generator = answers.residual, torch.Generator().manual_seed(seed)
    W_dec = nn.functional.normalize(torch.randn(WIDTH, x.shape[1], generator=generator), dim=1)
    W_enc = W_dec.T.contiguous()
    b_enc = -(x.mean(0) @ W_enc)
    kept = round(L0 * len(x))
    threshold = (x @ W_enc + b_enc).flatten().kthvalue(WIDTH * len(x) - kept).values
    return SparseAutoencoder(
        W_enc, b_enc, W_dec, x.mean(0), threshold=threshold.clamp_min(0).expand(WIDTH).clone(), subtract_b_dec=False
    ).requires_grad_(False)


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, object]:
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    waiting = os.environ.get("OMP_WAIT_POLICY", "active")  # threads that wait for others sleep, or spin
    facts = {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(memory / GB), "torch": torch.__version__}
    return facts | {"waiting": waiting}


def run(config: Gemma2Config = GEMMA_2_2B) -> dict[str, object]:
    """All stages in order; prints a line for each as it ends."""
    stages: list[dict[str, object]] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start, busy = time.perf_counter(), time.process_time()
        yield
        seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
        rounded = {which: round(value, 1) for which, value in seconds.items()}
        stages.append({"stage": name, **rounded, "peak_gb": round(peak_bytes() / GB, 2)})
        print(
            "{stage:<24}{seconds:>8} s {cpu_seconds:>8} s of CPU   peak {peak_gb} GB".format(**stages[-1]), flush=True
        )

    with stage("survey and libraries"):
        survey = make_survey()
        tokenizer = make_tokenizer(survey)
    with stage("load"):
        lm = make_model(config, tokenizer)
    with stage("prompts"):
        answers = AnswerPath(lm, survey.questions, HOOK_LAYER, ORDERS, tokens_per_batch=2048)
    with stage("sae"):
        sae = make_sae(answers)
    fires = torch.cat([(sae.encode(part) > 0).sum(-1) for part in answers.residual.split(50)])
    split = Split("first", np.arange(90), np.arange(90, 100), np.arange(0))
    with stage("fit delta, one epoch"):
        delta, history = fit_frozen(
            answers, sae, survey, split=split, stages=("deviation",), settings=FitSettings(epochs=1, batch=8)
        )
    with stage("evaluate"):
        scores = score(survey, answers.predict(delta, batch=8).numpy())
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    return {
        "machine": machine(),
        "model": {
            "layers": len(lm.layers),
            "width": lm.width,
            "dtype": str(lm.dtype),
            "weights_gb": round(weights / GB, 2),
        },
        "sae": {"width": sae.width, "architecture": sae.architecture, "l0": round(fires.float().mean().item(), 1)},
        "work": {
            "questions": len(survey.questions),
            "groups": len(survey.groups),
            "option_orders": ORDERS,
            "prompt_tokens": sum(len(prompt.tokens) for prompt in answers.prompts),
        },
        "stages": stages,
        "seconds": round(sum(each["seconds"] for each in stages), 1),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in stages), 1),  # of all cores; shows a busy machine
        "peak_gb": round(peak_bytes() / GB, 2),
        "peak_over_weights": round(peak_bytes() / weights, 3),
        "limit": LIMIT,
        "mean_kl": round(float(np.nanmean(scores.kl)), 4),  # of random weights: only to show that it ran
        "finite": bool(np.isfinite(history["validation_kl"]).all()),
    }


if __name__ == "__main__":
    found = run()
    write_json(ROOT / "benchmarks" / "full_size.json", found)
    print(f"peak {found['peak_gb']} GB = {found['peak_over_weights']} x the weights' {found['model']['weights_gb']} GB")
    if found["peak_over_weights"] > LIMIT:
        sys.exit(f"that is over {LIMIT} x")
