"""What a run of the book says in the terminal: little, and where it fails what, where and how to go on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from opinion_sae.book import paths, terminal
from opinion_sae.book.execute import called
from opinion_sae.book.paths import open_run
from opinion_sae.book.terminal import MARK, PLAN, latest, plan, spoken, stages, standing, tell, watch
from opinion_sae.progress import VARIABLE, progress

TRACE = """---------------------------------------------------------------------------
KeyError                                  Traceback (most recent call last)
Cell In[4], line 1
----> 1 first(2)

Cell In[3], line 2, in first(x)
      1 def first(x):
----> 2     return second(x)

File /there/a.py:5, in second(x)
      4 def second(x):
----> 5     return third(x)
      6

File /there/b.py:10, in third(x)
---> 10     raise KeyError("no such group")

KeyError: 'no such group'
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(terminal, "ROOT", tmp_path)
    monkeypatch.setenv(PLAN, "to be restored")
    monkeypatch.delenv(PLAN)
    made = open_run("results/mine")
    made.logs.mkdir()
    return made


def finish(run, name, seconds, when):
    path = run.logs / f"{name}.json"
    path.write_text(json.dumps({"seconds": seconds}))
    os.utime(path, (when, when))


def test_a_traceback_comes_down_to_the_cell_and_the_last_two_calls():
    assert called(TRACE) == [
        "Cell In[4], line 1: first(2)",
        "/there/a.py:5, in second(x): return third(x)",
        '/there/b.py:10, in third(x): raise KeyError("no such group")',
    ]
    assert called("SyntaxError: invalid syntax") == []


def test_the_time_left_is_the_time_so_far_over_what_is_done(run, monkeypatch):
    assert standing(run) == ""
    finish(run, "01_a", 30.0, 1000)
    finish(run, "02_b", 90.0, 1000)
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    plan(run, ["01_a", "02_b", "03_c"])
    assert standing(run) == "0 of 3 chapters"
    monkeypatch.setattr(time, "time", lambda: 2060.0)
    finish(run, "01_a", 99.0, 2059)  # 30 of 30 + 90 + 1 seconds are done after a minute
    assert standing(run) == "1 of 3 chapters, about 3 minutes left"
    for name in ("02_b", "03_c"):
        finish(run, name, 1.0, 2060)
    assert standing(run) == "3 of 3 chapters"


def test_the_times_of_the_published_run_stand_in_for_those_of_a_first_one(run):
    results = paths.ROOT / "results" / "default"
    results.mkdir()
    (results / "run.json").write_text(json.dumps({"notebooks": {"01_a": {"seconds": 50.0}}}))
    plan(run, ["01_a", "03_c"])
    assert json.loads((run.logs / ".plan.json").read_text())["seconds"] == {"01_a": 50.0, "03_c": 1}


def test_a_stage_is_read_from_what_progress_writes(tmp_path, monkeypatch):
    log = tmp_path / "a.log"
    log.write_text("03_sae {'seed': 0}\n")
    assert latest(log) is None
    monkeypatch.setenv(VARIABLE, str(log))
    bar = progress(None, "SAE, fold 1", total=4)
    assert latest(log) is None  # begun, not under way
    bar.update(1)
    bar.refresh()
    found = latest(log)
    assert found and (found["stage"], found["percent"]) == ("SAE, fold 1", "25")
    bar.update(3)
    bar.close()
    assert latest(log) is None and "SAE, fold 1: 100% (4/4)" in log.read_text()


def test_a_stage_is_mentioned_once_a_minute(tmp_path, capsys, monkeypatch):
    log = tmp_path / "a.log"
    log.write_text("\rtexts: 12% (1/8) after 00:10, 01:10 left")
    monkeypatch.setattr(terminal, "AGAIN", 60.0)
    with stages("03_sae", log):
        time.sleep(4.5)
    error = capsys.readouterr().err
    assert error.endswith("  03_sae: texts 12%, 01:10 left of it\n") and error.count("\n") == 1


