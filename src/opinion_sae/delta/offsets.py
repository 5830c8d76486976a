"""Group offsets, in the latents of an SAE (the method) or straight in the residual stream; all arithmetic on them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from opinion_sae.artifacts import check_numbers, parse_json, read_tensors, replacing
from opinion_sae.sae.autoencoder import SparseAutoencoder, SparseCode

AnyOffset = TypeVar("AnyOffset", bound="Offset")
AnyDelta = TypeVar("AnyDelta", bound="GroupDelta")


class RectifiedShift(torch.autograd.Function):
    """decode(max(z + Delta_g, 0)) - decode(z) for sparse z, touching active latents only.

    Forward: a latent that is silent for an item adds max(Delta, 0) whatever the item, so those form one product per
    group; only the active latents need a correction per item.

    Backward: exact where the rectifier is open. Where it is shut, the gradient is passed straight through if it would
    open the latent, and dropped if it would only push it further down. Without that, a latent that is silent at the
    start could never be recruited.
    """

    @staticmethod
    def forward(
        ctx: object,
        delta: Float[Tensor, "group m"],
        values: Float[Tensor, "item active"],
        indices: Int[Tensor, "item active"],
        W_dec: Float[Tensor, "m d"],
    ) -> Float[Tensor, "item group d"]:
        ctx.save_for_backward(delta, values, indices, W_dec)
        silent = delta.relu() @ W_dec
        at_active = delta[:, indices]  # group item active
        correction = (values + at_active).relu() - values - at_active.relu()  # 0 in a place that holds nothing
        return silent + torch.einsum("gia,iad->igd", correction, W_dec[indices])

    @staticmethod
    def backward(ctx: object, grad: Float[Tensor, "item group d"]) -> tuple[Tensor, Tensor | None, None, Tensor | None]:
        delta, values, indices, W_dec = ctx.saved_tensors
        at_active = delta[:, indices]
        rows = W_dec[indices]
        active = torch.einsum("igd,iad->gia", grad, rows) * (values > 0)
        opened = values + at_active > 0
        grad_values = grad_decoder = None
        if ctx.needs_input_grad[1]:  # z counts in z_g only where the rectifier is open, and always in decode(z)
            grad_values = (active * (opened.float() - 1)).sum(0)
        if ctx.needs_input_grad[3]:
            correction = (values + at_active).relu() - values - at_active.relu()
            at_rows = torch.einsum("gia,igd->iad", correction * (values > 0), grad)
            grad_decoder = delta.relu().T @ grad.sum(0)
            grad_decoder.index_add_(0, indices.flatten(), at_rows.flatten(0, 1))
        per_latent = indices.flatten().expand(len(delta), -1)
        silent = (grad.sum(0) @ W_dec.T).scatter_add(1, per_latent, -active.flatten(1))
        silent = torch.where(delta > 0, silent, silent.clamp_max(0.0))
        active = torch.where(opened, active, active.clamp_max(0.0))
        return silent.scatter_add(1, per_latent, active.flatten(1)), grad_values, None, grad_decoder


class Offset(nn.Module):
    """A shared part and a deviation per group, in the latents of `sae` or, without one, in the residual stream.

    shared: (n,), deviation: (group, n). Arithmetic gives copies for the same SAE; the SAE itself is neither copied,
    saved nor counted among the parameters.
    """

    sae: SparseAutoencoder | None = None
    reads: str | None = None  # the place of the prompts that `steer` wants read beside x (`model.reading`)
    relative = False  # whether offsets are shares of a latent's value instead of amounts of it

    def __init__(self, groups: Sequence[str], width: int):
        super().__init__()
        self.groups = tuple(groups)
        self.about: dict[str, str] = {}  # where it was read from a file: the model, its hash and the hook layer
        self.shared = nn.Parameter(torch.zeros(width))
        self.deviation = nn.Parameter(torch.zeros(len(self.groups), width))

    def offsets(self) -> Float[Tensor, "group n"]:
        """Both parts together, of every group."""
        return self.shared + self.deviation

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        """x_g of every group, with gradients for the offsets."""
        raise NotImplementedError

    def constrain(self) -> None:
        """Called after every step of a fit; here every value is allowed."""

    def with_parts(
        self: AnyOffset,
        shared: Float[Tensor, "n"] | None = None,
        deviation: Float[Tensor, "some_groups n"] | None = None,
        groups: Sequence[str] | None = None,
    ) -> AnyOffset:
        """A copy with other parts, or for other groups; what is not given is copied as it is."""
        given = {"shared": shared, "deviation": deviation}
        part = copy.copy(self)
        part.groups = self.groups if groups is None else tuple(groups)
        part._parameters = {
            name: nn.Parameter((old if given.get(name) is None else given[name]).detach().clone())
            for name, old in self._parameters.items()
        }
        return part

    def for_groups(self: AnyOffset, groups: Sequence[str]) -> AnyOffset:
        """The offsets of some of the groups, in the order given. KeyError for a group that has none."""
        missing = sorted(set(groups) - set(self.groups))
        if missing:
            raise KeyError(f"no offset for {missing}; there are {list(self.groups)}")
        return self.with_parts(deviation=self.deviation[[self.groups.index(group) for group in groups]], groups=groups)

    def shared_for(self: AnyOffset, groups: Sequence[str]) -> AnyOffset:
        """The shared part alone, for any groups."""
        return self.with_parts(deviation=self.deviation.new_zeros(len(groups), len(self.shared)), groups=groups)

    def shared_only(self: AnyOffset) -> AnyOffset:
        """The shared part as one group that stands for all: a view, through which it can be trained."""
        part = copy.copy(self)
        part.groups = ("everyone",)
        nothing = nn.Parameter(torch.zeros_like(self.deviation[:1]), requires_grad=False)
        part._parameters = {**self._parameters, "deviation": nothing}
        return part

    def scaled(self: AnyOffset, strength: float) -> AnyOffset:
        """`strength` times each group's offset; without gradients."""
        return self.dosed(strength, strength).requires_grad_(False)

    def dosed(self: AnyOffset, shared: float, group: float) -> AnyOffset:
        """shared * the shared part + group * the group's own."""
        return self.with_parts(shared * self.shared, group * self.deviation)

    def flip(self: AnyOffset, keep_shared: bool = False) -> AnyOffset:
        """-Delta_g; with `keep_shared`, Delta_shared - D_g."""
        return self.with_parts(self.shared if keep_shared else -self.shared, -self.deviation)

    def composed(self: AnyOffset, members: Sequence[Sequence[str]]) -> AnyOffset:
        """Offsets for intersections of groups: the shared part plus the sum of the members' deviations."""
        rows = [sum(self.deviation[self.groups.index(name)] for name in names) for names in members]
        return self.with_parts(deviation=torch.stack(rows), groups=[" & ".join(names) for names in members])

    def with_norms(self: AnyOffset, norms: Float[Tensor, "group"]) -> AnyOffset:
        """Each group's offset scaled to a norm, all of it in the deviations."""
        whole = self.offsets()
        scale = norms / whole.norm(dim=1).clamp_min(1e-12)
        return self.with_parts(torch.zeros_like(self.shared), whole * scale[:, None])


