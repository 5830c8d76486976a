"""The README's numbers are those of the committed run."""

import importlib.util

from opinion_sae.book.paths import ROOT


def tool():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "tools" / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_committed_tables():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool().markdown(ROOT / "results/default") in readme, "run python tools/readme_table.py"
    written = tool().START + tool().summary(ROOT / "results") + tool().END
    assert written in readme, "run python tools/readme_table.py"


def test_the_paragraphs_go_between_their_marks_and_nowhere_else():
    start, end = tool().START, tool().END
    assert tool().with_summary(f"Before.\n{start}old\n{end}After.\n", "new\n") == f"Before.\n{start}new\n{end}After.\n"


def test_a_table_takes_the_place_of_the_old_one_and_of_nothing_else():
    old = "# Title\n\nBefore.\n\n| What the run shows | Time |\n| :-- | --: |\n| old | 1 s |\n\nAfter.\n"
    assert tool().with_table(old, "| new |\n") == "# Title\n\nBefore.\n\n| new |\n\nAfter.\n"