def test_snakemakes_lines_go_to_the_log_and_ours_to_the_terminal(run, capfd, monkeypatch):
    monkeypatch.setenv(PLAN, "a run of the book")
    tell("03_sae: done\nand more")
    lines = capfd.readouterr().err
    assert lines == f"{MARK}03_sae: done\n{MARK}and more\n"
    log = run.logs / "snakemake.log"
    call = [sys.executable, "-c", f"import sys; print('noise'); sys.stdout.write({lines!r})"]
    watch(call, log, everything=False)
    assert capfd.readouterr().err == "03_sae: done\nand more\n"
    assert log.read_text() == "noise\n03_sae: done\nand more\n"
    watch(call, log, everything=True)
    assert capfd.readouterr().err == "noise\n03_sae: done\nand more\n"


def test_a_failure_that_nothing_has_told_of_is_told_by_the_end_of_the_log(run, capfd):
    log = run.logs / "snakemake.log"
    told = f"print('{MARK}error: 03_sae'); print('noise'); raise SystemExit(1)"
    with pytest.raises(ValueError, match="not made: what failed is said above\n  snakemake's log: _build/mine/logs"):
        watch([sys.executable, "-c", told], log, everything=False)
    untold = "print(*range(30), sep='\\n'); raise SystemExit(1)"
    with pytest.raises(ValueError, match="last lines of snakemake:\n  20\n  21\n") as error:
        watch([sys.executable, "-c", untold], log, everything=False)
    assert len(str(error.value).splitlines()) == 12


def test_ctrl_c_waits_for_what_snakemake_ends(run):
    code = f"import sys; sys.path[:0] = {sys.path!r}\nfrom pathlib import Path\n"
    code += "from opinion_sae.book.terminal import watch\n"
    child = (
        "import time\ntry: print('\\x1eon', flush=True); time.sleep(60)\nexcept KeyboardInterrupt: print('\\x1eended')"
    )
    code += f"watch([sys.executable, '-c', {child!r}], Path({str(run.logs / 'a.log')!r}), False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a job in the background ignores
    )
    assert process.stderr and process.stderr.readline() == "on\n"
    os.killpg(process.pid, 2)
    error = process.communicate(timeout=30)[1]
    assert error.startswith("ended\n") and process.returncode


@pytest.fixture(scope="module")
def broken(tmp_path_factory, copy_of_repository):
    """A copy of the repository in which every chapter fails in its last cell."""
    root = copy_of_repository(tmp_path_factory.mktemp("copy") / "it's broken")
    for path in (root / "notebooks").glob("*.ipynb"):
        made = nbformat.read(path, as_version=4)
        given = [cell for cell in made.cells if "parameters" in cell.metadata.get("tags", [])]
        made.cells = [*given, nbformat.v4.new_code_cell("def share(x):\n    return 1 / x\n\n\nshare(0)")]
        nbformat.write(made, path)
    return root


def test_a_failing_chapter_is_told_in_ten_lines_with_the_command_that_runs_it_again(broken, opinion_sae):
    done = opinion_sae(broken, "book", "--tables", "smoke")
    assert done.returncode == 1
    blocks = done.stderr.split("error: ")
    assert 3 <= len(blocks) <= 4  # as many chapters as run at a time, and the book
    for block in blocks[1:]:
        assert len(block.splitlines()) <= 10 and "Traceback" not in block
    name, where, call, log, half, again = blocks[1].splitlines()[:6]
    assert re.fullmatch(r"\d\d_\w+\.ipynb, cell In\[[23]\]: ZeroDivisionError: division by zero", name)
    assert re.fullmatch(r"  Cell In\[[23]\], line 5: share\(0\)", where) and call.endswith("return 1 / x")
    stem = name.partition(".ipynb")[0]
    assert log == f"  traceback: _build/smoke/logs/{stem}.log" and (broken / log.split(": ")[1]).is_file()
    assert (
        half == f"  notebook up to there: _build/smoke/logs/{stem}.ipynb" and (broken / half.split(": ")[1]).is_file()
    )
    assert "the book is not made: what failed is said above" in blocks[-1]
    assert "Error in rule" in (broken / "_build/smoke/logs/snakemake.log").read_text()

    command = shlex.split(again.removeprefix("  only this again: "))
    assert command[3:5] == ["run", stem]
    once = opinion_sae(broken, *command[3:])
    assert once.returncode == 1 and once.stderr.count("error: ") == 1 and f"error: {name}" in once.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 seconds"), (99.4, "99 seconds"), (100.0, "2 minutes"), (840.0, "14 minutes"), (9e3, "2.5 hours")],
)
def test_a_duration_is_said_as_a_reader_would(seconds, text):
    assert spoken(seconds) == text
