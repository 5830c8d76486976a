"""Notebooks run with a profile's values, leave equal chapters, and fail in one clear sentence."""

import json

import nbformat
import pytest
import yaml

from opinion_sae.book import execute, paths
from opinion_sae.book.execute import (
    NotebookError,
    chosen,
    cleaned,
    declared,
    only_says,
    run_notebook,
    summarise,
    throughput,
)
from opinion_sae.book.paths import ROOT, open_run
from opinion_sae.book.profile import load_profile

PARAMETERS = 'output: str = "results/default"\nseed: int = 0\nsurvey: str | list[str] = ["gss", "nonvoters-2020"]'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty repository with one profile `mine.yaml`, and a function that writes notebooks."""
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values | {"output": str(tmp_path / "mine"), "seed": 7}))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def notebook(place, *code, parameters=(PARAMETERS,), name="01_try"):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Try")])
    for text in parameters:
        made.cells.append(nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]}))
    made.cells += [nbformat.v4.new_code_cell(text) for text in code]
    path = place / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(made, path)
    return path


def mine(place):
    return load_profile(str(place / "mine.yaml"))


def test_code_is_a_click_away_but_for_lines_that_show_a_sentence():
    code = ["save_svg(figure)", "typeset.sentence(said(table))", "Markdown(page)"]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in code])
    for _ in range(2):  # the same once more
        cleaned(made)
        assert [cell.metadata["tags"] for cell in made.cells] == [["hide-input"], ["remove-input"], ["remove-input"]]


@pytest.mark.parametrize(
    "code",
    ["%pip list", "Markdown(x)\nMarkdown(y)", "x = Markdown(y)", "print(1)", "", "figure", "Markdown(\n    x\n)"],
)
def test_what_does_more_than_show_a_sentence_keeps_its_code(code):
    assert not only_says(code)


def test_two_runs_leave_the_same_bytes(place, capfd):
    path = notebook(
        place,
        "import sys, warnings\nprint(seed, survey)\nwarnings.warn('odd')",
        f"from opinion_sae.progress import progress\n'{place}/here', list(progress(range(2), 'fold'))",
    )
    first = run_notebook(mine(place), path).read_bytes()
    chapter = run_notebook(mine(place), path)
    assert chapter == place / "_build" / "mine" / "book" / "chapters" / "01_try.ipynb"
    assert chapter.read_bytes() == first

    made = nbformat.read(chapter, as_version=4)
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3, 4]
    assert made.cells[2].source == f'# Parameters\noutput = "{place}/mine"\nseed = 7\nsurvey = "gss"\n'
    assert [out.text for out in made.cells[3].outputs] == ["7 gss\n"]
    shown = made.cells[4].outputs[0].data["text/plain"]  # in two lines, where the path was a long one
    assert " ".join(shown.split()) == "('here', [0, 1])"

    logs = place / "_build" / "mine" / "logs"
    log = (logs / "01_try.log").read_text()
    assert "UserWarning: odd" in log and "fold: 100%" in log
    cost = json.loads((logs / "01_try.json").read_text())
    assert 0 < cost["seconds"] < 60 and 10 < cost["peak_memory_mb"] < 10_000
    assert "01_try: wrote to stderr, see _build/mine/logs/01_try.log" in capfd.readouterr().err


def test_only_what_differs_from_the_notebook_is_injected(place):
    path = notebook(place, "seed", parameters=["seed: int = 7"])
    made = nbformat.read(run_notebook(mine(place), path), as_version=4)
    assert [cell.source for cell in made.cells] == ["# Try", "seed: int = 7", "seed"]


def test_a_failing_cell_is_named_and_the_old_chapter_stays(place):
    path = notebook(place, "seed")
    chapter = run_notebook(mine(place), path)
    old = chapter.read_bytes()
    notebook(place, "seed", "print('before')\nraise KeyError('no such group')")
    with pytest.raises(NotebookError, match=r"01_try.ipynb, cell In\[4\]: KeyError: 'no such group'"):
        run_notebook(mine(place), path)
    assert chapter.read_bytes() == old
    assert [file.name for file in chapter.parent.iterdir()] == ["01_try.ipynb"]
    logs = place / "_build" / "mine" / "logs"
    assert "raise KeyError" in (logs / "01_try.log").read_text()
    assert "before" in (logs / "01_try.ipynb").read_text()


def test_a_kernel_that_dies_is_an_error(place):
    with pytest.raises(NotebookError, match=r"01_try.ipynb, cell In\[3\] \(import os\): the kernel died"):
        run_notebook(mine(place), notebook(place, "import os\nos._exit(9)"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "one cell must be tagged parameters, not 0"),
        (["seed = 0", "epochs = 2"], "one cell must be tagged parameters, not 2"),
        (["seed = 0\nrun = open_run(output)"], "the default of run is not a literal"),
        (["import torch\nseed = 0"], "not `name = value` in the parameters: import torch"),
        (["a = b = 1\nseed: int"], "the default of seed is not a literal"),
        (["epochs: int = 2\nepoch: int = 3"], "unknown parameter epoch; did you mean epochs?"),
    ],
)
def test_a_parameters_cell_that_would_mislead_is_refused(place, parameters, message):
    path = notebook(place, parameters=parameters)
    with pytest.raises(ValueError, match="01_try.ipynb") as error:
        chosen(mine(place), path)
    assert message.rstrip("?") in str(error.value)


def test_defaults_are_read_without_running(place):
    assert declared(notebook(place)) == {
        "output": "results/default",
        "seed": 0,
        "survey": ["gss", "nonvoters-2020"],
    }


def leave(place, name, content):
    (open_run(mine(place).output).work / name).write_text(json.dumps(content))


def test_the_summary_gathers_what_notebooks_left(place):
    leave(place, "numbers-01.json", {"n_questions": "25"})
    leave(place, "numbers-02.json", {"kl_unsteered": "0.331"})
    leave(place, "hash-survey.json", "ab12")
    notebook(place)
    logs = place / "_build" / "mine" / "logs"
    logs.mkdir(parents=True)
    (logs / "01_try.json").write_text('{"seconds": 30.2}')
    (logs / "07_old.json").write_text('{"seconds": 99.0}')  # of a notebook that is no more
    summarise(mine(place))
    results = place / "mine"
    numbers = json.loads((results / "numbers.json").read_text())
    assert "GFLOP/s in float32" in numbers.pop("machine") and numbers == {
        "model": "smollm2-135m-instruct",
        "time_total": "30 seconds",
        "n_questions": "25",
        "kl_unsteered": "0.331",
    }
    run = json.loads((results / "run.json").read_text())
    assert run["notebooks"] == {"01_try": {"seconds": 30.2}}
    assert run["hashes"] == {"survey": "ab12"} and run["profile"]["seed"] == 7
    assert {"python", "torch", "transformers"} <= set(run["versions"])
    assert run["throughput"]["gflops_float32"] > 0 and run["throughput"]["threads"] > 0
    (place / "_build" / "mine" / "work" / "throughput.json").write_text(
        '{"side": 2, "threads": 3, "gflops_float32": 4.4, "gflops_bfloat16": 0.5}'
    )
    summarise(mine(place))  # it is measured once a run
    assert json.loads((results / "numbers.json").read_text())["machine"].endswith(
        ", which multiply matrices of side 2 with 4 GFLOP/s in float32 and 0 in bfloat16 (threads: 3)"
    )


def test_throughput_is_of_the_product_that_it_names():
    found = throughput(side=64, rounds=3, seconds=0.1)
    assert set(found) == {"side", "threads", "gflops_float32", "gflops_bfloat16"} and found["side"] == 64
    assert found["gflops_float32"] > 0


@pytest.mark.parametrize("second", [{"n": "2"}, {"m": 2.0}, {"model": "ours"}])
def test_a_number_is_text_and_has_one_source(place, second):
    leave(place, "numbers-01.json", {"n": "25"})
    leave(place, "numbers-02.json", second)
    with pytest.raises(ValueError, match="numbers-02.json: [a-z]+ must be a string and given in one"):
        summarise(mine(place))


def test_a_dead_kernel_names_its_cell_and_the_notebook(place):
    path = notebook(place, "# so far\nx = 1", "import os\nos._exit(1)", "y = 2")
    with pytest.raises(NotebookError) as error:
        run_notebook(mine(place), path)
    assert "01_try.ipynb, cell In[4] (import os): the kernel died" in str(error.value)
    half = mine(place).run.logs / "01_try.ipynb"
    assert half.is_file() and f"notebook up to there: {paths.relative(half)}" in str(error.value)


def test_of_a_stopped_notebook_the_last_cell_is_named(place):
    assert execute.last_cell(place / "none.ipynb") == ""
    path = notebook(place, "a = 1", "b = 1\nc = 1", "d = 1")
    assert execute.last_cell(path) == ""
    made = nbformat.read(path, 4)
    for cell, start in zip(made.cells[1:], ["08:00", "08:01", "08:02", None], strict=True):
        cell.metadata["papermill"] = {"start_time": start}
    nbformat.write(made, path)
    assert execute.last_cell(path) == ", cell In[3] (b = 1)"