class DenseOffset(Offset):
    """x_g = x + v_shared + v_g: an offset per group straight in the residual stream, without an SAE."""

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        return x[:, None] + self.offsets().to(x.device)


class GroupDelta(Offset):
    """Delta_g = Delta_shared + D_g, added to the latents of an SAE and rectified: z_g = max(z + Delta_g, 0).

    shared: (m,), deviation: (group, m), both in the units of the latents. With `keep_error` the SAE's error
    e = x - decode(z) is kept, so x_g = x + decode(z_g) - decode(z), and Delta = 0 leaves the model exactly as it was.
    Without it x_g = decode(z_g), and the SAE alone has to carry the answer.

    The other kinds change `shift`, or constrain the deviations; fits, files and steering take any of them.
    """

    sae: SparseAutoencoder

    def __init__(self, groups: Sequence[str], sae: SparseAutoencoder, keep_error: bool = True):
        super().__init__(groups, sae.width)
        self.keep_error = keep_error
        object.__setattr__(self, "sae", sae)  # past nn.Module, which would make it a part of this one

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        KINDS[cls.__name__] = cls

    def on(self: AnyDelta, sae: SparseAutoencoder) -> AnyDelta:
        """A copy for another SAE with as many latents."""
        check_width(len(self.shared), sae)
        part = self.with_parts()
        object.__setattr__(part, "sae", sae)
        return part

    def steer(self, x: Float[Tensor, "item d"], read: Tensor | None = None) -> Float[Tensor, "item group d"]:
        """x_g of every group. Gradients flow to the offsets, and to the SAE unless it is frozen."""
        code = self.sae.encode_sparse(x)
        base = x if self.keep_error else self.sae.decode_sparse(code)
        return base[:, None] + self.shift(code, self.sae.W_dec.to(x.device))

    def shift(self, code: SparseCode, W_dec: Float[Tensor, "m d"]) -> Float[Tensor, "item group d"]:
        """decode(z_g) - decode(z)."""
        return RectifiedShift.apply(self.offsets().to(W_dec.device), code.values, code.indices, W_dec)

    def touched(self) -> Float[Tensor, "group"]:
        """How many latents each group's offset moves."""
        return (self.offsets() != 0).sum(1).float()

    def strongest(self, latents: int) -> Bool[Tensor, "group m"]:
        """Which entries are among a group's `latents` largest |Delta_g|; entries of exactly zero never are."""
        size = self.offsets().detach().abs()
        chosen = torch.zeros_like(size, dtype=torch.bool)
        chosen.scatter_(1, size.topk(min(latents, size.shape[1]), dim=1).indices, True)
        return chosen & (size > 0)

    def strongest_shared(self: AnyDelta, latents: int) -> AnyDelta:
        """The largest so many entries of Delta_shared and nothing else."""
        size = self.shared.detach().abs()
        kept = size >= size.topk(min(latents, len(size))).values[-1]
        return self.with_parts(self.shared * kept, torch.zeros_like(self.deviation))

    def cut(self: AnyDelta, keep: Bool[Tensor, "group m"]) -> AnyDelta:
        """These entries of Delta_g and no others, all of them in the deviations."""
        return self.with_parts(torch.zeros_like(self.shared), self.offsets() * keep.to(self.shared.device))

    def moved(self: AnyDelta, order: Int[Tensor, "m"], keep_shared: bool = False) -> AnyDelta:
        """The values at other latents: Delta'_j = Delta_order(j); with `keep_shared`, of D_g alone."""
        return self.with_parts(self.shared if keep_shared else self.shared[order], self.deviation[:, order])

    def without(self: AnyDelta, group: int, latents: Int[Tensor, "removed"]) -> AnyDelta:
        """One group's offset without one of the latents: as many 'groups' as there are latents; the whole is last."""
        rows = self.offsets()[group].detach().repeat(len(latents) + 1, 1)
        rows[torch.arange(len(latents)), latents] = 0
        return self.with_parts(torch.zeros_like(self.shared), rows, [str(i) for i in range(len(rows))])

    def save(self, path: str | Path, **about: str) -> None:
        """Write a safetensors file; `about` (model, hook_layer ...) and the SAE's hash go to its JSON header."""
        tensors = {name: part.detach().cpu().contiguous() for name, part in self._parameters.items()}
        header = {
            "format": "opinion-sae-delta",
            "kind": type(self).__name__,
            "keep_error": json.dumps(self.keep_error),
            "groups": json.dumps(self.groups),
            "sae": self.sae.sha256(),
            **self.about,
            **about,
        }
        with replacing(Path(path)) as side:
            save_file(tensors, side, metadata=header)

    @classmethod
    def load(cls, path: str | Path, sae: SparseAutoencoder) -> GroupDelta:
        """Read a file written by `save`, of any kind; what else its header says goes to `about`.

        ValueError for another file, or if it names another SAE than `sae`.
        """
        about, tensors = read_offsets(path)
        kind = about.pop("kind", "GroupDelta")
        if kind not in KINDS:
            raise ValueError(
                f"{path}: its header has kind {kind!r}, which is not one of {', '.join(KINDS)}; `load_offset` reads "
                "offsets that read the question too"
            )
        check_width(tensors["shared"].numel(), sae, f"{path}: ")
        check_sae(path, about.pop("sae", None), sae)
        delta = KINDS[kind](about.pop("groups"), sae, about.pop("keep_error", True))
        if isinstance(delta, LowRankDelta):
            delta.rank = about.pop("rank", delta.rank)
        fill(path, delta, tensors)
        delta.about = about
        return delta


