"""The page on what a larger run would take: Gemma 2 9B over 26 layers, from figures that were measured on less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opinion_sae.artifacts import read_csv
from opinion_sae.book.markdown import captioned
from opinion_sae.book.paths import ROOT
from opinion_sae.book.recorded import COST, read_costs, read_fields, read_full_size
from opinion_sae.book.terminal import spoken

LATENTS = 16384  # of the SAE
LETTERS = 5  # of the question with the most options
GPU_TFLOPS = 312.0  # an A100's, dense products in bfloat16, by its maker's data sheet
DOUBT = 10  # a GPU that is given passes of one token may reach a tenth of the share of its peak that a CPU does
CLOSE = 1.25  # times that a count may be off and still be said to hold
SHARDS = 8  # jobs side by side that extract activations, for the sentence on them
FIXED = ("unsteered", "shared-delta", "delta", "dense")  # what chapter 04 answers for every question


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration its cost depends on (Gemma 2: tied embeddings, three matrices in an MLP)."""

    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def layer(self) -> int:
        """Weights in the products of one layer."""
        attention = 2 * self.width * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.width * self.mlp

    @property
    def weights(self) -> int:
        return self.layers * self.layer + self.vocabulary * self.width

    @property
    def kept(self) -> int:
        """Bytes of the keys and values of one token in one layer, in bfloat16."""
        return 2 * self.kv_heads * self.head_dim * 2


GEMMA_2_2B = Shape(26, 2304, 9216, 8, 4, 256, 256000)  # that `make full-size` measures
GEMMA_2_9B = Shape(42, 3584, 14336, 16, 8, 256, 256000)
SMOLLM2_135M = Shape(30, 576, 1536, 9, 3, 64, 49152)  # of the default run


@dataclass(frozen=True)
class Job:
    """What is to be run: a model, the hook layers swept, a survey."""

    model: Shape
    layers: range
    questions: int
    groups: int


PLAN = Job(GEMMA_2_9B, range(8, 34), 1498, 60)  # 26 layers, the middle of its 42


@dataclass(frozen=True)
class Measured:
    """Of `make full-size`: how fast each kind of pass was, in GFLOP/s, and what it held in memory beside weights."""

    hook_layer: int
    tokens: float  # in a prompt
    loading: float  # seconds per GB of weights
    prompts: float
    training: float
    answering: float
    rest_gb: float

    @classmethod
    def of(cls, found: dict[str, Any], shape: Shape = GEMMA_2_2B, hook_layer: int = 12, trained: int = 90) -> Measured:
        work, weights = found["work"], found["model"]["weights_gb"]
        seconds = {stage["stage"]: stage["seconds"] for stage in found["stages"]}
        prompts = work["questions"] * work["option_orders"]
        above = shape.layers - hook_layer - 1
        rows = 2 * above * shape.layer * work["option_orders"] * work["groups"] / 1e9  # of a question, forward
        fit = rows * (2 * trained + 2 * (work["questions"] - trained))  # validation before and after
        kept = work["prompt_tokens"] * above * shape.kept / 1e9
        return cls(
            hook_layer=hook_layer,
            tokens=work["prompt_tokens"] / prompts,
            loading=seconds["load"] / weights,
            prompts=2 * shape.layers * shape.layer * work["prompt_tokens"] / 1e9 / seconds["prompts"],
            training=fit / seconds["fit delta, one epoch"],
            answering=rows * work["questions"] / seconds["evaluate"],
            rest_gb=found["peak_gb"] - weights - kept,
        )


@dataclass(frozen=True)
class Step:
    """One step of all layers together."""

    name: str
    count: str  # how its passes are counted, for one layer
    passes: int | float  # of one layer, on average
    tflop: float  # of all layers
    gflops: float  # that such passes reached

    @property
    def cpu_hours(self) -> float:
        return self.tflop * 1000 / self.gflops / 3600


