"""Sparse autoencoders in SAELens' format."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from opinion_sae.artifacts import check_fields, check_numbers, read_json, read_tensors, replacing, write_json
from opinion_sae.products import linear
from opinion_sae.sae.npz import npz_arrays

ENCODER = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS = (*ENCODER, "threshold")
GATED = ("W_enc", "b_mag", "W_dec", "b_dec", "b_gate", "r_mag")
ARCHITECTURES = {  # SAELens' names, and the tensors of each; the last two are what training leaves before it is folded
    "standard": ENCODER,
    "topk": ENCODER,
    "jumprelu": TENSORS,
    "gated": GATED,
    "batchtopk": (*ENCODER, "topk_threshold"),
    "matryoshka_batchtopk": (*ENCODER, "topk_threshold"),
}
SCOPE = ("params.npz", "params.safetensors")  # of Gemma Scope for Gemma 2 and Gemma 3, beside no cfg.json
READ = sorted({name for tensors in ARCHITECTURES.values() for name in tensors})
CONFIG = {  # of SAELens' configuration, what is read and checked here; all of it may be missing
    **{"d_in": int | None, "d_sae": int | None, "k": int | float | None, "metadata": dict | None},
    **{"apply_b_dec_to_input": bool, "rescale_acts_by_decoder_norm": bool},
}
MISSING = {"d_in": None, "d_sae": None, "k": None, "metadata": None} | {
    "apply_b_dec_to_input": True,
    "rescale_acts_by_decoder_norm": False,
}


class SparseCode(NamedTuple):
    """Active latents of each activation; unused places have value 0."""

    values: Float[Tensor, "batch active"]
    indices: Int[Tensor, "batch active"]


class SparseAutoencoder(nn.Module):
    """z = act(W_enc (x - b_dec) + b_enc),  decode(z) = W_dec z + b_dec.

    `act` is ReLU ('standard'), ReLU of the k largest ('topk'; Gao et al. 2024), or z where z > threshold ('jumprelu';
    Rajamanoharan et al. 2024). JumpReLU and standard SAEs may leave `b_dec` out of the encoder (`subtract_b_dec`).
    What others call gated, BatchTopK or Matryoshka is one of these once it is trained: see `from_saelens`.

    x: (batch, d) residual stream; z: (batch, m) latents; W_enc: (d, m); W_dec: (m, d). `metadata` is SAELens' own:
    model_name, hook_name and so on. Whatever device the SAE is on, results are on that of the input.
    """

    def __init__(
        self,
        W_enc: Float[Tensor, "d m"],
        b_enc: Float[Tensor, "m"],
        W_dec: Float[Tensor, "m d"],
        b_dec: Float[Tensor, "d"],
        k: int | None = None,
        threshold: Float[Tensor, "m"] | None = None,
        subtract_b_dec: bool = True,
        metadata: dict | None = None,
    ):
        super().__init__()
        self.W_enc, self.b_enc = nn.Parameter(W_enc), nn.Parameter(b_enc)
        self.W_dec, self.b_dec = nn.Parameter(W_dec), nn.Parameter(b_dec)
        self.register_buffer("threshold", threshold)
        self.k, self.subtract_b_dec, self.metadata = k, subtract_b_dec, metadata or {}

    @property
    def width(self) -> int:
        """Number m of latents."""
        return self.W_dec.shape[0]

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def architecture(self) -> str:
        return "topk" if self.k is not None else "standard" if self.threshold is None else "jumprelu"

    def pre_activations(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        if x.shape[-1] != self.d_in:
            raise ValueError(f"this SAE reads activations of width {self.d_in}, got {x.shape[-1]}")
        x = x.to(self.W_enc.device)
        centred = x - self.b_dec if self.subtract_b_dec else x
        return linear(centred, self.W_enc.T, self.b_enc)

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch m"]:
        """Latents z, non-negative and mostly zero."""
        pre = self.pre_activations(x)
        if self.k is not None:
            top = pre.topk(self.k, dim=-1)
            z = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        elif isinstance(self.threshold, Tensor):
            z = pre.relu() * (pre > self.threshold)
        else:
            z = pre.relu()
        return z.to(x.device)

    def encode_sparse(self, x: Float[Tensor, "batch d"]) -> SparseCode:
        """The same latents as (values, indices): k of them for top-k, else as many as the fullest row has."""
        if self.k is not None:
            top = self.pre_activations(x).topk(self.k, dim=-1)
            return SparseCode(top.values.relu().to(x.device), top.indices.to(x.device))
        z = self.encode(x)
        return SparseCode(*z.topk(max(1, int((z > 0).sum(-1).max())), dim=-1))

    def decode(self, z: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
        return linear(z.to(self.W_dec.device), self.W_dec.T, self.b_dec).to(z.device)

    def decode_sparse(self, code: SparseCode) -> Float[Tensor, "batch d"]:
        """The same as `decode`, from (values, indices)."""
        values, indices = (part.to(self.W_dec.device) for part in code)
        return (torch.einsum("ba,bad->bd", values, self.W_dec[indices]) + self.b_dec).to(code.values.device)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.decode(self.encode(x))

    def sha256(self) -> str:
        """Hash of the weights, to tell which SAE an offset belongs to."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `cfg.json` and `sae_weights.safetensors` as SAELens' `SAE.load_from_disk` reads them."""
        config = {
            "architecture": self.architecture,
            "d_in": self.d_in,
            "d_sae": self.width,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": self.subtract_b_dec,
            "normalize_activations": "none",
            "reshape_activations": "none",
            # without a version SAELens takes the file for one of its oldest and drops the metadata
            "metadata": {"sae_lens_version": "6.0.0"} | self.metadata,
        }
        if self.k is not None:
            config |= {"k": self.k, "rescale_acts_by_decoder_norm": False}
        weights = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with replacing(Path(folder)) as side:
            side.mkdir()
            save_file(weights, side / "sae_weights.safetensors")
            write_json(side / "cfg.json", config)


