"""Where our own time goes: the operators of torch that took most of it, by benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Case
from benchmarks.dictionary import Start, ours, training_batches
from benchmarks.offsets import our_step
from opinion_sae.model.activations import activations

TOP = 6
PLAIN = {  # torch's names in words
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::bmm": "matrix products",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention, backward",
    "aten::topk": "top k",
    "aten::amax": "maxima of blocks (top k)",
    "aten::gather": "gather (top k)",
    "aten::_embedding_bag": "sparse products",
    "aten::_embedding_bag_forward_only": "sparse products",
    "aten::_embedding_bag_per_sample_weights_backward": "sparse products",
    "aten::_fused_adam_": "Adam",
    "aten::copy_": "copies and casts",
}


def works(case: Case) -> dict[str, Callable[[], object]]:
    answers = case.answers(case.step_questions)
    shares = case.shares(case.step_questions, case.step_groups).to(case.device)
    every, delta = case.answers(), case.delta(answers, case.groups)
    (x,) = training_batches(case, 1)
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(case.sae_width, case.lm.width, generator=generator).to(case.device)
    training = ours(Start(torch.nn.functional.normalize(W_dec, dim=1), case.sae_k), case.lm.dtype)
    text = case.texts[0][:20_000]
    return {
        "fit_delta_step": our_step(answers, case.delta(answers, case.step_groups), shares),
        "evaluate_groups": lambda: every.predict(delta),
        "train_sae_step": lambda: training.step(x),
        "extract_activations": lambda: activations(case.lm, [text], case.hook_layer, case.window),
    }


def shares_of_time(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the time that torch's operators took themselves, by operator in words, largest first."""
    work()
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as recorded:
        work()
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        name = PLAIN.get(event.key, event.key.removeprefix("aten::"))
        times[name] = times.get(name, 0.0) + getattr(event, kind)
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=times.get, reverse=True)}


def profiles(case: Case) -> Iterator[dict]:
    """A row per benchmark and operator: the six that took most, and the rest together."""
    for name, work in works(case).items():
        found = list(shares_of_time(work, case.device).items())
        rest = sum(share for _, share in found[TOP:])
        for operator, share in [*found[:TOP], ("all others", rest)]:
            yield {"name": name, "operator": operator, "share": share}
