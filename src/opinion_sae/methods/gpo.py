r"""Group preference optimisation: a small transformer that predicts a group's answers in context (Zhao et al. 2024).

    (x_1, y_1), ..., (x_m, y_m), (x_m+1, 0), ...  ->  l_m+1, ...      p_g(q, .) = softmax over q's options of l

A point is an option of a question: x is the stream at its last token, y the group's share of it. Points with y given
see each other; those asked for see the former and themselves. Trained over groups, with questions drawn anew at each
step as given and asked for, by KL(h_g || p_g). Of the published method this keeps the network's form and its mask.
Departures: the loss is KL (there the likelihood of y under a normal distribution); x is the stream at the option's end,
cut to its first principal components (there an embedding of question and option); as many questions are always given;
the network is smaller and trained for fewer steps. There groups are held out, here questions, so every group is trained
on, and its training questions are given at the end. Training stops by KL from toplines. Nothing is steered.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opinion_sae.delta.fit import BestEpoch
from opinion_sae.delta.held_out import Split, assemble
from opinion_sae.losses import mean_kl
from opinion_sae.methods.contract import Bench, Outcome, toplines_cost
from opinion_sae.progress import progress
from opinion_sae.sae.train import check_finite

FEATURES, WIDTH, HEADS, LAYERS = 48, 64, 4, 2
GIVEN, WANTED = 40, 24  # questions at a step
STEPS, EVERY, LR = 400, 40, 2e-3
DRAWS = 6  # sets of given questions that the answers are averaged over


class InContext(nn.Module):
    """A transformer over points without order."""

    def __init__(self, features: int, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.into = nn.Linear(features + 2, WIDTH)
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
            self.out = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.out.weight)  # equal shares at the start

    def forward(
        self, x: Float[Tensor, "point f"], y: Float[Tensor, "group point"], given: Bool[Tensor, "group point"]
    ) -> Float[Tensor, "group point"]:
        """l of every point; y counts where it is `given`. No point sees another that is not."""
        known = torch.stack([y * given, given.float()], dim=-1)
        h = self.into(torch.cat([x.expand(len(y), -1, -1), known], dim=-1))
        blind = ~given[:, None] & ~torch.eye(len(x), dtype=torch.bool)
        return self.out(self.layers(h, mask=blind.repeat_interleave(HEADS, 0)))[..., 0]


class Points:
    """The options of all questions as points, and the groups' shares."""

    def __init__(self, bench: Bench, split: Split):
        answers, survey = bench.answers, bench.survey
        self.survey = survey
        ends = answers.kept.tokens("options")
        first = ends.item % answers.orders == 0  # in the order asked
        stream, self.question = ends.stream[first].float(), ends.item[first] // answers.orders
        self.option = torch.cat([torch.arange(len(question.options)) for question in survey.questions])
        seen = stream[torch.isin(self.question, torch.from_numpy(split.train))]
        centred = stream - seen.mean(0)
        along = torch.linalg.svd(seen - seen.mean(0), full_matrices=False).Vh[:FEATURES]
        x = centred @ along.T
        self.x = x / x[torch.isin(self.question, torch.from_numpy(split.train))].std(0).clamp_min(1e-6)
        self.shares = torch.from_numpy(survey.shares).float()
        y = self.shares[:, self.question, self.option]
        self.answered, self.y = ~y.isnan(), y.nan_to_num()

    def log_probs(self, net: InContext, given: np.ndarray, wanted: np.ndarray) -> Float[Tensor, "group wanted option"]:
        """The wanted questions' answers, those of the others given."""
        own, asked = (torch.from_numpy(np.sort(questions)) for questions in (given, wanted))
        some = torch.isin(self.question, torch.cat([own, asked])).nonzero()[:, 0]
        known = torch.isin(self.question[some], own) & self.answered[:, some]
        logits = net(self.x[some], self.y[:, some], known)
        table = logits.new_full((len(self.y), len(asked), self.shares.shape[-1]), -torch.inf)
        there = torch.isin(self.question[some], asked)
        row = torch.searchsorted(asked, self.question[some][there])
        table[:, row, self.option[some][there]] = logits[:, there]
        return table.log_softmax(-1)


def gpo(bench: Bench) -> Outcome:
    """A network per split."""
    parts, size = [], 0
    for split in progress(bench.splits, "in context"):
        points = Points(bench, split)
        net = trained(points, split, bench.settings.seed)
        parts.append(answered(points, net, split.train, split.test, bench.settings.seed))
        size = sum(part.numel() for part in net.parameters())
    return Outcome(assemble(parts, bench.splits, len(bench.survey.questions)), parameters=size)


def trained(points: Points, split: Split, seed: int, steps: int = STEPS) -> InContext:
    """By Adam; of the states after each `EVERY` steps the one with the lowest KL from toplines on validation."""
    net, rng = InContext(points.x.shape[1], seed), np.random.default_rng(seed)
    optimiser, best = torch.optim.Adam(net.parameters(), lr=LR), BestEpoch(list(net.parameters()), steps)
    judged = split.validation if len(split.validation) else split.train
    some = points.survey.select(questions=np.sort(judged).tolist())
    wanted = max(1, min(WANTED, len(split.train) // 2))
    for step in range(steps + 1):
        if step % EVERY == 0:
            best.stop(toplines_cost(some, answered(points, net, split.train, judged, seed, 1)))
        drawn = rng.permutation(split.train)[: wanted + GIVEN]
        loss = mean_kl(points.shares[:, np.sort(drawn[:wanted])], points.log_probs(net, drawn[wanted:], drawn[:wanted]))
        check_finite(loss, f"training in context, {split.name}, step {step}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    best.restore()
    return net


@torch.no_grad()
def answered(
    points: Points, net: InContext, given: np.ndarray, wanted: np.ndarray, seed: int, draws: int = DRAWS
) -> Float[np.ndarray, "group wanted option"]:
    """Mean over `draws` sets of given questions, as log p, the wanted ones in the order of the survey."""
    rng, total = np.random.default_rng(seed + 1), []
    for _ in range(draws):
        chosen = rng.permutation(given)[:GIVEN]
        parts = [points.log_probs(net, chosen, some) for some in np.array_split(np.sort(wanted), 1 + len(wanted) // 64)]
        total.append(torch.cat(parts, dim=1))
    return (torch.stack(total).logsumexp(0) - np.log(draws)).numpy()
