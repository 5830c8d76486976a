"""Where to write: what moves the option letters as wished, by least squares through the layers above."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opinion_sae.model.answers import AnswerPath, Steering
from opinion_sae.model.reading import turned
from opinion_sae.threads import one_thread


class Effects:
    """What a small change v of x does to the letters: d log p_o, less its mean over the options, = gradients_io . v.

    Found once for all prompts, by one pass back through the layers above per letter; at x as it is, or as the shared
    part of an offset leaves it (`at`, an offset for one group).
    """

    def __init__(self, answers: AnswerPath, at: Steering | None = None, batch: int = 16):
        items = torch.arange(len(answers.prompts))
        there = answers.has_option[..., None]
        letters = answers.has_option.sum(1)
        found = torch.zeros(*answers.letters.shape, answers.lm.width)
        for part in letters.argsort(stable=True).split(
            batch
        ):  # few letters with few: no copy for one that is not there
            most = int(letters[part[-1]])
            found[part, :most] = _letter_gradients(answers, part, most, at)
        mean = (found * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        self.gradients: Float[Tensor, "item option d"] = (found - mean) * there
        self.question = items // answers.orders
        self.turned = torch.tensor([turned(prompt) for prompt in answers.prompts])

    def normal(
        self, wishes: Float[Tensor, "question direction option"], train: Int[Tensor, "train"], signed: bool = True
    ) -> tuple[Float[Tensor, "d d"], Float[Tensor, "direction d"]]:
        """The normal equations for moving the training questions' letters by `wishes`: means of J'J and of J'wish.

        The wishes, of all questions, are for the options in the order asked. What is read changes sign where they are
        reversed, so there the wishes do too (`signed`); not so for what is the same whatever is read.
        """
        items = torch.isin(self.question, train).nonzero()[:, 0]
        wish = wishes[self.question[items]].to(self.gradients)
        if signed:
            wish = wish * self.turned[items, None, None]
        gradients = self.gradients[items]
        square = torch.einsum("iod,ioe->de", gradients, gradients)
        return square / len(items), torch.einsum("iod,iwo->wd", gradients, wish) / len(items)


def _letter_gradients(
    answers: AnswerPath, items: Int[Tensor, "item"], letters: int, at: Steering | None
) -> Float[Tensor, "item letter d"]:
    """Of the first letters' logits: as many copies of x as letters, each asked for its own."""
    with torch.no_grad():
        x = answers.steered(items, at)[:, :1]
    with torch.enable_grad():
        x = x.repeat(1, letters, 1).requires_grad_()
        own = answers.option_logits(items, x).diagonal(dim1=1, dim2=2).sum()
        return torch.autograd.grad(own, x)[0].cpu()


@one_thread()
def dense_directions(
    square: Float[Tensor, "d d"], cross: Float[Tensor, "direction d"], ridge: float = 0.01
) -> Float[Tensor, "direction d"]:
    """v = (J'J + ridge mean(diag) I)^-1 J'wish: per unit, v moves the letters by about the wish."""
    level = ridge * square.diagonal().mean()
    return torch.linalg.solve(square + level * torch.eye(len(square)), cross.T).T


@one_thread()
def latent_directions(
    square: Float[Tensor, "d d"],
    cross: Float[Tensor, "direction d"],
    W_dec: Float[Tensor, "m d"],
    penalty: float = 0.01,
    steps: int = 300,
) -> Float[Tensor, "direction m"]:
    """The same in latents, sparse: b with b+ W_dec moving the letters by the wish and b- W_dec by its opposite.

    A silent latent can only be pushed up. So for a group that is to be moved one way it is the positive entries of c b
    that act, and for one that is to be moved the other way the negative ones: each side has to do by itself. Both are
    non-negative and minimise the squared distance to the wish plus an L1 term of `penalty` times the strength at which
    all entries would be 0 (FISTA; Beck and Teboulle 2009). A latent wanted by both sides goes to the one that wants it
    more.
    """
    W_dec = W_dec.detach().float().cpu()
    target = torch.cat([cross, -cross]) @ W_dec.T
    level = penalty * target.amax(1, keepdim=True)
    values, vectors = torch.linalg.eigh(square)  # singular where there are fewer letters than d
    pull = W_dec @ (vectors * values.clamp_min(0.0).sqrt())
    step = 1 / torch.linalg.matrix_norm(pull, 2).square()
    b = ahead = torch.zeros_like(target)
    momentum = 1.0
    for _ in range(steps):
        gradient = (ahead @ pull) @ pull.T - target
        moved = (ahead - step * (gradient + level)).clamp_min(0.0)
        faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / faster * (moved - b)
        b, momentum = moved, faster
    up, down = b.chunk(2)
    return torch.where(up >= down, up, -down)
