"""Every damaged input of the corpus: refused in one line that names file and place, or read rightly."""

import importlib.util
import time
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)
LEAST = 400
MOST = 60  # seconds of this process for all of them
counts, seconds = {}, {}


@pytest.mark.parametrize("name", corpus.DOORS)
def test_damaged_input_is_refused_by_name_or_read_rightly(name, tmp_path):
    start = time.process_time()
    counts[name], wrong = corpus.failures(name, tmp_path)
    seconds[name] = time.process_time() - start
    assert not wrong


def test_the_corpus_is_as_large_as_it_should_be_and_quick():
    if set(counts) == set(corpus.DOORS):  # all of them were run
        assert sum(counts.values()) >= LEAST
        slowest = sorted(seconds, key=seconds.__getitem__)[-3:]
        assert sum(seconds.values()) < MOST, {name: seconds[name] for name in slowest}


def test_the_corpus_tells_what_is_wrong(tmp_path):
    """Readers that do each thing that must not be."""
    (tmp_path / "a").write_bytes(b"good")

    def read_as(answer):
        def read(folder):
            if (folder / "a").read_bytes() == b"good":
                return "good"
            return answer()

        return corpus.outcome(
            corpus.Door(None, read), tmp_path, corpus.Damage("bad", "a", b"bad", "row 3"), repr("good")
        )

    def raised(error):
        def raise_it():
            raise error

        return read_as(raise_it)

    assert read_as(lambda: "good") == "" and raised(ValueError("a: row 3")) == ""
    assert read_as(lambda: "bad").startswith("silent")
    assert raised(KeyError("a: row 3")).startswith("depths")
    assert raised(RecursionError("a: row 3")).startswith("depths")
    assert raised(ValueError("row 3")).startswith("unnamed")
    assert raised(ValueError("a")).startswith("unplaced")
    assert raised(ValueError("a: row 3\nand so on")).startswith("not one line")
    assert raised(TimeoutError()).startswith("hangs")
