"""The notebooks as they are committed, and how nbval compares their outputs."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from opinion_sae.book.execute import declared
from opinion_sae.book.paths import ROOT
from opinion_sae.book.profile import load_profile

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(notebook, kind):
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def test_the_contents_page_names_every_notebook_once():
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    top = [entry for part in contents["parts"] for entry in part["chapters"]]
    files = [entry.get("file", "") for one in top for entry in (one, *one.get("sections", []))]
    chapters = [name[9:] for name in files if name.startswith("chapters/")]
    assert sorted(chapters) == [n.stem for n in NOTEBOOKS]  # read in another order than they were written in
    made = ("api", "faults", "clusters", "plan")
    for name in (name for name in files if name and not name.startswith("chapters/") and name not in made):
        assert (ROOT / "book" / f"{name}.md").is_file()
    assert len(top) <= 12  # beside the first page; what belongs to a chapter, and the appendices, unfold below it


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_defaults_are_those_of_the_default_profile(self, notebook):
        values = asdict(load_profile("default"))
        assert declared(notebook) == {name: values[name] for name in declared(notebook)}

    def test_it_stores_no_outputs(self, notebook):
        for cell in cells(notebook, "code"):
            assert cell["outputs"] == [] and cell["execution_count"] is None

    def test_it_is_short_and_opens_with_a_title(self, notebook):
        assert 2 <= len(cells(notebook, "code")) <= 14
        assert cells(notebook, "markdown")[0]["source"][0].startswith("# ")

    def test_its_set_up_is_short(self, notebook):
        first = cells(notebook, "code")[1]["source"]
        assert "open_chapter(globals())" in "".join(first) and sum(1 for line in first if line.strip()) <= 12

    def test_it_runs_on_the_kernel_of_the_environment(self, notebook):
        assert json.loads(notebook.read_text())["metadata"]["kernelspec"]["name"] == "python3"


def test_every_figure_is_followed_by_a_sentence_from_its_table():
    """A cell that draws, then one whose first words are a sentence's."""
    said = re.compile(r"^(display\()?(typeset\.sentence|Markdown)\(", re.MULTILINE)
    drawn = 0
    for notebook in NOTEBOOKS:
        every = json.loads(notebook.read_text())["cells"]
        for cell, after in zip(every, [*every[1:], None], strict=True):
            if cell["cell_type"] == "code" and re.search("^figure = ", "".join(cell["source"]), re.MULTILINE):
                drawn += 1
                assert after["cell_type"] == "code" and said.search("".join(after["source"])), (notebook, cell["id"])
    assert drawn > 30


@pytest.mark.parametrize("name", ["08_budget", "11_selection", "23_architectures", "24_specialised"])
def test_every_table_is_followed_by_a_sentence_from_it(name):
    """In the same cell, or first in the next."""
    every = ["".join(cell["source"]) for cell in cells(ROOT / "notebooks" / f"{name}.ipynb", "code")]
    drawn = 0
    for text, after in zip(every, [*every[1:], ""], strict=True):
        if made := list(re.finditer(r"typeset\.table\(|study_report\.\w+_table\(", text)):
            drawn += 1
            assert "typeset.sentence(" in text[made[-1].start() :] or after.startswith("typeset.sentence("), text
    assert drawn


def test_the_method_is_told_in_900_words():
    assert len((ROOT / "book" / "method.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("shards", [1, 3])
def test_the_order_knows_every_notebook_once(tmp_path, shards):
    """A dry run on an empty build folder would run all of them, then summary and book; before them any shards."""
    profile, text = tmp_path / "order.yaml", (ROOT / "profiles" / "smoke.yaml").read_text()
    profile.write_text(text.replace("results/smoke", f"{tmp_path}/order") + f"shards: {shards}\n")
    command = [Path(sys.executable).with_name("snakemake"), "--dry-run", "--nolock", "--cores", "1"]
    done = subprocess.run(
        [*command, "--snakefile", ROOT / "Snakefile", "--config", f"profile={profile}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    names = [notebook.stem for notebook in NOTEBOOKS]
    extracted = {"shard_texts": "1", "shard": str(shards)} if shards > 1 else {}
    total = len(names) + 2 + sum(map(int, extracted.values()))
    assert jobs == {**dict.fromkeys([*names, "summary", "book"], "1"), **extracted, "total": str(total)}


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("kl 0.2531", "kl 0.2531", True),
        ("kl 0.253", "kl 0.254", True),  # one unit of the last digit
        ("kl 0.253", "kl 0.255", False),
        ("norm 1234.5", "norm 1235.5", True),  # a thousandth
        ("norm 1234.5", "norm 1236.5", False),
        ("lr 1.0e-3", "lr 1.1e-3", True),
        ("lr 1e-3", "lr 2e-3", False),
        ("n 100", "n 101", False),
        ("shift -0.00", "shift 0.00", True),
        ("a    0.1", "a 0.1", True),
        ("a 0.1", "b 0.1", False),
        ("a 0.1 0.2", "a 0.1", False),
        ("a nan", "a 0.1", False),
    ],
)
def test_numbers_may_differ_by_a_little_and_words_may_not(close_text, one, two, same):
    assert (close_text(one) == close_text(two)) is same
    assert (close_text(two) != close_text(one)) is not same