KINDS: dict[str, type[GroupDelta]] = {"GroupDelta": GroupDelta}


def are_names(found: object) -> bool:
    """Whether this is a list of different names."""
    names = found if isinstance(found, list) else [None]
    return all(isinstance(name, str) and name.strip() for name in names) and 0 < len(set(names)) == len(names)


# what a header holds as JSON, how it is checked, and what it is called
HEADER = {
    "groups": (are_names, "a list of different names"),
    "parts": (are_names, "a list of different names"),
    "keep_error": (lambda found: isinstance(found, bool), "true or false"),
    "rank": (lambda found: type(found) is int and found > 0, "a whole number above 0"),
}


def check_width(latents: int, sae: SparseAutoencoder, where: str = "") -> None:
    if sae.width != latents:
        raise ValueError(f"{where}the offset is for {latents} latents, the SAE has {sae.width}")


def check_sae(path: str | Path, fitted: str | None, sae: SparseAutoencoder) -> None:
    if fitted not in (None, sae.sha256()):
        raise ValueError(f"{path}: fitted with the SAE {fitted}, but loaded with the SAE {sae.sha256()}")


def read_offsets(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file of group offsets, lists and numbers in the header as they were before they were
    written. ValueError for another file, names of groups that are not different, or tensors that are not finite."""
    about, tensors = read_tensors(path, "a file of group offsets")
    if about.pop("format", None) != "opinion-sae-delta":
        raise ValueError(f"{path}: not a file of group offsets (its header lacks format: opinion-sae-delta)")
    found: dict[str, Any] = {"groups": None, **about}
    for key, (fits, wanted) in HEADER.items():
        if key in found:
            found[key] = parse_json(about.get(key, "null"), f"{path}: header, {key}")
            if not fits(found[key]):
                raise ValueError(f"{path}: header, {key}: {str(found[key])[:60]}, expected {wanted}")
    if "shared" not in tensors:
        raise ValueError(f"{path}: tensors {sorted(tensors)}, and none of them is shared")
    check_numbers(path, tensors)
    return found, tensors


def fill(path: str | Path, offset: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The tensors of a file into the offset that its header describes. ValueError unless names and shapes agree."""
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in of.items()} for of in (offset.state_dict(), tensors)
    )
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            there, wanted = (f"has shape {of[name]}" if name in of else "is not there" for of in (found, expected))
            raise ValueError(f"{path}: the tensor {name} {there}, expected {wanted.removeprefix('has shape ')}")
    offset.load_state_dict(dict(tensors))