def load_sae(source: str | Path) -> SparseAutoencoder:
    """Load a SAELens folder, one with Gemma Scope's `params.npz` or `params.safetensors`, or `<SAELens release>/<id>`.

    It goes to the GPU if there is one, and is frozen: no gradient reaches its weights before `requires_grad_()`.
    Raises FileNotFoundError for a folder without those files, ValueError for an architecture or a normalisation that
    cannot take an offset on its latents as they are, and for tensors whose shapes do not fit each other.
    """
    folder = sae_folder(source)
    if folder is None:
        sae = from_release(str(source))
    elif (folder / "cfg.json").is_file():
        config = read_json(folder / "cfg.json", dict)
        weights = read_tensors(folder / "sae_weights.safetensors", names=READ)[1]
        sae = from_saelens(config, weights, f"{source}: cfg.json", f"{source}: sae_weights.safetensors")
    else:
        sae = from_gemma_scope(folder)
    return sae.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)


def sae_folder(source: str | Path) -> Path | None:
    """The folder that `source` names, with one of the known files in it; None for a SAE of a SAELens release."""
    folder = Path(source).expanduser()
    if any((folder / name).is_file() for name in ("cfg.json", *SCOPE)):
        return folder
    if folder.is_dir() or str(source).startswith((".", "/", "~")) or "/" not in str(source):
        raise FileNotFoundError(
            f"SAE {source}: neither cfg.json with sae_weights.safetensors (SAELens) nor {' or '.join(SCOPE)} (Gemma "
            "Scope) there; a hub SAE is named <SAELens release>/<id>"
        )
    return None


def release_and_id(source: str) -> tuple[str, str]:
    """'gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical' -> release and id, by SAELens' directory.

    A hub repository of SAELens folders, <owner>/<name>/<id>, is not in the directory. Raises ValueError for an
    unknown release or id, with what there is.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory  # slow, as below

    release, sae_id = source.split("/", 1)
    known = get_pretrained_saes_directory()
    if release in known:
        ids = list(known[release].saes_map)
        if sae_id not in ids:
            near = get_close_matches(sae_id, ids, n=3) or ids[:3]
            raise ValueError(f"SAE {source}: release {release} has no {sae_id!r}; it has {len(ids)}, such as {near}")
        return release, sae_id
    if source.count("/") < 2:
        near = get_close_matches(release, known, n=3)
        raise ValueError(f"SAE {source}: SAELens knows no release {release!r}; it has {len(known)}, such as {near}")
    owner, name, sae_id = source.split("/", 2)
    return f"{owner}/{name}", sae_id


def not_fetched(source: str, error: OSError) -> OSError:
    return OSError(
        f"SAE {source} could not be fetched from the Hugging Face hub; without a network, point `sae` at "
        f"a folder with cfg.json and sae_weights.safetensors, or with {' or '.join(SCOPE)}. The hub said: {error}"
    )


def from_release(source: str) -> SparseAutoencoder:
    """An SAE of SAELens' directory of pretrained ones, fetched from the hub by SAELens."""
    from sae_lens import SAE  # takes ten seconds to import, so only where it is needed

    release, sae_id = release_and_id(source)
    try:
        sae = SAE.from_pretrained(release, sae_id)
    except OSError as error:
        raise not_fetched(source, error) from error
    return from_saelens(sae.cfg.to_dict(), sae.state_dict(), source)


