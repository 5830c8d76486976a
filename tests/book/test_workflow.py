"""What a chapter is run again for, and who may run a book."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from opinion_sae import artifacts
from opinion_sae.book import paths, workflow
from opinion_sae.book.front import make_front
from opinion_sae.book.paths import ROOT, open_run, remove_made, run_at
from opinion_sae.book.workflow import command, go_on, hold, user_files

HOLD = "import sys, time; from opinion_sae.book.workflow import hold; from opinion_sae.book.paths import run_at\n"
HOLD += "held = hold(run_at(sys.argv[1])); print('held', flush=True); time.sleep(60)"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}


def snakemake(*arguments):
    call = [sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", *arguments]
    return subprocess.run(call, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def write_wave(folder, answer="Good"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info.csv").write_text("key,question,references,option_ordinal\n")
    (folder / "metadata.csv").write_text("key,options\n")
    (folder / "responses.csv").write_text(f"ROAD_{folder.name[-3:]},weight\n{answer},1\n")
    return folder


@pytest.mark.parametrize("inside", ["human_resp", "."])
def test_all_waves_of_a_folder_are_the_users_files(tmp_path, monkeypatch, inside):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "opinionqa"
    waves = [write_wave(root / inside / f"American_Trends_Panel_{w}") for w in ("W26", "W92")]
    wanted = sorted((wave / name).resolve() for wave in waves for name in ("info.csv", "metadata.csv", "responses.csv"))
    for survey in (f"opinionqa:{root}", str(root), "~/opinionqa", ["gss", "opinionqa:~/opinionqa"]):
        assert [path.resolve() for path in user_files({"survey": survey})] == wanted


def test_a_selection_depends_on_the_waves_beside_it(tmp_path):
    wave = write_wave(tmp_path / "American_Trends_Panel_W26")
    chosen = tmp_path / "Pew_selection"
    chosen.mkdir()
    (chosen / "info.csv").write_text("key,survey\nROAD_W26,Pew_American_Trends_Panel_W26\n")
    assert {chosen / "info.csv", wave / "responses.csv"} <= set(user_files({"survey": str(chosen)}))


def test_single_files_and_folders_of_other_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("model/config.json", "texts/a.txt", "subpop.jsonl", "counts/SEX_data.json", "counts/info.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    values = {"model": "~/model", "texts": [f"{tmp_path / 'texts'} 0.5", "self 0.5"], "sae": "train", "seed": 3}
    assert user_files(values) == [tmp_path / "model/config.json", tmp_path / "texts/a.txt"]
    assert user_files({"survey": "subpop:~/subpop.jsonl"}) == [tmp_path / "subpop.jsonl"]
    assert user_files({"survey": "~/counts"}) == [tmp_path / "counts/SEX_data.json", tmp_path / "counts/info.csv"]
    assert user_files({"model": "packaged:smollm2-135m-instruct", "survey": "gss", "texts": ["self 1"]}) == []


def test_a_changed_answer_in_one_wave_reruns_the_chapter(tmp_path):
    waves = [write_wave(tmp_path / "human_resp" / f"American_Trends_Panel_{w}") for w in ("W26", "W92")]
    run = run_at(tmp_path / "waves")
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    profile = tmp_path / "it's {mine}; touch X.yaml"
    profile.write_text(yaml.safe_dump(values | {"survey": f"opinionqa:{tmp_path}", "output": str(run.results)}))
    call = command(str(profile), ["01_surveys"], ["--dry-run"])[3:]
    try:
        open_run(run.results)
        made = [run.results / "surveys.csv", run.results / "dropped_cells.csv", run.work / "hash-data.json"]
        for path in [*made, run.chapters / "01_surveys.ipynb", run.figures / "group_distance.svg"]:
            path.write_text("{}")
        before = snakemake(*call)
        assert before.returncode == 0 and "Nothing to be done" in before.stdout + before.stderr
        time.sleep(0.01)
        write_wave(waves[1], "Bad")
        after = snakemake(*call)
        assert "updated input files:\n        01_surveys" in after.stdout + after.stderr
    finally:
        remove_made(run.build)


@pytest.fixture
def place(tmp_path, monkeypatch):
    for module in (paths, workflow):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def holder(name):
    """A process that holds a run of this repository."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, name], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_run_is_named_and_a_killed_one_goes_on(tmp_path):
    run = run_at(tmp_path / f"held-{os.getpid()}")
    process = holder(str(run.results))
    try:
        with pytest.raises(ValueError, match=f"is being made by process {process.pid} .*{process.args[0]}.*; wait"):
            go_on(run)
        process.send_signal(signal.SIGKILL)
        process.wait()
        go_on(run)
        hold(run).close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        remove_made(run.build)