class MultiplicativeDelta(GroupDelta):
    """z_g = z max(1 + Delta_g, 0): rescales the latents that fire, and leaves silent ones silent."""

    relative = True

    def shift(self, code: SparseCode, W_dec: Float[Tensor, "m d"]) -> Float[Tensor, "item group d"]:
        gain = (1 + self.offsets().to(W_dec.device)[:, code.indices]).relu() - 1
        return torch.einsum("gia,ia,iad->igd", gain, code.values, W_dec[code.indices])


class AdditiveDelta(GroupDelta):
    """z_g = z + Delta_g without a rectifier: the dense vector Delta_g W_dec, written in latents."""

    def shift(self, code: SparseCode, W_dec: Float[Tensor, "m d"]) -> Float[Tensor, "item group d"]:
        return (self.offsets().to(W_dec.device) @ W_dec).expand(len(code.values), -1, -1)


class LowRankDelta(GroupDelta):
    """z_g = max(z + Delta_shared + (A B)_g, 0) with A: (group, rank) and B: (rank, m): a few directions for all groups.

    The deviations are kept as their product; after each step they become the nearest matrix of that rank (Eckart and
    Young 1936).
    """

    def __init__(self, groups: Sequence[str], sae: SparseAutoencoder, keep_error: bool = True, rank: int = 3):
        super().__init__(groups, sae, keep_error)
        self.rank = rank

    @torch.no_grad()
    def factors(self) -> tuple[Float[Tensor, "group rank"], Float[Tensor, "rank m"]]:
        """A, with orthonormal columns, and B of the best approximation A B to the deviations, the strongest first."""
        A = torch.linalg.svd(self.deviation @ self.deviation.T).U[:, : self.rank]
        return A, A.T @ self.deviation

    @torch.no_grad()
    def constrain(self) -> None:
        if self.rank < len(self.groups):
            A, B = self.factors()
            self.deviation.copy_(A @ B)

    def cut(self: AnyDelta, keep: Bool[Tensor, "group m"]) -> AnyDelta:
        part = super().cut(keep)
        part.rank = len(self.groups)  # any rank: entries of their own for each group have no low one
        return part

    def save(self, path: str | Path, **about: str) -> None:
        super().save(path, rank=str(self.rank), **about)
