"""Runs write below $OPINION_SAE_HOME: the tree may be read-only, and its user another one than root."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from opinion_sae.book import paths
from opinion_sae.book.paths import ROOT, clean, home, open_run, run_at
from opinion_sae.book.profile import load_profile

NOBODY = 65534


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("OPINION_SAE_HOME", str(tmp_path))
    return tmp_path


def test_everything_that_a_run_writes_lies_there(elsewhere):
    run = open_run("results/mine")
    assert run.results == elsewhere / "results" / "mine" and run.build == elsewhere / "_build" / "mine"
    assert run_at("results/default").html == elsewhere / "_build" / "html"
    assert load_profile("default").run.results == elsewhere / "results" / "default"
    assert (run.build / paths.MARKER).read_text() == "results/mine\n"
    clean()
    assert not any(elsewhere.rglob("mine"))


def test_without_it_the_repository_is_the_place(monkeypatch):
    for value in ("", None):
        monkeypatch.setenv("OPINION_SAE_HOME", "")
        if value is None:
            monkeypatch.delenv("OPINION_SAE_HOME")
        assert home() == ROOT


def test_a_relative_path_is_refused(monkeypatch):
    monkeypatch.setenv("OPINION_SAE_HOME", "runs")
    with pytest.raises(ValueError, match="OPINION_SAE_HOME must be a path from the root on, not 'runs'"):
        home()


@pytest.fixture
def read_only(copy_of_repository):
    """A tree that nobody may write to, a home for its user, and what a command starts with to be that user.

    Not in pytest's own folder, which only its owner may enter.
    """
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    root, user = copy_of_repository(place / "tree"), place / "user"
    user.mkdir()
    before = []
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root can write everywhere, and there is no setpriv to become another user")
        before = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        reached = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
        if subprocess.run([*before, sys.executable, "-c", reached], capture_output=True).returncode:
            before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]  # Python is root's: root, with no powers
        else:
            os.chown(user, NOBODY, NOBODY)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield root, user, before
    for path in [root, *root.rglob("*/")]:
        path.chmod(0o755)
    shutil.rmtree(place)


def test_a_chapter_of_a_read_only_tree_is_run_by_another_user(read_only, opinion_sae):
    root, user, before = read_only
    held = sorted(root.rglob("*"))
    own = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "OPINION_SAE_HOME"), str(user)) | {"before": before}
    done = opinion_sae(root, "book", "smoke", "--", "--until", "01_surveys", "--quiet", "all", **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (user / "results/smoke/surveys.csv").is_file() and (user / ".snakemake").is_dir()
    assert (user / "_build/smoke/book/chapters/01_surveys.ipynb").is_file()
    assert str(user) not in (user / "_build/smoke/book/chapters/01_surveys.ipynb").read_text().replace(str(root), "")
    assert sorted(root.rglob("*")) == held


def test_prose_of_a_read_only_tree_is_staged_twice(read_only):
    root, user, before = read_only
    code = "from opinion_sae.book import build, paths; [build.stage(paths.published()) for _ in '12']"
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "HOME": str(user), "OPINION_SAE_HOME": str(user)}
    call = [*before, sys.executable, "-c", code]
    done = subprocess.run(call, cwd=user, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (user / "_build/published/book/_extra/explorer/data.js").is_file()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_wherever_nothing_can_be_made_the_error_names_the_variable(elsewhere, monkeypatch, number):
    def refuse(path, **options):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match="_build/mine': set OPINION_SAE_HOME to a folder of your own"):
        paths.claim(run_at("results/mine"))


def test_without_a_place_to_write_to_the_error_names_the_variable(read_only, opinion_sae):
    root, user, before = read_only
    done = opinion_sae(root, "book", "smoke", HOME=str(user), OPINION_SAE_HOME="", before=before)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "OPINION_SAE_HOME" in done.stderr and str(root) in done.stderr


def test_a_wheel_without_the_tree_says_what_it_lacks(tmp_path, opinion_sae):
    shutil.copytree(ROOT / "src", tmp_path / "lib" / "src", ignore=shutil.ignore_patterns("__pycache__", "data"))
    done = opinion_sae(tmp_path / "lib", "book", "smoke")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "installed without its repository" in done.stderr and "opinion-sae predict" in done.stderr