def steps(job: Job, measured: Measured, profile: dict[str, Any], epochs: dict[str, int], methods: int) -> list[Step]:
    """What the constant and reading offsets of each layer take, summed over layers; `epochs` of all folds together.

    A pass is of one token: in the prompts through all layers, in the texts through those up to the hook, else through
    those above it. Back through the same layers costs as much again, since the weights get no gradients.
    """
    model, folds, orders = job.model, profile["folds"], profile["option_orders"]
    above = 2 * model.layer * sum(model.layers - layer - 1 for layer in job.layers) / 1e12
    below = 2 * model.layer * sum(layer + 1 for layer in job.layers) / 1e12
    whole = 2 * model.layer * model.layers * len(job.layers) / 1e12
    items = job.questions * orders
    tokens, texts = items * measured.tokens, profile["text_tokens"]
    train = items * (folds - 2) / folds  # and one fold in `folds` is for validation, forward alone
    trained = train * (epochs["shared"] + epochs["deviation"] * job.groups)
    fits = 2 * trained + trained / (folds - 2)
    effects = 2 * (folds + 1) * items * LETTERS
    answers = (methods + len(FIXED)) * items * job.groups
    given = f"{items:,} prompts"
    return [
        Step("prompts", f"{given} of {measured.tokens:.0f} tokens", tokens, tokens * whole, measured.prompts),
        Step("texts to judge or train an SAE on", f"{texts:,} tokens", texts, texts * below, measured.prompts),
        Step(
            "constant offsets",
            f"{train:,.0f} prompts to train on, {epochs['shared']} epochs of the shared part and {epochs['deviation']} "
            f"of {job.groups} groups, forward and back, and the validation fold forward",
            fits,
            fits * above,
            measured.training,
        ),
        Step(
            "reading offsets",
            f"{given} x {LETTERS} letters x {folds + 1} fits, forward and back",
            effects,
            effects * above,
            measured.training,
        ),
        Step(
            "answers",
            f"{given} x {job.groups} groups x {methods + len(FIXED)} methods",
            answers,
            answers * above,
            measured.answering,
        ),
    ]


def sizes_gb(job: Job, measured: Measured, profile: dict[str, Any]) -> dict[str, float]:
    """Memory and disk in GB, of the layer that takes the most."""
    model, items = job.model, job.questions * profile["option_orders"]
    weights = 2 * model.weights / 1e9
    kept = items * measured.tokens * (model.layers - job.layers[0] - 1) * model.kept / 1e9
    rest = measured.rest_gb * model.width / GEMMA_2_2B.width
    activations = profile["text_tokens"] * model.width * 2 / 1e9
    sae = 2 * LATENTS * model.width * 4 / 1e9
    return {
        "weights": weights,
        "kept": kept,
        "rest": rest,
        "memory": weights + kept + rest,
        "activations": activations,
        "sae": sae,
        "disk": weights + len(job.layers) * (activations + sae),
    }


RUN = {  # of run.json what the page says
    "profile": {"option_orders": int, "text_tokens": int, "folds": int},
    "throughput": {"gflops_float32": float, "gflops_bfloat16": float},
}


def plan_page(root: Path = ROOT) -> str:
    """The page in MyST Markdown; without the measured figures it says which commands make them."""
    full, run = root / "benchmarks" / "full_size.json", root / "results" / "default" / "run.json"
    names = ("delta_history", "reading_choices", "alignment")
    history, choices, scores = (run.parent / f"{name}.csv" for name in names)
    missing = [path for path in (full, run, history, choices, scores) if not path.is_file()]
    if missing:
        needs = f"`make full-size` and `make book` write what it needs: {missing[0].relative_to(root)}."
        return f"# What a larger run would take\n\n{needs}\n"
    found, made = read_fields(run, RUN), read_full_size(full)
    read_costs(run, COST)
    rows = read_csv(history, ["method", "stage", "epoch"], numbers=["epoch"])
    fitted = rows[(rows["epoch"] > 0) & (rows["method"] != "shared-delta")]  # whose fit is the first stage of delta's
    epochs = {stage: int((fitted["stage"] == stage).sum()) for stage in ("shared", "deviation")}
    methods = read_csv(choices, ["method"])["method"].nunique()
    measured = Measured.of(made)
    each = steps(PLAN, measured, found["profile"], epochs, methods)
    lines = _answer(measured, each, found, made)
    scored = read_csv(scores, ["method", "group", "n_questions"]).query("method == 'unsteered'")
    default = Job(SMOLLM2_135M, range(15, 16), int(scored["n_questions"].max()), len(scored) - 1)
    again = steps(default, measured, found["profile"], epochs, 0)
    rates = found["throughput"]["gflops_bfloat16"] / found["throughput"]["gflops_float32"]
    seconds = 3600 * rates * sum(step.cpu_hours for step in again if step.name in ("constant offsets", "answers"))
    lines += ["", *_grounds(measured, found, made, seconds), "", *_sizes(sizes_gb(PLAN, measured, found["profile"]))]
    return "\n".join([*lines, ""])


