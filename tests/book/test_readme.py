"""The README's sentences and the page of every result are those of the committed runs."""

import importlib.util

from opinion_sae.book.paths import ROOT


def tool():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "tools" / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_opens_with_the_abstract_of_the_committed_tables():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool().with_abstract(readme, ROOT / "results/default") == readme, "run python tools/readme_table.py"
    assert len(readme.splitlines()) <= 90


def test_the_page_of_every_result_is_that_of_the_committed_tables():
    assert tool().PAGE.read_text(encoding="utf-8") == tool().page(ROOT / "results"), "run python tools/readme_table.py"


def test_the_abstract_goes_between_its_marks_and_nowhere_else():
    start, end = tool().START, tool().END
    found = tool().with_abstract(f"Before.\n{start}old\n{end}After.\n", ROOT / "results/default")
    assert found.startswith(f"Before.\n{start}We fitted") and found.endswith(f"\n{end}After.\n") and "old" not in found


def test_what_the_run_took_and_how_fast_its_machine_is():
    speed = {"side": 2048, "threads": 1, "gflops_float32": 87.0, "gflops_bfloat16": 213.3}
    run = {"machine": "2 cores", "notebooks": {"01": {"seconds": 90}, "02": {"seconds": 150}}}
    assert tool().cost(run) == "All chapters of that run together took 4 minutes, on 2 cores."
    said = tool().cost(run | {"throughput": speed})
    assert "4 minutes, on 2 cores, " in said and "87" in said and "213" in said
