"""A profile: the parameters of one run of the book, from a flat YAML file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml

from opinion_sae.artifacts import read_text
from opinion_sae.book.paths import PUBLISHED, ROOT, Run, home, run_at
from opinion_sae.delta.settings import FitSettings, JointSettings
from opinion_sae.model.sources import BUILT_IN, parse_sources

REQUIRED = ("model", "hook_layer", "survey", "sae", "seed", "output")  # in every profile
MAY_BE_ZERO = {
    "sparsity",
    "hook_layer",
    "seed",
    "max_questions",
    "l1",
    "bootstrap",
    "select_layers",
    "tilts",
    "strengths",
}
MAY_BE_EMPTY = {"crossed"}
CHOICES = {"dtype": ("auto", "float32", "bfloat16")}
MOST_LISTS = 200
MOST_SHARDS = 1000
LARGEST = 2**32 - 1  # of a number; no seed may be larger


@dataclass(frozen=True)
class Profile:
    """One run; made and checked by `load_profile`."""

    model: str  # packaged:smollm2-135m-instruct, a folder, a .gguf file or a hub id
    hook_layer: int  # the residual stream is read and changed after this layer
    survey: str | list[str]  # gss, nonvoters-2020, opinionqa:<folder>, a folder; a list joins
    sae: str  # train, a folder, or <SAELens release>/<id>
    seed: int
    output: str  # results folder; its last part names the run
    dtype: str  # of the language model: auto, float32 or bfloat16
    option_orders: int  # orders of the options, averaged per question
    max_questions: int  # an evenly spread subset; 0 = all
    attributes: list[str]  # sex, age, race, education, income, party, ideology
    min_respondents: int  # cells with fewer answers are dropped
    texts: str | list[str]  # addresses, prompts, self, a folder of .txt, hf:<dataset>; a list gives each a share
    text_tokens: int
    shards: int  # jobs that extract activations
    sae_width: int  # latents
    sae_k: int  # active latents per token
    sae_steps: int
    sae_batch: int  # tokens
    sae_lr: float
    folds: int  # question folds of the cross-validation
    epochs: int  # at most, over the training questions
    batch_questions: int
    delta_lr: float  # share of the residual's spread that one step may move
    shared_lr: float  # the same for the shared part, which is fitted first
    l1: float  # weight of |D|_1
    patience: int  # epochs without a better validation KL before stopping
    kl_weight: float  # beta of joint training
    sparsity: float  # lambda of joint training
    joint_lr: float  # of the SAE in joint training
    scratch_steps: int  # token batches per question batch for an SAE trained from scratch
    l1_grid: list[float]  # weights of |D|_1 to choose from on validation, beside l1
    select_layers: list[int]  # of `make select`: hook layers to choose from
    select_steps: int  # of `make select`: training steps of each layer's SAE
    kl_weights: list[float]  # of `make select`: beta to choose from
    budgets: list[int]  # latents per group on the path from many to few
    tilts: list[float]  # t of the tilted loss over groups; 0 = plain mean
    refit_lr: float  # as delta_lr, where a fit goes on from another: joint training, budgets
    refit_epochs: int  # for each budget, from the fitted offset, and for each kind of offset
    crossed: list[str]  # intersections of attributes, such as party x sex; may be empty
    strengths: list[float]  # doses of the offset; 0 and 1 among them
    open_question: str  # answered in words
    bootstrap: int  # replicates
    top_latents: int  # listed for each axis

    @property
    def run(self) -> Run:
        """The folders of this run."""
        return run_at(self.output)

    @property
    def sae_sizes(self) -> dict[str, int | float]:
        """How this profile trains its SAE, by the names that `train_sae` has for it."""
        size: dict[str, int | float] = {"width": self.sae_width, "k": self.sae_k, "steps": self.sae_steps}
        return size | {"batch": self.sae_batch, "lr": self.sae_lr}

    def fit_settings(self, **changes: int | float) -> FitSettings:
        """How offsets are fitted to this profile's survey, but for `changes`."""
        usual = {"epochs": self.epochs, "batch": self.batch_questions, "lr": self.delta_lr, "shared_lr": self.shared_lr}
        usual |= {"l1": self.l1, "patience": self.patience, "seed": self.seed}
        return FitSettings(**(usual | changes))

    def joint_settings(self, **changes: int | float) -> JointSettings:
        """Those of joint training, whose fit goes on from another and takes all its epochs."""
        joint = {"lr": self.refit_lr, "patience": self.epochs, "kl_weight": self.kl_weight, "sparsity": self.sparsity}
        return JointSettings(**(asdict(self.fit_settings()) | joint | {"sae_lr": self.joint_lr} | changes))


KEYS = tuple(Profile.__dataclass_fields__)


def model_name(model: str) -> str:
    """The name without where it came from: 'packaged:a' -> 'a', 'models/b.gguf' -> 'b'."""
    return model.split(":")[-1].split("/")[-1].removesuffix(".gguf")


def find_profile(name: str) -> Path:
    """`profiles/<name>.yaml`, or the path itself if it ends in .yaml or .yml.

    Raises FileNotFoundError that lists the profiles there are, or says that the repository is not there.
    """
    if not (ROOT / "profiles").is_dir():
        raise FileNotFoundError(
            "opinion-sae was installed without its repository, which holds the profiles and the notebooks: get it, and "
            "`make book` there. `opinion-sae predict` and `opinion-sae survey` work anywhere"
        )
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "profiles").glob("*.yaml")))
        raise FileNotFoundError(f"no profile {path}; there are {known}, or a path ending in .yaml")
    return path.resolve()