def checked_config(config: dict, name: str) -> dict:
    """The configuration with what SAELens takes for granted, each of the fields that are read of its kind."""
    config = MISSING | config
    check_fields(config, CONFIG, f"SAE {name}", more=True)
    return config


def from_saelens(config: dict, weights: dict[str, Tensor], name: str, file: str = "") -> SparseAutoencoder:
    """Our SAE from SAELens' configuration and tensors; `name` and `file` are what errors say of either.

    A gated SAE, 1[W x + b_gate > 0] ReLU(exp(r_mag) W x + b_mag), is a JumpReLU SAE with encoder exp(r_mag) W, bias
    b_mag and threshold b_mag - exp(r_mag) b_gate (Rajamanoharan et al. 2024). BatchTopK and Matryoshka SAEs take one
    threshold for all latents once they are trained, `topk_threshold`.
    """
    config = checked_config(config, name)
    architecture = config.get("architecture")
    if "hook_name" in config or "hook_point" in config:
        raise ValueError(
            f"SAE {name}: its configuration is that of SAELens before version 6; load it with SAELens and save it "
            "again with save_inference_model"
        )
    if architecture not in (*ARCHITECTURES,):
        raise ValueError(f"SAE {name}: architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    for key, plain in [("normalize_activations", "none"), ("reshape_activations", "none")]:
        if config.get(key, plain) != plain:
            raise ValueError(f"SAE {name}: {key} is {config[key]!r}; only {plain!r} is read (fold it into the weights)")
    wanted = ARCHITECTURES[architecture]
    tensors = check_tensors(file or name, weights, wanted, config.get("d_in"), config.get("d_sae"))
    W_enc, b_enc, W_dec, b_dec, *rest = tensors
    threshold = rest[0].expand(len(b_enc)).clone() if rest else None
    if architecture == "gated":
        larger = rest[1].exp()
        check_numbers(f"SAE {file or name}", {"exp(r_mag)": larger})
        W_enc, threshold = W_enc * larger, b_enc - larger * rest[0]
    k = config.get("k") if architecture == "topk" else None
    if architecture == "topk" and not (isinstance(k, int) and 1 <= k <= len(b_enc)):
        raise ValueError(f"SAE {name}: k is {k!r}, expected a whole number from 1 to its width, {len(b_enc)}")
    if "topk" in architecture and config.get("rescale_acts_by_decoder_norm"):
        norm = W_dec.norm(dim=1)  # its latents are z |W_dec|, for the same decode(z)
        W_enc, b_enc, W_dec = W_enc * norm, b_enc * norm, W_dec / norm[:, None]
    return SparseAutoencoder(
        *(W_enc, b_enc, W_dec, b_dec),
        k=k,
        threshold=threshold,
        subtract_b_dec=config["apply_b_dec_to_input"],
        metadata=dict(config.get("metadata") or {}),
    )


def from_gemma_scope(folder: Path) -> SparseAutoencoder:
    """Gemma Scope's own file (Lieberum et al. 2024): JumpReLU, b_dec not subtracted before the encoder.

    For Gemma 2 `params.npz`; for Gemma 3 (Gemma Scope 2) `params.safetensors`, with `w_enc` and `w_dec` in small
    letters. Raises ValueError for tensors that are missing, misshapen or not finite, and for more of them, as a
    transcoder has.
    """
    path = folder / SCOPE[0]
    if path.is_file():
        weights = {name: torch.from_numpy(array) for name, array in npz_arrays(path, TENSORS).items()}
    else:
        path = folder / SCOPE[1]
        small = {name.replace("W_", "w_"): name for name in TENSORS}
        found = read_tensors(path)[1]
        if more := sorted(set(found) - set(small)):
            raise ValueError(f"SAE {path}: tensors {more} are none of an SAE's, which are {', '.join(small)}")
        weights = {small[name]: tensor for name, tensor in found.items()}
    tensors = check_tensors(str(path), weights, TENSORS)
    return SparseAutoencoder(*tensors[:4], threshold=tensors[4], subtract_b_dec=False)


def check_tensors(
    name: str, weights: dict[str, Tensor], wanted: Sequence[str], d_in: int | None = None, width: int | None = None
) -> list[Tensor]:
    """The wanted tensors in float32, or ValueError naming the one that is missing, misshapen or not finite."""
    missing = [key for key in wanted if key not in weights]
    if missing:
        raise ValueError(f"SAE {name}: tensors {missing} are missing; found {sorted(weights)}")
    if weights["W_dec"].ndim != 2:
        raise ValueError(f"SAE {name}: W_dec has shape {tuple(weights['W_dec'].shape)}, expected (latents, width)")
    m, d = weights["W_dec"].shape
    m, d = width or m, d_in or d
    shapes = {"W_enc": (d, m), "W_dec": (m, d), "b_dec": (d,), "topk_threshold": ()}
    shapes |= dict.fromkeys(("b_enc", "threshold", "b_gate", "b_mag", "r_mag"), (m,))
    for key in wanted:
        if tuple(weights[key].shape) != shapes[key]:
            raise ValueError(f"SAE {name}: {key} has shape {tuple(weights[key].shape)}, expected {shapes[key]}")
    check_numbers(f"SAE {name}", {key: weights[key] for key in wanted})
    return [weights[key].float() for key in wanted]


class SaeFacts(NamedTuple):
    """What an SAE says of itself without its weights."""

    d_in: int | None
    metadata: dict


def sae_facts(source: str) -> SaeFacts:
    """Width of the input and metadata of the SAE that `load_sae` would load; raises what `load_sae` raises."""
    folder = sae_folder(source)
    if folder is None:
        from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface  # slow, as above

        try:
            config = load_sae_config_from_huggingface(*release_and_id(source))
        except OSError as error:
            raise not_fetched(source, error) from error
        return SaeFacts(config.get("d_in"), config.get("metadata") or config)
    if (folder / "cfg.json").is_file():
        config = checked_config(read_json(folder / "cfg.json", dict), f"{source}: cfg.json")
        return SaeFacts(config.get("d_in"), config.get("metadata") or {})
    return SaeFacts(from_gemma_scope(folder).d_in, {})


def check_fits(sae: SparseAutoencoder | SaeFacts, source: str, model: str, width: int, hook_layer: int) -> str:
    """Raise ValueError unless the SAE reads this model's residual stream at this layer; names both sides.

    Returns a note, empty if there is nothing to say: an SAE of a base model may be used on the model's chat version
    (there is no Gemma Scope for gemma-2-2b-it), but whoever reads the results should know.
    """
    if sae.d_in is not None and sae.d_in != width:
        raise ValueError(f"SAE {source} reads activations of width {sae.d_in}, but {model} is {width} wide")
    hook = sae.metadata.get("hook_name")
    expected = f"blocks.{hook_layer}.hook_resid_post"
    if hook not in (None, expected, f"blocks.{hook_layer + 1}.hook_resid_pre"):  # two names of one place
        raise ValueError(f"SAE {source} was trained at {hook}, but hook_layer {hook_layer} means {expected}")
    trained_on = sae.metadata.get("model_name")
    if trained_on is None or Path(model).expanduser().exists():  # a local copy may have any name
        return ""
    theirs, ours = Path(trained_on).name.lower(), Path(model).name.lower()
    if theirs == ours:
        return ""
    if theirs.startswith(f"{ours}-") or ours.startswith(f"{theirs}-"):
        return (
            f"SAE {source} was trained on {trained_on} and is used on {model}: the same family, not the same weights."
        )
    raise ValueError(f"SAE {source} was trained on {trained_on}, but the model is {model}")
