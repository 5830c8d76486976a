"""Offsets that read the question: what they read, where they write, and where each group stands."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from opinion_sae.artifacts import replacing
from opinion_sae.delta.offsets import Offset, check_sae, fill, read_offsets
from opinion_sae.model.reading import PLACES, inverse_frequency, weighted_bag
from opinion_sae.products import linear
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.threads import one_thread

FORMAT = "opinion-sae-delta"
FEW = (1, 4, 16)  # latents read by an axis, to see what is lost with fewer
BETWEEN = " & "  # what an intersection's name has between those of its groups


class RectifiedReading(torch.autograd.Function):
    """decode(max(z + Delta, 0)) - decode(z) with Delta_ig = constant_g + sum_k c_gk written_ik, for sparse z.

    Backward: exact where the rectifier is open, and where z + Delta is exactly 0, so that a silent latent that nothing
    writes to can be recruited in either direction. Where it is shut the constant part alone gets a gradient, summed
    over the items, and only if it would open the latent (as in `RectifiedShift`): what is read moves a latent up for
    some items and down for others, and a silent one takes no notice of the latter.
    """

    @staticmethod
    def forward(
        ctx: object,
        constant: Float[Tensor, "group m"],
        c: Float[Tensor, "group axis"],
        written: Float[Tensor, "item axis m"],
        values: Float[Tensor, "item active"],
        indices: Int[Tensor, "item active"],
        W_dec: Float[Tensor, "m d"],
    ) -> Float[Tensor, "item group d"]:
        z = torch.zeros(len(written), 1, len(W_dec), device=W_dec.device)
        z.scatter_add_(2, indices[:, None], values[:, None])  # places that hold nothing add nothing
        moved = (c @ written).add_(constant).add_(z)
        ctx.save_for_backward(c, written, moved, W_dec)
        return linear(moved.relu() - z, W_dec.T)

    @staticmethod
    def backward(ctx: object, grad: Float[Tensor, "item group d"]) -> tuple[Tensor | None, ...]:
        c, written, moved, W_dec = ctx.saved_tensors
        at_latents = linear(grad, W_dec)
        exact = at_latents * (moved >= 0)
        shut = (at_latents - exact).sum(0).clamp_max_(0.0)
        grad_c = torch.einsum("igm,ikm->gk", exact, written)
        return exact.sum(0) + shut, grad_c, c.T @ exact, None, None, None


def memberships(groups: Sequence[str], parts: Sequence[str]) -> Float[Tensor, "group part"]:
    """Which of the `parts` a group is made of: 'Democrat & Female' of Democrat and of Female.

    Raises KeyError for a group with a part that has no code.
    """
    parts, table = list(parts), torch.zeros(len(groups), len(parts))
    for row, group in zip(table, groups, strict=True):
        names = group.split(BETWEEN)
        missing = sorted(set(names) - set(parts))
        if missing:
            raise KeyError(f"no offset for {missing}, which {group!r} needs; there are {parts}")
        row[[parts.index(name) for name in names]] = 1
    return table


class ReadingOffset(Offset):
    """v_g(r) = shared + D_g + sum_k c_gk sum_w (a_kw . r) b_kw, in whatever space it is written.

    a: (axis, direction, features) is read, without unit; b: (axis, direction, written) is written, in the units of what
    it is written to, as `shared` and D are; c: (part, axis) is where groups stand, without unit. An axis writes several
    directions, each by what it reads for it: along the scale, say, and towards its ends. D and c are sums over the
    groups that a group is made of (its parts): the code of 'Democrat & Female' is that of Democrat plus that of Female,
    whether or not they were fitted together.

    `reads` names the place that is read: 'last', 'question' or 'options' (`model.reading`).
    """

    def __init__(
        self,
        groups: Sequence[str],
        features: int,
        written: int,
        axes: int = 2,
        directions: int = 1,
        reads: str = "question",
    ):
        if reads not in PLACES:
            raise ValueError(f"an offset may read {', '.join(PLACES)}, not {reads!r}")
        parts = tuple(dict.fromkeys(name for group in groups for name in group.split(BETWEEN)))
        super().__init__(parts, written)  # a deviation per part
        self.groups, self.parts, self.reads = tuple(groups), parts, reads
        self.a = nn.Parameter(torch.zeros(axes, directions, features))
        self.b = nn.Parameter(torch.zeros(axes, directions, written))
        self.c = nn.Parameter(torch.zeros(len(self.parts), axes))
        self.register_buffer("members", memberships(self.groups, self.parts), persistent=False)

    def weigh(self, read: Float[Tensor, "item features"]) -> Float[Tensor, "item features"]:
        """r from what the prompts hold to read."""
        raise NotImplementedError

    def learn_weights(self, read: Float[Tensor, "item features"]) -> None:
        """Set what `weigh` needs from what the training prompts hold."""
        raise NotImplementedError

    def scores(self, read: Float[Tensor, "item features"]) -> Float[Tensor, "item axis direction"]:
        """a_kw . r of each item."""
        with one_thread():  # a product of so few rows is MKL's one that hangs on their number
            return (self.weigh(read) @ self.a.flatten(0, 1).T).unflatten(1, self.a.shape[:2])

    def offsets(self) -> Float[Tensor, "group written"]:
        """The part that is the same for every question: shared + D_g."""
        return self.shared + self.members @ self.deviation

    def codes(self) -> Float[Tensor, "group axis"]:
        """c_g, summed over each group's parts."""
        return self.members @ self.c

    def strongest(self, count: int) -> Bool[Tensor, "axis features"]:
        """Of each axis the `count` features that have the largest weights."""
        size = self.a.detach().norm(dim=1)
        most = size.topk(min(count, size.shape[1])).indices
        return torch.zeros_like(size, dtype=torch.bool).scatter(1, most, True)

    def written(self, read: Float[Tensor, "item features"]) -> Float[Tensor, "item axis written"]:
        """sum_w (a_kw . r) b_kw of each item."""
        return torch.einsum("ikw,kwm->ikm", self.scores(read), self.b)

    def copy(self) -> ReadingOffset:
        """The same with parameters of its own, for the same SAE."""
        part = copy.copy(self)
        part._parameters = {name: nn.Parameter(old.detach().clone()) for name, old in self._parameters.items()}
        part._buffers = {name: old.clone() for name, old in self._buffers.items()}
        return part

    def for_groups(self, groups: Sequence[str]) -> ReadingOffset:
        """The offsets of these groups, in the order given; also of intersections that were never fitted."""
        part = self.copy()
        part.groups, part.members = tuple(groups), memberships(groups, self.parts).to(self.members)
        return part

    def dosed(self, shared: float, group: float) -> ReadingOffset:
        """shared * the shared part + group * the group's own, D and c."""
        part = self.copy()
        with torch.no_grad():
            part.shared.mul_(shared)
            part.deviation.mul_(group)
            part.c.mul_(group)
        return part

    def flip(self, keep_shared: bool = False) -> ReadingOffset:
        """-Delta_g; with `keep_shared`, Delta_shared less the group's own."""
        return self.dosed(1.0 if keep_shared else -1.0, -1.0)

    def composed(self, members: Sequence[Sequence[str]]) -> ReadingOffset:
        """Offsets for intersections of groups."""
        return self.for_groups([BETWEEN.join(names) for names in members])

    def shared_for(self, groups: Sequence[str]) -> ReadingOffset:
        """The shared part alone, for any groups."""
        part = self.copy()
        part.groups, part.members = tuple(groups), self.members.new_zeros(len(groups), len(self.parts))
        return part

    def shared_only(self) -> ReadingOffset:
        """The shared part as one group that stands for all: a view, through which it can be trained."""
        part = self.shared_for(("everyone",))
        part._parameters = {**part._parameters, "shared": self.shared}
        return part

    def save(self, path: str | Path, **about: str) -> None:
        """Write a safetensors file; `about` (model, hook_layer ...) and the SAE's hash go to its JSON header."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        own = {"format": FORMAT, "kind": type(self).__name__, "reads": self.reads}
        own |= {"groups": json.dumps(self.groups), "parts": json.dumps(self.parts)}
        own |= {} if self.sae is None else {"sae": self.sae.sha256()}
        with replacing(Path(path)) as side:
            save_file(tensors, side, metadata={**own, **self.about, **about})

    @classmethod
    def load(cls, path: str | Path, sae: SparseAutoencoder | None = None) -> ReadingOffset:
        """Read a file written by `save`; what else its header says goes to `about`.

        Raises ValueError for a file of another kind, one that names another SAE, and tensors that are missing, not
        finite, or of another shape.
        """
        about, tensors = read_offsets(path)
        kind, groups, reads = about.pop("kind", None), about.pop("groups"), about.pop("reads", None)
        if kind != cls.__name__:
            raise ValueError(f"{path}: not a {cls.__name__}; its header has kind {kind!r}")
        if reads not in PLACES:
            raise ValueError(f"{path}: its header has reads {reads!r}, which is not one of {', '.join(PLACES)}")
        parts, shape = about.pop("parts", ()), tensors["a"].shape if "a" in tensors else ()
        lost = sorted({part for group in groups for part in group.split(BETWEEN)} - set(parts))
        if lost:
            raise ValueError(f"{path}: its header's parts {list(parts)} lack {lost}, which its groups are made of")
        if len(shape) != 3:
            raise ValueError(f"{path}: a has shape {tuple(shape)}, expected (axis, direction, features)")
        if sae is not None:
            check_sae(path, about.pop("sae", None), sae)
        sizes = {"axes": shape[0], "directions": shape[1], "reads": reads}
        offset = cls(parts, shape[2] if sae is None else sae, **sizes)
        fill(path, offset, tensors)
        offset.about = about
        return offset.for_groups(groups)


class ReadingDelta(ReadingOffset):
    """Delta_g(r) = Delta_shared + D_g + sum_k c_gk sum_w (a_kw . r) b_kw,   z_g = max(z + Delta_g(r), 0).

    Latents are read and latents are written: m features, and m entries in the units of the latents. r is the bag of
    latents over the place that is read, r_j = log(1 + tokens on which latent j fires) x idf_j, |r| = 1, with
    idf_j = log(questions / questions in which it fires) over the training questions, kept with the offset.

    With no axes it is `GroupDelta`, and Delta = 0 leaves the model exactly as it was. The SAE's error is kept.
    """

    sae: SparseAutoencoder

    def __init__(self, groups: Sequence[str], sae: SparseAutoencoder, **shape: int | str):
        super().__init__(groups, sae.width, sae.width, **shape)
        self.register_buffer("idf", torch.ones(sae.width))
        object.__setattr__(self, "sae", sae)  # past nn.Module, which would make it a part of this one

    def __deepcopy__(self, memo: dict) -> ReadingOffset:
        return self.copy()

    def weigh(self, read: Float[Tensor, "item m"]) -> Float[Tensor, "item m"]:
        return weighted_bag(read, self.idf)

    def learn_weights(self, read: Float[Tensor, "item m"]) -> None:
        self.idf.copy_(inverse_frequency(read))

    def steer(
        self, x: Float[Tensor, "item d"], read: Float[Tensor, "item m"] | None = None
    ) -> Float[Tensor, "item group d"]:
        """x_g of every group. ValueError where there is nothing to read."""
        _check_read(read)
        code, W_dec = self.sae.encode_sparse(x), self.sae.W_dec.to(x.device)
        shift = RectifiedReading.apply(self.offsets(), self.codes(), self.written(read), *code, W_dec)
        return x[:, None] + shift


class DenseReading(ReadingOffset):
    """x_g = x + v_shared + v_g + sum_k c_gk sum_w (a_kw . r) b_kw: the control that reads and writes the stream itself.

    r is the stream averaged over the place that is read, each entry standardised over the training questions and
    |r| = 1 on their average. A change of rank K that depends on the stream, as in ReFT (Wu et al. 2024), with the same
    axes, codes and fit as `ReadingDelta`.
    """

    def __init__(self, groups: Sequence[str], width: int, **shape: int | str):
        super().__init__(groups, width, width, **shape)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def weigh(self, read: Float[Tensor, "item d"]) -> Float[Tensor, "item d"]:
        side = torch.where(read @ self.mean < 0, -1.0, 1.0)[:, None]  # reversed options: what is read has changed sign
        return side * (side * read - self.mean) * self.scale

    def learn_weights(self, read: Float[Tensor, "item d"]) -> None:
        read = torch.where(read @ read[0] < 0, -1.0, 1.0)[:, None] * read
        self.mean.copy_(read.mean(0))
        self.scale.copy_(1 / read.std(0).clamp_min(1e-12) / read.shape[1] ** 0.5)

    def steer(
        self, x: Float[Tensor, "item d"], read: Float[Tensor, "item d"] | None = None
    ) -> Float[Tensor, "item group d"]:
        """x_g of every group. ValueError where there is nothing to read."""
        _check_read(read)
        return x[:, None] + self.offsets() + self.codes() @ self.written(read)


def _check_read(read: Tensor | None) -> None:
    if read is None:
        raise ValueError("an offset that reads the question needs what the prompts hold to read; give it as `read`")
