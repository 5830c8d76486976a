"""fit_delta_step, evaluate_groups and add_group: offsets of many groups on a prompt, against whole passes."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from jaxtyping import Float

from benchmarks.cases import Case
from benchmarks.hooked import HookedModel
from benchmarks.timing import Machine, Row, Stage, Way, digits, in_turn, row, seconds
from opinion_sae.delta.fit import proximal_step
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.losses import mean_kl
from opinion_sae.model.answers import AnswerPath

PEER = "transformers, forward hook"
ALL = 10**9  # tokens a batch
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}  # of probabilities, and of gradients relative to their norm


def our_step(
    answers: AnswerPath, delta: GroupDelta, shares: Float[Tensor, "group question option"]
) -> Callable[[], None]:
    """One step of `fit_offset`: loss, gradient, Adam and the proximal step of the L1 term."""
    return training_step(delta, lambda: mean_kl(shares, answers.log_probs(delta)).backward())


def training_step(delta: GroupDelta, gradient: Callable[[], object]) -> Callable[[], None]:
    optimiser = torch.optim.Adam(delta.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        gradient()
        optimiser.step()
        proximal_step(optimiser, delta, 1e-6)

    return step


def check(what: str, off: float, dtype: torch.dtype) -> float:
    """The difference `off`, or AssertionError if it is beyond what rounding in this dtype does."""
    if not off <= TOLERANCE[dtype]:
        raise AssertionError(
            f"{what}: ours and the peer's differ by {off:.2g}, more than {TOLERANCE[dtype]} in {dtype}"
        )
    return digits(off, 2)


def gradient_difference(case: Case, answers: AnswerPath, peer: HookedModel, groups: int) -> float:
    """Norm of the difference between both ways' gradients for the deviations, over the norm of the peer's."""
    shares = case.shares(len(answers.questions), groups).to(case.device)
    ours, theirs = (case.delta(answers, groups) for _ in range(2))
    mean_kl(shares, answers.log_probs(ours)).backward()
    peer.gradient(case.sae, theirs, shares)
    expected = theirs.deviation.grad
    return ((ours.deviation.grad - expected).norm() / expected.norm()).item()


def check_equal(case: Case, questions: int, groups: int) -> dict[str, float]:
    """Largest difference between the two ways in gradients and probabilities on this much of the work."""
    answers = case.answers(questions)
    peer = HookedModel(answers, tokens_per_batch=ALL)
    delta = case.delta(answers, groups)
    ours, theirs = answers.predict(delta).exp(), peer.predict(case.sae, delta).exp()
    return {
        "probabilities": check("probabilities", (ours - theirs).abs().max().item(), case.lm.dtype),
        "gradients": check("gradients", gradient_difference(case, answers, peer, groups), case.lm.dtype),
    }


def fastest(
    answers: AnswerPath, sizes: tuple[int, ...], case: Case, work: Callable[[HookedModel], object]
) -> tuple[HookedModel, dict[str, float]]:
    """The peer with the batch size that does `work` soonest, and the seconds of all, by tokens a batch."""
    times = {}
    for size in sizes:
        peer = HookedModel(answers, size)
        work(peer)
        times[size] = seconds(lambda peer=peer: work(peer), case.device), peer
    best = min(times, key=lambda size: times[size][0])
    names = {size: "all prompts in one batch" if size == ALL else f"{size} tokens a batch" for size in sizes}
    return times[best][1], {names[size]: digits(found) for size, (found, _) in times.items()}


def fit_delta_step(case: Case, machine: Machine, peer_rounds: int) -> tuple[Row, dict]:
    """One training step for all groups at once, against one pass forward and backward per group."""
    answers = case.answers(case.step_questions)
    shares = case.shares(case.step_questions, case.step_groups).to(case.device)
    theirs = case.delta(answers, case.step_groups)
    peer, settings = fastest(answers, (500, 1000, ALL), case, lambda peer: peer.gradient(case.sae, theirs, shares[:1]))
    ours = our_step(answers, case.delta(answers, case.step_groups), shares)
    for _ in range(3):
        ours()
    hooked = training_step(theirs, lambda: peer.gradient(case.sae, theirs, shares))
    ways = {"ours": Way(ours, 5), PEER: Way(hooked, rounds=peer_rounds)}
    times = in_turn(ways, case.rounds, case.device)
    stages = upper_stages(case, answers, case.step_groups, backward=True)
    facts = {"rounds": {name: len(found) for name, found in times.items()}, "peer_settings": settings}
    return row("fit_delta_step", "s", times, PEER, machine.floor(stages), str(case.device)), facts


def evaluate_groups(case: Case, machine: Machine, peer_groups: int, peer_rounds: int) -> tuple[Row, dict]:
    """Option probabilities of all questions under all groups' offsets, from prompts that have been run once.

    The peer keeps nothing and runs every prompt for every group; its time is taken for `peer_groups` of them.
    """
    answers = case.answers()
    delta = case.delta(answers, case.groups)
    peer, settings = fastest(answers, (1000, 2000, 4000), case, lambda peer: peer.predict(case.sae, delta, range(1)))
    answers.predict(delta)
    ways = {
        "ours": Way(lambda: answers.predict(delta)),
        PEER: Way(
            lambda: peer.predict(case.sae, delta, range(peer_groups)),
            share=peer_groups / case.groups,
            rounds=peer_rounds,
        ),
    }
    times = in_turn(ways, case.rounds, case.device)
    prompts = min(seconds(case.answers, case.device) for _ in range(2))
    stages = upper_stages(case, answers, case.groups, backward=False)
    found = row("evaluate_groups", "s", times, PEER, machine.floor(stages), str(case.device))
    facts = {
        "rounds": {name: len(found) for name, found in times.items()},
        "peer_groups_timed": peer_groups,
        "peer_settings": settings,
        "prompts_once": digits(prompts),
        "ratio_with_prompts": digits(found.peer / (found.ours + prompts)),
    }
    return found, facts


def add_group(case: Case, machine: Machine) -> tuple[Row, dict]:
    """Cost of the 31st group over that of the first, which has to run the prompts.

    The cost of one more group is a tenth of the difference between 36 groups and 26, so that it is more than noise.
    """
    answers = case.answers()
    fewer, more = (case.delta(answers, groups) for groups in (case.groups - 4, case.groups + 6))
    one = case.delta(answers, 1)
    for delta in (fewer, more):
        answers.predict(delta)
    ways = {
        "first": Way(lambda: case.answers().predict(one)),
        "fewer": Way(lambda: answers.predict(fewer), 2),
        "more": Way(lambda: answers.predict(more), 2),
    }
    times = {name: statistics.median(found) for name, found in in_turn(ways, case.rounds, case.device).items()}
    next_one = (times["more"] - times["fewer"]) / 10
    limit = machine.floor(upper_stages(case, answers, 1, backward=False, weights=False)) / next_one
    share = digits(next_one / times["first"])
    facts = {"first_group": digits(times["first"]), "next_group": digits(next_one)}
    return Row("add_group", "share of the first", share, None, None, None, digits(limit), str(case.device)), facts


def layer_weights(case: Case, layers: range) -> int:
    """Weights in the matrices of these layers."""
    return sum(p.numel() for index in layers for p in case.lm.layers[index].parameters() if p.ndim == 2)


def upper_stages(case: Case, answers: AnswerPath, groups: int, backward: bool, weights: bool = True) -> list[Stage]:
    """Least work for one answer per prompt and group: the layers above the hook for one token, and the offset.

    The layers' weights and the kept keys and values are read once a pass (not at all for one group more, which the
    other groups' pass carries along). Going backward costs the same again, as the weights get no gradient.
    """
    dtype, size = case.lm.dtype, case.lm.dtype.itemsize
    upper = range(case.hook_layer + 1, len(case.lm.layers))
    count, passes = len(answers.prompts), 2 if backward else 1
    matrices = layer_weights(case, upper)
    kept = sum(part.numel() for part in answers.keys_values.values())
    config = case.lm.model.config
    shared = config.num_attention_heads // next(iter(answers.keys_values.values())).shape[2]
    read = (matrices + kept) * size if weights else 0
    flops = 2 * count * groups * matrices + 2 * groups * kept * shared  # each key and value meets each group's query
    stages = [Stage("layers", passes * flops, passes * read, dtype)]
    offset = 2 * groups * case.sae.width * case.lm.width
    encode = 2 * count * case.sae.width * case.lm.width if weights else 0
    return [*stages, Stage("offset", passes * offset + encode, 4 * case.sae.W_dec.numel() * passes if weights else 0)]
