"""The command: what it offers, how it fails, and what it does not import."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

import nbformat
import pytest
import yaml

from opinion_sae.book import execute, paths, preflight
from opinion_sae.book.command import main
from opinion_sae.book.paths import ROOT

COMMANDS = (
    "check book run extract summary html evaluate study compare select predict label export bench survey clean".split()
)


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0 and f"usage: opinion-sae {name}" in capsys.readouterr().out


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository with one profile and one notebook that fails."""
    values = yaml.safe_load((ROOT / "profiles" / "smoke.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values | {"output": str(tmp_path / "mine")}))
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "NOTEBOOKS", tmp_path / "notebooks")
    cells = [
        nbformat.v4.new_code_cell("seed: int = 7", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_try.ipynb")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "defualt"], "no profile .*defualt.yaml; there are default"),
        (["run", "99_none"], "no chapter '99_none'; there are 01_try"),
        (["run", "01,99_none"], "no chapter '99_none'; there are 01_try"),
        (["run", "01", "{place}/mine.yaml"], r"01_try.ipynb, cell In\[3\]: ZeroDivisionError"),
        (["survey", "no-such-survey", "{place}/out"], "survey 'no-such-survey': no shipped survey"),
    ],
)
def test_a_mistake_is_one_line_and_1(place, capsys, arguments, message):
    if arguments[0] == "survey":
        pytest.importorskip("opinion_sae.survey.export")
    assert main([text.format(place=place) for text in arguments]) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert re.search(message, lines[0])


def test_check_says_what_would_run(place, capsys):
    assert main(["check", str(place / "mine.yaml")]) == 0
    assert "packaged:smollm2-135m-instruct, gss" in capsys.readouterr().out


def test_a_full_folder_of_temporary_files_is_named_before_anything_runs(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("TMPDIR", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    preflight.check_room()
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        preflight.check_room(least=1 << 60)
    monkeypatch.setenv("TMPDIR", str(other))  # so full that gettempdir passed over it
    with pytest.raises(OSError, match=f"No space left on device: '{other}'"):
        preflight.check_room(least=1 << 60)


def test_kernels_wait_asleep_and_add_up_in_one_order_even_where_a_notebook_loads_torch_first():
    ours = {"OMP_WAIT_POLICY": "passive", "MKL_CBWR": "AUTO,STRICT", "OPENBLAS_NUM_THREADS": "1"}
    assert ours.items() <= execute.KERNEL_ENVIRONMENT.items()


@pytest.mark.parametrize("home", ["", "/somewhere else"])
def test_the_command_for_a_failed_chapter_alone_says_where_runs_are(place, capsys, monkeypatch, home):
    def fail(profile, notebook):
        raise ValueError("it failed")

    monkeypatch.setattr(execute, "run_notebook", fail)
    monkeypatch.setenv("OPINION_SAE_HOME", home)
    assert main(["run", "01", "--", str(place / "mine.yaml")]) == 1
    again = capsys.readouterr().err.partition("only this again: ")[2]
    where = ["env", f"OPINION_SAE_HOME={home}"] if home else []
    assert shlex.split(again)[:-6] == [*where, sys.executable]


def test_a_check_of_a_profile_does_not_load_torch():
    loaded = python(
        "import sys; from opinion_sae.book.command import main; main(['check']); print(*sys.modules)"
    ).split()
    assert "opinion_sae.book.profile" in loaded and not {"torch", "transformers", "sae_lens"} & set(loaded)


def test_the_command_is_also_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "opinion_sae", "check", "none"], env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: no profile") and done.stderr.count("\n") == 1


FIT = """
import time, torch
from opinion_sae.sae.train import train_sae
x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
taken = []
for _ in range(4):
    start = time.perf_counter()
    train_sae(x, 256, 8, steps=80, batch=512, lr=1e-3, seed=0)
    taken.append(time.perf_counter() - start)
print(min(taken[1:]))
"""


@pytest.mark.alone
def test_a_fit_beside_a_busy_process_takes_at_most_two_and_a_half_times_as_long():
    """Threads that spin while they wait make it twenty times; the best of three, since others may use the machine."""
    environment = {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "OPINION_SAE_PROGRESS": os.devnull,
    }
    alone = json.loads(python(FIT, **environment))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = json.loads(python(FIT, **environment))
    finally:
        busy.kill()
        busy.wait()
    assert beside < 2.5 * alone