def load_profile(name: str) -> Profile:
    """Read a profile by name or path; keys other than `REQUIRED` default to profiles/default.yaml.

    Raises FileNotFoundError, or ValueError that names the file and the key.
    """
    path = find_profile(name)
    values = read_values(path, needed=REQUIRED)
    values = read_values(ROOT / "profiles" / "default.yaml") | values
    for field in fields(Profile):
        if field.name not in values:
            raise ValueError(f"profiles/default.yaml: {field.name} is missing; it must give every key")
        try:
            check_value(field.name, values[field.name], field.type)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if field.type is float:
            values[field.name] = float(values[field.name])
    profile = Profile(**values)
    try:
        _check_together(profile)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _check_output(path, profile)
    return profile


def parameters(profile: Profile, names: list[str]) -> dict[str, Any]:
    """The profile's values for the parameters that a notebook declares.

    Raises ValueError for a name that is not a profile key.
    """
    values = asdict(profile)
    for name in names:
        if name not in values:
            raise ValueError(_unknown("parameter", name))
    return {name: values[name] for name in names}


def read_values(path: Path, known: Sequence[str] = KEYS, needed: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of one file: a flat mapping of `known` keys, none twice, those `needed` among them."""
    try:
        text = read_text(path)
        if text.count("[") + text.count("{") > MOST_LISTS:  # the parser takes minutes for thousands within each other
            raise RecursionError("lists within lists")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ValueError(f"{path}: not a list of `key: value` lines, as it should be")
    names = [str(key.value) for key, _ in node.value]
    for name in names:
        if name not in known:
            raise ValueError(f"{path}: {_unknown('key', name, known)}")
        if names.count(name) > 1:
            raise ValueError(f"{path}: {name} is given {names.count(name)} times")
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"{path}: required keys are missing: {', '.join(missing)}")
    return values


def _unknown(kind: str, name: str, known: Sequence[str] = KEYS) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown {kind} {name}; {hint}"


def check_value(name: str, value: Any, kind: Any) -> None:
    """Type, range and choice of one value. Raises ValueError that names it."""
    if not _fits(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
        number = _number(value, kind)
        hint = "" if number is None else f"; YAML reads it as text, write {number!r}"
        raise ValueError(f"{name} must be {wanted}, not {type(value).__name__} {value!r}{hint}")
    if isinstance(value, str | list) and not value and name not in MAY_BE_EMPTY:
        raise ValueError(f"{name} must not be empty")
    for item in value if isinstance(value, list) else [value]:
        _check_range(name, item)
    if isinstance(value, list) and name != "texts" and len(set(value)) < len(value):  # whose parser says more
        raise ValueError(f"{name} must not hold the same twice: {value!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}")
    if name == "texts":
        for source in parse_sources(value):
            if not (source in BUILT_IN or source.startswith("hf:") or (ROOT / Path(source).expanduser()).is_dir()):
                raise ValueError(f"texts: {source!r} is none of {', '.join(BUILT_IN)}, hf:<dataset> and no folder")


def _check_range(name: str, value: Any) -> None:
    """One value, or one of a list."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"{name} must not be empty")
        if "\0" in value or not value.isascii() and value != value.encode(errors="replace").decode():
            raise ValueError(f"{name} must be plain text, not {value!r}")
        return
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    if value == 0 and name not in MAY_BE_ZERO:
        raise ValueError(f"{name} must be more than 0")
    if value == float("inf"):
        raise ValueError(f"{name} must be finite")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST}, not {value!r}")


def _check_together(profile: Profile) -> None:
    """What one value says of another, or of all in a list."""
    if profile.folds < 3:
        raise ValueError(f"folds must be 3 or more, for training, validation and test, not {profile.folds}")
    if 0 < profile.max_questions < profile.folds:
        raise ValueError(
            f"max_questions must be 0 (all) or at least folds, {profile.folds}, not {profile.max_questions}"
        )
    if profile.shards > MOST_SHARDS:
        raise ValueError(f"shards must be at most {MOST_SHARDS}, not {profile.shards}")
    if profile.sae_k > profile.sae_width:
        raise ValueError(f"sae_k must be at most sae_width, {profile.sae_width}, not {profile.sae_k}")
    if not {0, 1} <= set(profile.strengths):
        raise ValueError(f"strengths must hold 0 and 1, not only {profile.strengths!r}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a YAML value has a field's type; a whole number passes for a float, never a bool."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _number(value: Any, kind: Any) -> int | float | None:
    """The number meant by a text such as 1e-3, which YAML takes for a number only as 1.0e-3."""
    try:
        return kind(value) if isinstance(value, str) and kind in (int, float) else None
    except ValueError:
        return None


def _check_output(path: Path, profile: Profile) -> None:
    """Only a published profile may write to committed files, and no two things share a folder."""
    try:
        run = run_at(profile.output)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    results = run.results.resolve()
    inside = results.is_relative_to(ROOT)
    if inside and results.parent not in (ROOT / "results", home() / "results"):
        raise ValueError(f"{path}: output must be results/<name> or a folder outside the repository")
    for name in {run.name, results.name if inside else run.name} & set(PUBLISHED):
        if path != ROOT / "profiles" / f"{name}.yaml":
            raise ValueError(f"{path}: output {profile.output} is where profiles/{name}.yaml publishes; name another")
