"""A run empties what it made, and nothing else, whatever its output is called."""

import shutil

import pytest
import yaml

from opinion_sae.book import build, paths
from opinion_sae.book.paths import MARKER, ROOT, Run, claim, clean, open_run, remove_made, run_at
from opinion_sae.book.profile import load_profile


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository with a little prose, where a wrong path does no harm."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "PROSE", tmp_path / "book")
    (tmp_path / "book" / "_static").mkdir(parents=True)
    (tmp_path / "book" / "intro.md").write_text("prose")
    (tmp_path / "book" / "_toc.yml").write_text("parts: []")
    return tmp_path


BAD = ("results/..", "..", "/", "/tmp/..", ".", "results/.", "results/", "", "results/.git", "a\0b", "results/a\nb")
BAD += (
    "results/" + "n" * 256,
    "results/" + "é" * 128,
    "n" * 256 + "/mine",
    "results/html",
    "results/{a}",
    "/x/published",
)


@pytest.mark.parametrize("output", BAD)
def test_an_output_that_names_no_folder_of_its_own_is_refused_by_name(place, output):
    with pytest.raises(ValueError, match="output"):
        open_run(output)
    assert sorted(path.name for path in place.rglob("*")) == ["_static", "_toc.yml", "book", "intro.md"]


@pytest.mark.parametrize(
    "output", ["results/..", "results/../book", "book", "/", "results/\0", "results/x/..", "results"]
)
def test_a_profile_with_such_an_output_is_refused_naming_its_file(tmp_path, output):
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values | {"output": output}))
    with pytest.raises(ValueError, match="mine.yaml: .*output"):
        load_profile(str(path))


def test_a_link_to_published_results_is_not_a_way_around(tmp_path):
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    (tmp_path / "mine").symlink_to(ROOT / "results" / "default")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values | {"output": str(tmp_path / "mine")}))
    with pytest.raises(ValueError, match="where profiles/default.yaml publishes"):
        load_profile(str(path))


@pytest.mark.parametrize("output", ["results/" + "n" * 255, "results/it's é [x] & co", "../elsewhere/mine"])
def test_other_names_are_taken(place, output):
    assert open_run(output).results.is_dir() and run_at(output).build.parent == place / "_build"
    shutil.rmtree(place.parent / "elsewhere", ignore_errors=True)


def test_a_folder_that_no_run_made_is_never_emptied(place):
    kept = place / "_build" / "mine" / "book" / "chapters"
    kept.mkdir(parents=True)
    (kept / "thesis.txt").write_text("years of work")
    run = run_at("results/mine")
    for empty in (lambda: open_run("results/mine"), lambda: build.stage(run), lambda: remove_made(kept)):
        with pytest.raises(ValueError, match="was not made by a run"):
            empty()
    clean()
    assert (kept / "thesis.txt").read_text() == "years of work"


def test_the_html_of_something_else_is_not_replaced(place):
    run = open_run("results/default")
    run.html.mkdir()
    (run.html / "index.html").write_text("my site")
    with pytest.raises(ValueError, match="_build/html was not made by a run"):
        build.build(run)
    assert (run.html / "index.html").read_text() == "my site"


def test_staging_without_a_check_before_it_leaves_the_prose_alone(place):
    """The fault that was: `_build/../book` is the repository's own book."""
    with pytest.raises(ValueError, match="was not made by a run"):
        build.stage(Run("..", place))
    assert (place / "book" / "intro.md").is_file()


def test_two_runs_of_one_name_do_not_share_a_folder(place, tmp_path_factory):
    open_run("results/mine")
    claim(run_at("results/mine"))  # again is fine
    with pytest.raises(ValueError, match="belongs to the run with tables in results/mine"):
        open_run(tmp_path_factory.mktemp("other") / "mine")


def test_clean_takes_what_runs_made_and_leaves_the_rest(place):
    for name in ("mine", "default"):
        open_run(f"results/{name}")
    (place / "results" / "notes").mkdir()
    (place / "results" / "notes" / "a.txt").write_text("mine")
    (place / "_build" / "other").mkdir()
    (place / "_build" / "other" / "a.txt").write_text("mine")
    clean()
    assert sorted(path.name for path in (place / "results").iterdir()) == ["default", "notes"]
    assert [path.name for path in (place / "_build").iterdir()] == ["other"]
    assert not list(place.glob(f"results/default/{MARKER}"))