def _faster(run: dict[str, Any], made: dict[str, Any]) -> float:
    """How many times the machine that was measured does the GPU's peak go into."""
    return 1000 * GPU_TFLOPS / (run["throughput"]["gflops_bfloat16"] * made["machine"]["cores"])


def _answer(measured: Measured, each: list[Step], run: dict[str, Any], made: dict[str, Any]) -> list[str]:
    model, layers, size = PLAN.model, PLAN.layers, sizes_gb(PLAN, measured, run["profile"])
    faster, cores = _faster(run, made), made["machine"]["cores"]
    hours = sum(step.cpu_hours for step in each)
    chapters = len([name for name, cost in run["notebooks"].items() if cost["peak_memory_mb"] > 1000])
    loads = len(layers) * chapters * measured.loading * size["weights"] / 3600
    gpu = hours / faster
    lines = [
        "# What a larger run would take",
        "",
        f"Gemma 2 9B, a sweep over {len(layers)} hook layers ({layers[0]} to {layers[-1]} of {model.layers}), "
        f"{PLAN.questions:,} questions, {PLAN.groups} groups, options asked in {run['profile']['option_orders']} "
        "order, an SAE given for each layer (Gemma Scope): constant offsets, offsets that read, and the latter's "
        "controls.",
        "",
        f"**About {gpu:.1f} GPU hours of products, at most {gpu * DOUBT:.0f}, and {loads:.0f} hours of loading "
        f"weights; {size['memory']:.0f} GB of memory; {size['disk']:.0f} GB of disk.** "
        f"Without a GPU it would be {hours:,.0f} hours on a machine of {cores} cores.",
        "",
    ]
    rows = [
        "| Step | For one layer | Passes of a token | TFLOP, all layers | GFLOP/s, measured | CPU hours | GPU hours |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for step in each:
        numbers = [f"{step.passes:,.0f}", f"{step.tflop:,.0f}", f"{step.gflops:.0f}", f"{step.cpu_hours:,.0f}"]
        rows.append(f"| {step.name} | {step.count} | {' | '.join(numbers)} | {step.cpu_hours / faster:.2f} |")
    texts = next(step for step in each if step.name.startswith("texts"))
    load = measured.loading * size["weights"] / 3600
    said = _sharded(texts, hours / len(layers), load, faster, cores)
    return [*lines, captioned("Work by step", rows), f"Each layer is a job of its own. {said}"]


def wall(texts: float, hours: float, load: float, shards: int) -> float:
    """Hours from the start of a layer to its end, of which `texts` go to extraction: by one job, or by `shards` side by
    side, which wait for the job that makes the texts; both load the weights once more."""
    return hours if shards == 1 else hours - texts + texts / shards + 2 * load


def _sharded(step: Step, hours: float, load: float, faster: float, cores: int) -> str:
    """What shards do to the wall time of a layer of so many CPU hours, on GPUs and without."""
    texts = step.cpu_hours / len(PLAN.layers)
    cpu, gpu = (
        [spoken(3600 * wall(texts / by, hours / by, load, shards)) for shards in (1, SHARDS)] for by in (1, faster)
    )
    even = step.passes * 2 * load / (texts / faster * (1 - 1 / SHARDS))
    return (
        f"The texts are {texts / hours:.0%} of its hours. Extracted by {SHARDS} jobs side by side (`shards: {SHARDS}`) "
        f"they have the weights loaded twice more, {spoken(3600 * 2 * load)}: so a layer takes "
        f"{_saved(gpu[0], gpu[1], 'on GPUs')}, and {_saved(cpu[0], cpu[1], f'on machines of {cores} cores')}, other "
        f"loadings left out. On GPUs shards save time from about {float(f'{even:.1g}'):,.0f} tokens of text on."
    )


def _saved(alone: str, sharded: str, where: str) -> str:
    """'3 minutes rather than 5 minutes on GPUs', or that it is the same."""
    if alone == sharded:
        return f"{alone} {where} either way, where nothing is saved"
    return f"{sharded} rather than {alone} {where}"


def checked(counted: float, took: float) -> str:
    """What the check says of the hours: by how many times the count is off, and which bound they are."""
    ratio = counted / took
    if 1 / CLOSE < ratio < CLOSE:
        return "So the count holds for this run."
    off, bound = (
        (f"{ratio:.1f} times too high", "an upper") if ratio > 1 else (f"{1 / ratio:.1f} times too low", "a lower")
    )
    return f"So the count is {off} for this run, and the hours on this page are {bound} bound."


def _grounds(measured: Measured, run: dict[str, Any], made: dict[str, Any], seconds: float) -> list[str]:
    cpu, cores = run["throughput"]["gflops_bfloat16"], made["machine"]["cores"]
    shares = [100 * rate / (cpu * cores) for rate in (measured.prompts, measured.training, measured.answering)]
    took = {name: cost["seconds"] for name, cost in run["notebooks"].items()}
    whole = sum(took.values()) / sum(took[name] for name in ("03_sae", "04_delta", "17_reading"))
    return [
        "## What is measured, and what is scaled",
        "",
        f"- *Measured*, by `make full-size` (`benchmarks/full_size.json`): seconds and memory of Gemma 2 2B's shape on "
        f"{cores} cores. A pass of a token through a layer is two operations per weight; so prompts ran at "
        f"{measured.prompts:.0f} GFLOP/s, a fit at {measured.training:.0f}, answers at {measured.answering:.0f}. "
        "Epochs and methods are those of the default run (`delta_history.csv`, `reading_choices.csv`).",
        f"- *Scaled* by counting: the weights of a layer ({PLAN.model.layer / 1e6:.0f} million, against "
        f"{GEMMA_2_2B.layer / 1e6:.0f}), layers above the hook, questions, groups. Attention over a prompt's kept keys "
        "is left out on both sides: it is a small part for so few tokens.",
        f"- *Checked*: the same counting puts chapter 04 of the default run, of another model, at {seconds:.0f} "
        f"seconds; it took {took['04_delta']:.0f}, loading and drawing included. "
        f"{checked(seconds, float(took['04_delta']))}",
        f"- *Assumed*: a GPU of {GPU_TFLOPS:.0f} TFLOP/s (an A100 in bfloat16, by its data sheet) that reaches the "
        f"share of its peak that the CPU did: {shares[0]:.0f}%, {shares[1]:.0f}% and {shares[2]:.0f}% of {cores} x "
        f"{cpu:.0f} GFLOP/s (`run.json`), so {_faster(run, made):,.0f} times as fast. No GPU was measured. Passes of "
        f"one token are small work for one, which may reach a tenth of that: hence the upper end, {DOUBT} times the "
        "estimate. Weights are taken to load as fast as they were made here, once for each chapter that needs them.",
        "- *Left out*: joint training, the controls of constant offsets, steering and side effects (a whole book of "
        f"the default run takes {whole:.1f} times its chapters 03, 04 and 17), the read-outs, which stay on the "
        "CPU, and waiting in a queue.",
    ]


def _sizes(size: dict[str, float]) -> list[str]:
    rows = [
        "| What | GB | From |",
        "| :-- | --: | :-- |",
        f"| weights, bfloat16 | {size['weights']:.1f} | {PLAN.model.weights / 1e9:.2f} billion, two bytes each |",
        f"| keys and values of the prompts | {size['kept']:.1f} | {PLAN.model.kept:,} bytes per token and layer above "
        f"hook layer {PLAN.layers[0]}, the lowest |",
        f"| the rest at the peak | {size['rest']:.1f} | measured at 2B, by the width of the stream |",
        f"| **memory, at the peak** | **{size['memory']:.1f}** | the first two on the GPU |",
        f"| activations of a layer, float16 | {size['activations']:.1f} | two bytes per number |",
        f"| SAE of a layer, {LATENTS:,} latents, float32 | {size['sae']:.1f} | as kept in `_build/<run>/work` |",
        f"| **disk, all layers** | **{size['disk']:.0f}** | the weights once |",
    ]
    return ["## Memory and disk", "", captioned("What is held and kept", rows), "Offsets and tables are megabytes."]
