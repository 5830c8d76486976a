"""extract_activations: the residual stream over text, against SAELens' activation store."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.hooked import as_loaded
from benchmarks.timing import Machine, Row, Stage, Way, digits, in_turn, row, seconds
from opinion_sae.model.activations import SINK_NORM, activations, text_windows


def full_windows(case: Case) -> tuple[list[str], Int[Tensor, "window token"]]:
    """A text of about `tokens` tokens, and its windows as one table, without the last, shorter one."""
    text, per_token = case.texts[0], len(case.texts[0]) / count_tokens(case, case.texts[0])
    text = text[: int(case.tokens * per_token)]
    batches = text_windows(case.lm, [text], case.window)
    rows = [tokens[real.all(1)] for tokens, real in batches if tokens.shape[1] == case.window]
    return [text], torch.cat(rows)


def count_tokens(case: Case, text: str) -> int:
    return len(case.lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def store(case: Case, windows: Int[Tensor, "window token"], prompts: int, how: str, dtype: torch.dtype) -> Callable:
    """A function that runs SAELens' store once over the windows: Float[Tensor, "token d"].

    `how` is 'HookedProxyLM', its wrapper for any transformers model with a hook at the one layer, or
    'TransformerBridge', transformer-lens' own. Windows are handed over as tokens, which SAELens recommends for speed.
    """
    from datasets import Dataset
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens.model_bridge import TransformerBridge

    model = as_loaded(case.lm).to(dtype)
    name = f"model.layers.{case.hook_layer}"
    if how == "HookedProxyLM":
        hooked = HookedProxyLM(model, case.lm.tokenizer, hook_names=[name])
    else:
        name = f"blocks.{case.hook_layer}.hook_out"
        tokenizer = copy.deepcopy(case.lm.tokenizer)
        tokenizer.init_kwargs |= {"name_or_path": "", "add_bos_token": True}  # else the bridge fetches one of its own
        hooked = TransformerBridge.boot_transformers(case.lm.name, hf_model=model, tokenizer=tokenizer, dtype=dtype)
    rows = Dataset.from_dict({"tokens": windows.tolist()})

    def run() -> Float[Tensor, "token d"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one pass over this text is few tokens to train on
            made = ActivationsStore(
                hooked,
                rows,
                streaming=False,
                hook_name=name,
                hook_head_index=None,
                context_size=windows.shape[1],
                d_in=case.lm.width,
                n_batches_in_buffer=8,
                total_training_tokens=windows.numel(),
                store_batch_size_prompts=prompts,
                train_batch_size_tokens=4096,
                prepend_bos=False,
                normalize_activations="none",
                device=case.device,
                dtype="float32",
            )
            return torch.cat([made.get_raw_llm_batch()[0] for _ in range(len(windows) // prompts)])

    return run


def check_equal(ours: Float[Tensor, "token d"], theirs: Float[Tensor, "token d"]) -> float:
    """Distance between both residual streams over their spread, over all tokens that are no sinks.

    Raises AssertionError beyond a tenth, which is what bfloat16 explains; in float32 the tests ask for a thousandth.
    """
    norm, theirs = ours.norm(dim=1), theirs.float().cpu()
    keep = norm <= SINK_NORM * norm.median()
    off = ((ours - theirs)[keep].norm() / (ours - ours[keep].mean(0))[keep].norm()).item()
    if not off <= 0.1:
        raise AssertionError(f"activations: ours and the peer's differ by {off:.2g} of their spread, more than a tenth")
    return off


def extract_activations(case: Case, machine: Machine, peer_rounds: int) -> tuple[list[Row], dict]:
    """Activations at all tokens of a text, ours from the text itself; a row per precision of the peer.

    float32 is the peer's default; the model in bfloat16 is what its user can set. Of its two wrappers and two batch
    sizes the fastest on a small part does the whole.
    """
    texts, windows = full_windows(case)
    precisions = {dtype: str(dtype).removeprefix("torch.") for dtype in (torch.float32, case.lm.dtype)}
    ways, facts = {"ours": Way(lambda: activations(case.lm, texts, case.hook_layer, case.window))}, {}
    part = windows[:16]
    expected = case.lm.residual(part, case.hook_layer).flatten(0, 1).cpu()
    for dtype, precision in precisions.items():
        tried = {}
        for how in ("HookedProxyLM", "TransformerBridge"):
            for prompts in (8, 16):
                run = store(case, part, prompts, how, dtype)
                off = check_equal(expected, run())
                tried[how, prompts] = seconds(run, case.device) / part.numel()
                facts[f"{precision}, {how}, {prompts} windows a batch"] = {
                    "tokens_per_s": digits(1 / tried[how, prompts]), "difference": digits(off, 2)
                }  # fmt: skip
        how, prompts = min(tried, key=tried.get)
        name = f"SAELens ActivationsStore, {precision}"
        done = len(windows) // prompts * prompts / len(windows)  # whole batches only
        ways[name] = Way(store(case, windows, prompts, how, dtype), share=done, rounds=peer_rounds)
    times = in_turn(ways, 3, case.device)
    floor = machine.floor(lower_stages(case, windows))
    rows = [row("extract_activations", "s", times, name, floor, str(case.device)) for name in times if name != "ours"]
    rounds = {name: len(found) for name, found in times.items()}
    return rows, {"tokens": windows.numel(), "rounds": rounds, "peer_settings": facts}


def lower_stages(case: Case, windows: Int[Tensor, "window token"]) -> list[Stage]:
    """Least work: the matrices of the layers up to the hook at every token, and attention within each window."""
    lower = case.lm.layers[: case.hook_layer + 1]
    matrices = sum(p.numel() for p in lower.parameters() if p.ndim == 2)
    config = case.lm.model.config
    attention = 2 * windows.shape[1] * case.hook_layer * config.num_attention_heads * head_width(case)  # causal: half
    flops = windows.numel() * (2 * matrices + attention)
    return [Stage("layers", flops, matrices * case.lm.dtype.itemsize, case.lm.dtype)]


def head_width(case: Case) -> int:
    config = case.lm.model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