def test_what_killed_runs_left_is_swept(place, capsys):
    run = open_run("results/mine")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    machine = artifacts._machine()
    left = [run.results / f".a.{dead.pid}@{machine}.new.csv", run.work / f".sae.{dead.pid}@{machine}.new"]
    kept = [
        run.work / f".b.{os.getpid()}@{machine}.new.json",
        run.work / f".c.{dead.pid}@abcdef.new",
        run.work / ".d.new",
    ]
    left[1].mkdir()
    for path in (left[0], left[1] / "cfg.json", *kept):
        path.write_text("half")
    locks = place / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("notebooks/01_surveys.ipynb\n")
    other = run_at("results/other")
    with hold(other):
        go_on(run)
        assert len(list(locks.iterdir())) == 1  # it may be the other's
    go_on(run)
    assert "removed the lock of a run that was killed" in capsys.readouterr().out
    assert not list(locks.iterdir()) and not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_the_command_line_keeps_any_name_as_it_is():
    found = command("it's {a}: [b], 3", ["tables"], ["--profile", "profiles/slurm"])
    assert found[-2:] == ["--", "tables"] and "--nolock" in found
    assert yaml.safe_load(found[found.index("--config") + 1].removeprefix("profile=")) == "it's {a}: [b], 3"


@pytest.fixture
def make(tmp_path):
    """`-o`: as if the environment had been made; the stand-in for Python writes what it is called with."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > {tmp_path}/called\n')
    stand_in.chmod(0o755)

    def called(*arguments):
        call = ["make", "-s", "-f", ROOT / "Makefile", "-o", ".venv/.ready", f"PY={stand_in}", *arguments]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "called").read_text().split("|")[:-1]

    return called


@pytest.mark.parametrize(
    "name", ["smoke; touch {}", "smoke $(touch {})", "$(shell touch {})", "`touch {}`", "a'\ntouch {}\n'b"]
)
def test_make_hands_a_profile_over_unread(make, tmp_path, name):
    name = name.format(tmp_path / "harm")
    for target, before in {
        "book": ["book"],
        "tables": ["book", "--tables"],
        "evaluate": ["evaluate"],
        "select": ["select"],
    }.items():
        assert make(target, f"PROFILE={name}") == ["-m", "opinion_sae", *before, "--", name]
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["a; touch {}", "$(touch {})", "$(shell touch {})", "`touch {}`", "a'\ntouch {}\n'b"])
def test_make_hands_every_other_value_over_unread(make, tmp_path, name):
    """NAME and KILLS whole, ITEMS and FLAGS split at spaces."""
    name = name.format(tmp_path / "harm")
    words = ["*", *name.split()]
    cli, many = ["-m", "opinion_sae"], f"* {name}"
    assert make("study", f"NAME={name}", f"ITEMS={many}") == [*cli, "study", name, "--", "default", *words]
    assert make("study", "NAME=", f"ITEMS={many}") == [*cli, "study"]
    assert make("evaluate", f"ITEMS={many}") == [*cli, "evaluate", "--", "default", *words]
    assert make("book", f"FLAGS={many}") == [*cli, "book", "--", "default", *words]
    assert make("tables", f"FLAGS={many}") == [*cli, "book", "--tables", "--", "default", *words]
    assert make("test-faults", f"KILLS={name}") == ["tools/faults.py", "--kills", name]
    assert not (tmp_path / "harm").exists()


@pytest.fixture(scope="module")
def odd(tmp_path_factory, copy_of_repository):
    """A copy of the repository in a folder with spaces, an apostrophe, braces and unicode in its name."""
    root = copy_of_repository(tmp_path_factory.mktemp("copy") / "it's {odd} é & $(touch Y) [x]")
    numbers = json.loads((root / "results/default/numbers.json").read_text())
    (root / "results/default/numbers.json").write_text(json.dumps(dict.fromkeys(used_numbers(), "0") | numbers))
    return root


def used_numbers():
    """The names that the pages put in the place of `{{ name }}`."""
    pages = [path.read_text() for path in (ROOT / "book").glob("*.md")]
    return {name for page in pages for name in re.findall(r"{{ *(\w+) *}}", page)}


def test_every_number_of_the_pages_is_published(tmp_path):
    default = ROOT / "results/default"
    made = set(make_front(default, tmp_path))  # from the tables, when the book is built
    assert used_numbers() <= made | set(json.loads((default / "numbers.json").read_text()))


@pytest.mark.skipif(not (ROOT / "results/smoke/numbers.json").is_file(), reason="no smoke book was built here")
def test_every_number_that_may_be_absent_is_made_where_it_can_be():
    pages = [path.read_text() for path in (ROOT / "book").glob("*.md")]
    names = {name for page in pages for name in re.findall(r"{{ *(\w+) *\|", page)}
    assert names and names <= set(json.loads((ROOT / "results/smoke/numbers.json").read_text()))


def test_a_chapter_is_run_under_awkward_names(odd, opinion_sae):
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    profile = odd / "my {own} it's 'p'; touch Z é.yaml"
    profile.write_text(yaml.safe_dump(values | {"output": "results/odd it's é"}))
    done = opinion_sae(odd, "book", "--", profile, "--until", "01_surveys", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (odd / "results" / "odd it's é" / "surveys.csv").is_file()
    assert not list(odd.glob("[XYZ]"))


@pytest.mark.alone
def test_the_committed_book_is_built_without_running_anything(odd, opinion_sae):
    start = time.perf_counter()
    done = opinion_sae(odd, "html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.perf_counter() - start < 60
    pages = {path.stem for path in (odd / "_build" / "html" / "chapters").glob("*.html")}
    assert pages == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert (odd / "_build" / "html" / "index.html").is_file() and not (odd / "_build" / "default").exists()


def test_a_job_asks_for_what_the_chapter_took_and_twice_that_the_second_time(place):
    run = open_run("results/mine")
    assert workflow.sizes(run, "03_sae") == {}
    run.logs.mkdir()
    (run.logs / "03_sae.json").write_text('{"seconds": 545.0, "peak_memory_mb": 2600}')
    found = workflow.sizes(run, "03_sae")
    assert [found["runtime"](None, attempt) for attempt in (1, 2)] == [28, 56]
    assert [found["mem_mb"](None, attempt) for attempt in (1, 2)] == [3900, 7800]
    (run.logs / "03_sae.json").write_text('{"seconds": 1.0, "peak_memory_mb": 200}')
    found = workflow.sizes(run, "03_sae")
    assert (found["runtime"](None, 1), found["mem_mb"](None, 1)) == (10, 2000)
    assert workflow.sizes(run, "01_surveys") == {}


def test_a_published_run_says_what_its_chapters_take_where_nothing_was_run_yet(place):
    run = open_run("results/mine")
    costs = {"01_surveys": {"seconds": 10.0, "peak_memory_mb": 600}, "03_sae": {"seconds": 590, "peak_memory_mb": 3000}}
    (run.results / "run.json").write_text(json.dumps({"notebooks": costs}))
    alone, together = workflow.sizes(run, "03_sae"), workflow.sizes(run)
    assert (alone["runtime"](None, 1), alone["mem_mb"](None, 1)) == (30, 4500)
    assert (together["runtime"](None, 1), together["mem_mb"](None, 2)) == (31, 9000)
    run.logs.mkdir()
    (run.logs / "03_sae.json").write_text('{"seconds": 1200, "peak_memory_mb": 2000}')  # on this machine
    assert workflow.sizes(run, "03_sae")["runtime"](None, 1) == 61


def test_what_takes_in_the_tables_of_evaluate_waits_for_the_hashes_that_they_are_held_against():
    """Chapters 02 and 03 leave them; a run without those tables, such as the smoke book's, never asks for them."""
    tree = ast.parse((ROOT / "Snakefile").read_text(encoding="utf-8").partition("\nSTUDIES")[0])
    (node,) = [one.value for one in tree.body if isinstance(one, ast.Assign) and one.targets[0].id == "CHAPTERS"]  # type: ignore
    needs = {name: of["needs"] for name, of in eval(compile(ast.Expression(node), "Snakefile", "eval"), {}).items()}

    def before(name):
        return {*needs[name], *(further for one in needs[name] for further in before(one))}

    asking = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if "load_evaluated" in path.read_text()]
    assert len(asking) > 2
    for name in asking:
        assert before(name) >= {"02_unsteered", "03_sae"}, name
