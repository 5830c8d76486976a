"""Group offsets: in the latents of an SAE (the method), or straight in the residual stream (for comparison)."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from opinion_sae.artifacts import replacing
from opinion_sae.sae.autoencoder import SparseAutoencoder, SparseCode


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


class GroupDelta(nn.Module):
    """Delta_g = Delta_shared + D_g, added to the latents of an SAE and rectified: z_g = max(z + Delta_g, 0).

    shared: (m,), deviation: (group, m), both in the units of the latents. With `keep_error` the SAE's error
    e = x - decode(z) is kept, so x_g = x + decode(z_g) - decode(z), and Delta = 0 leaves the model exactly as it was.
    Without it x_g = decode(z_g), and the SAE alone has to carry the answer.

    The other kinds change `shift`, or constrain the deviations; fits, files and steering take any of them.
    """

    relative = False  # whether offsets are shares of a latent's value instead of amounts of it

    def __init__(self, groups: Sequence[str], width: int, keep_error: bool = True):
        super().__init__()
        self.groups = tuple(groups)
        self.keep_error = keep_error
        self.shared = nn.Parameter(torch.zeros(width))
        self.deviation = nn.Parameter(torch.zeros(len(self.groups), width))

    def offsets(self) -> Float[Tensor, "group m"]:
        """Delta_g of every group."""
        return self.shared + self.deviation

    def steer(self, x: Float[Tensor, "item d"], sae: SparseAutoencoder) -> Float[Tensor, "item group d"]:
        """x_g of every group. Gradients flow to the offsets, and to the SAE unless it is frozen."""
        if sae.width != self.shared.shape[0]:
            raise ValueError(f"the offset is for {self.shared.shape[0]} latents, the SAE has {sae.width}")
        code = sae.encode_sparse(x)
        base = x if self.keep_error else sae.decode_sparse(code)
        return base[:, None] + self.shift(code, sae.W_dec.to(x.device))

    def shift(self, code: SparseCode, W_dec: Float[Tensor, "m d"]) -> Float[Tensor, "item group d"]:
        """decode(z_g) - decode(z)."""
        return RectifiedShift.apply(self.offsets().to(W_dec.device), code.values, code.indices, W_dec)

    def for_groups(self, groups: Sequence[str]) -> GroupDelta:
        """The offsets of some of the groups, in the order given."""
        missing = sorted(set(groups) - set(self.groups))
        if missing:
            raise KeyError(f"no offset for {missing}; there are {list(self.groups)}")
        part = copy.deepcopy(self)
        part.groups = tuple(groups)
        part.deviation = nn.Parameter(self.deviation.detach()[[self.groups.index(g) for g in groups]].clone())
        return part

    def cut(self, keep: Bool[Tensor, "group m"]) -> GroupDelta:
        """A copy with these entries of Delta_g and no others, all of them in the deviations."""
        part = copy.deepcopy(self)
        with torch.no_grad():
            part.deviation.copy_(self.offsets() * keep.to(self.shared.device))
            part.shared.zero_()
        return part

    def constrain(self) -> None:
        """Called after every step of a fit; here every value is allowed."""

    def save(self, path: str | Path, **about: str) -> None:
        """Write a safetensors file; `about` (model, hook_layer, sae hash ...) goes to its JSON header."""
        tensors = {"shared": self.shared.detach().cpu(), "deviation": self.deviation.detach().cpu().contiguous()}
        header = {
            "format": "opinion-sae-delta",
            "kind": type(self).__name__,
            "keep_error": json.dumps(self.keep_error),
            "groups": json.dumps(self.groups),
            **about,
        }
        with replacing(Path(path)) as side:
            save_file(tensors, side, metadata=header)

    @classmethod
    def load(cls, path: str | Path) -> tuple[GroupDelta, dict[str, str]]:
        """Read a file written by `save`: the offsets and what its header says about them."""
        try:
            with safe_open(path, framework="pt") as file:
                about = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path}: not a file of group offsets: {error}") from error
        if about.pop("format", None) != "opinion-sae-delta":
            raise ValueError(f"{path}: not a file of group offsets (its header lacks format: opinion-sae-delta)")
        groups = json.loads(about.pop("groups"))
        expected = (len(groups), len(tensors["shared"]))
        if tuple(tensors["deviation"].shape) != expected:
            found = tuple(tensors["deviation"].shape)
            raise ValueError(f"{path}: the tensor deviation has shape {found}, expected {expected}")
        kind = KINDS[about.pop("kind", "GroupDelta")]
        delta = kind(groups, tensors["shared"].shape[0], json.loads(about.pop("keep_error", "true")))
        delta.load_state_dict(tensors)
        if isinstance(delta, LowRankDelta):
            delta.rank = int(about.pop("rank"))
        return delta, about


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

    def __init__(self, groups: Sequence[str], width: int, keep_error: bool = True, rank: int = 3):
        super().__init__(groups, width, keep_error)
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

    def cut(self, keep: Bool[Tensor, "group m"]) -> GroupDelta:
        part = super().cut(keep)
        part.rank = len(self.groups)  # any rank: entries of their own for each group have no low one
        return part

    def save(self, path: str | Path, **about: str) -> None:
        super().save(path, rank=str(self.rank), **about)


KINDS = {kind.__name__: kind for kind in (GroupDelta, MultiplicativeDelta, AdditiveDelta, LowRankDelta)}


class DenseOffset(nn.Module):
    """x_g = x + v_shared + v_g: an offset per group straight in the residual stream, without an SAE."""

    def __init__(self, groups: Sequence[str], width: int):
        super().__init__()
        self.groups = tuple(groups)
        self.shared = nn.Parameter(torch.zeros(width))
        self.deviation = nn.Parameter(torch.zeros(len(self.groups), width))

    def steer(self, x: Float[Tensor, "item d"], sae: object = None) -> Float[Tensor, "item group d"]:
        return x[:, None] + (self.shared + self.deviation).to(x.device)


def scaled(
    delta: GroupDelta | DenseOffset, strength: float, groups: Sequence[str] | None = None
) -> GroupDelta | DenseOffset:
    """A copy with `strength` times the offset of each group: shared and deviation are both multiplied.

    Only `groups`, in that order, if given. Raises KeyError for a group that has no offset.
    """
    groups = delta.groups if groups is None else tuple(groups)
    missing = sorted(set(groups) - set(delta.groups))
    if missing:
        raise KeyError(f"no offset for {missing}; there are {list(delta.groups)}")
    rows = [delta.groups.index(group) for group in groups]
    part = copy.deepcopy(delta)
    part.groups = groups
    part.shared = nn.Parameter(strength * delta.shared.detach(), requires_grad=False)
    part.deviation = nn.Parameter(strength * delta.deviation.detach()[rows], requires_grad=False)
    return part
