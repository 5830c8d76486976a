"""A profile is checked key by key before anything runs."""

from dataclasses import asdict, fields

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.book.paths import PUBLISHED, ROOT, open_run, remove_made
from opinion_sae.book.profile import REQUIRED, Profile, load_profile, parameters

NAMES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
DEFAULT = yaml.safe_load((ROOT / "profiles" / "default.yaml").read_text())
FEW = {key: DEFAULT[key] for key in REQUIRED} | {"output": "results/mine"}


def written(folder, values):
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_of_the_repository_loads(name):
    profile = load_profile(name)
    assert profile.run.name == name
    assert profile.output == f"results/{name}"


def test_the_default_profile_gives_every_key_in_order():
    assert list(DEFAULT) == [field.name for field in fields(Profile)]


def test_a_profile_by_path_takes_the_rest_from_the_default(tmp_path):
    profile = load_profile(written(tmp_path, FEW | {"folds": 3}))
    assert asdict(profile) == DEFAULT | FEW | {"folds": 3}
    assert profile.run.html == ROOT / "_build" / "mine" / "html"
    assert load_profile("default").run.html == ROOT / "_build" / "html"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae_widht": 3}, "unknown key sae_widht; did you mean sae_width?"),
        ({"q": 3}, "unknown key q; known keys: model, hook_layer"),
        ({"hook_layer": "15"}, "hook_layer must be int, not str '15'; YAML reads it as text, write 15"),
        ({"sae_lr": "1e-3"}, "sae_lr must be float, not str '1e-3'; .* write 0.001"),
        ({"sae_lr": "fast"}, "sae_lr must be float, not str 'fast'$"),
        ({"seed": True}, "seed must be int, not bool"),
        ({"seed": 1.0}, "seed must be int, not float"),
        ({"seed": None}, "seed must be int, not NoneType"),
        ({"seed": -1}, "seed must not be negative"),
        ({"folds": 0}, "folds must be more than 0"),
        ({"shards": 0}, "shards must be more than 0"),
        ({"shards": 1001}, "shards must be at most 1000, not 1001"),
        ({"l1": float("nan")}, "l1 must not be negative, not nan"),
        ({"l1": float("inf")}, "l1 must be finite"),
        ({"survey": ["gss", 3]}, r"survey must be str \| list\[str\], not list"),
        ({"survey": []}, "survey must not be empty"),
        ({"texts": "adresses"}, "texts: 'adresses' is none of addresses, prompts, self, hf:<dataset> and no folder"),
        ({"texts": ["absent/folder 1"]}, "texts: 'absent/folder' is none of"),
        ({"texts": ["addresses", "self 0.1"]}, "texts: 'addresses' must be a source and its share"),
        ({"texts": ["self 0.5", "self 0.5"]}, "texts: 'self' is given twice"),
        ({"attributes": "sex"}, r"attributes must be list\[str\], not str"),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16"),
        ({"output": "results/default"}, "is where profiles/default.yaml publishes"),
        ({"output": "src/mine"}, "output must be results/<name> or a folder outside"),
        ({"output": "results"}, "output must be results/<name> or a folder outside"),
        ({"output": "results/html"}, "output must not end in html"),
    ],
)
def test_a_bad_value_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"mine.yaml: .*{message}"):
        load_profile(written(tmp_path, FEW | change))


@pytest.mark.parametrize("key", REQUIRED)
def test_a_required_key_is_missed(tmp_path, key):
    with pytest.raises(ValueError, match=f"mine.yaml: required keys are missing: {key}$"):
        load_profile(written(tmp_path, {name: FEW[name] for name in FEW if name != key}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not valid YAML"),
        ("- model", "not a list of `key: value` lines, as it should be"),
        ("", "not a list of `key: value` lines, as it should be"),
        (yaml.safe_dump(FEW) + "seed: 1\n", "seed is given 2 times"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"mine.yaml: {message}"):
        load_profile(written(tmp_path, text))


def test_a_whole_number_passes_for_a_float_and_becomes_one(tmp_path):
    assert type(load_profile(written(tmp_path, FEW | {"l1": 0})).l1) is float


def test_an_absent_profile_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="defualt.yaml; there are .*default.*smoke"):
        load_profile("defualt")


@given(st.sets(st.sampled_from([field.name for field in fields(Profile)])))
def test_a_notebook_gets_just_what_it_declares(names):
    profile = load_profile("smoke")
    assert parameters(profile, sorted(names)) == {name: getattr(profile, name) for name in names}


def test_a_notebook_may_not_declare_what_no_profile_has():
    with pytest.raises(ValueError, match="unknown parameter epoch; did you mean epochs?"):
        parameters(load_profile("smoke"), ["model", "epoch"])


def test_a_run_makes_its_folders_and_only_published_ones_are_committed(tmp_path):
    run = open_run(tmp_path / "try-out")
    try:
        assert run.results.is_dir() and run.work.is_dir() and run.figures.is_dir()
        assert run.build == ROOT / "_build" / "try-out"
    finally:
        remove_made(run.build)
    kept = [
        line[9:].strip("/") for line in (ROOT / ".gitignore").read_text().split("\n") if line.startswith("!/results/")
    ]
    assert tuple(kept) == (*PUBLISHED, "studies")
