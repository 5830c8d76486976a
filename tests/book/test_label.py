"""The command that labels latents: what it asks before it sends, what it writes, what a rerun does, what cards show."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from opinion_sae.artifacts import read_csv, write_csv, write_json
from opinion_sae.book import label as module
from opinion_sae.book.cards import COLUMNS, read_labels
from opinion_sae.book.command import main
from opinion_sae.book.label import Asked, label
from opinion_sae.book.profile import load_profile

CARDS = [
    {"latent": 0, "weight": -2.0, "role": "read"},
    {"latent": 2, "weight": 9.0, "role": "write"},
    {"latent": 1, "weight": 1.0, "role": "read"},
    {"latent": 0, "weight": 5.0, "role": "write"},
]


@pytest.fixture
def run(tmp_path, monkeypatch, tiny, lm):
    """A finished run of four latents, which fire on random words."""
    rng = np.random.default_rng(0)
    texts = [[("road", "tree", "good", "day", "rain")[n] for n in rng.integers(0, 5, 12)] for _ in range(100)]
    corpus = tiny.corpus(texts, [dict.fromkeys(rng.choice(1200, 40, replace=False).tolist(), 1.0) for _ in range(4)])
    chapter = SimpleNamespace(run=SimpleNamespace(results=tmp_path), lm=lm, sae=tiny.sae())
    monkeypatch.setattr(module, "finished", lambda profile: (chapter, CARDS))
    monkeypatch.setattr(module, "corpus_of", lambda chapter: corpus)
    monkeypatch.setenv("OPINION_SAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("THE_KEY", "k3y")
    return load_profile("smoke")


def test_statistics_need_nothing_and_scores_are_in_the_table(run, tmp_path, capsys):
    path = label(run)
    table = read_csv(path, COLUMNS)
    assert table["latent"].tolist() == [0, 1, 2] and set(table["judge"]) == {"the label's words"}  # each once
    assert (table["contexts"] == 20).all() and table["detection"].between(0, 1).all()
    assert "3 labels by statistics, judged by the label's words, 0.50 being chance" in capsys.readouterr().out
    label(run, "weighted", latents=1)
    assert read_labels(tmp_path)["by"].tolist() == ["statistics"] * 3 + ["weighted"]


def test_it_goes_on_where_it_was_stopped_and_begins_anew_for_another_sae(run, tmp_path, monkeypatch, tiny):
    label(run, latents=2)
    whole, made, row_of = read_labels(tmp_path), [], module.row_of
    monkeypatch.setattr(module, "row_of", lambda *given: made.append(given[-1][0]) or row_of(*given))
    write_csv(tmp_path / "labels.csv", whole.iloc[:1])
    label(run, latents=2)
    assert made == [1] and read_labels(tmp_path).equals(whole)
    write_csv(tmp_path / "labels.csv", whole.assign(sae="another"))
    assert not len(read_labels(tmp_path, tiny.sae().sha256()))
    label(run, latents=1)
    assert made == [1, 0] and read_labels(tmp_path)["latent"].tolist() == [0]


def test_the_runs_own_model_judges_its_labels(run, tmp_path):
    label(run, "model", latents=1)
    found = read_labels(tmp_path)
    assert found["by"].tolist() == found["judge"].tolist() == [run.model]


def test_an_endpoint_is_asked_after_a_yes_and_never_twice(run, server, tmp_path, capsys):
    asked = Asked("some", "THE_KEY", (1.0, 2.0))
    with pytest.raises(ValueError, match="nothing was sent; say yes, or give --yes"):
        label(run, server.url, 1, asked)
    cost = capsys.readouterr().out
    # 2 latents, each a label, and 4 requests for 20 cases of either kind
    assert f"to send to some at 127.0.0.1:{server.server_port}: up to 18 requests, about" in cost
    assert "in the currency of the price" in cost and not server.asked and not (tmp_path / "labels.csv").exists()
    server.replies = [server.completion("things\u202e of <b>roads</b>"), *[server.completion("[1, 0, 1, 0, 1]")]]
    label(run, server.url, 1, asked._replace(yes=True, price=None))
    assert "price unknown" in capsys.readouterr().out and 10 < len(server.asked) <= 18
    found = read_labels(tmp_path)
    assert found["label"].tolist() == ["things of <b>roads</b>"] and found["contexts"].tolist() == [20]
    server.shutdown()
    server.server_close()
    label(run, server.url, 1, asked)  # no yes is needed
    assert "are kept, so nothing is sent" in capsys.readouterr().out
    assert read_labels(tmp_path).equals(found)


def test_mistakes_are_told_in_a_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for arguments, message in (
        (["--by", "magic"], "--by magic: expected statistics, weighted, model, or the base URL"),
        (["--latents", "0"], "--latents 0: at least one is needed"),
        (["--by", "https://example.org/v1", "--model", "some"], "into the environment variable OPENAI_API_KEY"),
        (["--by", "http://localhost:1/v1"], "say which model is to be asked (--model)"),
    ):
        assert main(["label", *arguments, "--", "smoke"]) == 1
        assert message in capsys.readouterr().err
    monkeypatch.undo()
    profile = dataclasses.replace(load_profile("smoke"), output=str(tmp_path / "nothing-here"))
    monkeypatch.setattr("opinion_sae.book.paths.ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="run `opinion-sae book` for this profile first"):
        label(profile)
    write_json(tmp_path / "nothing-here" / "cards.json", {"cards": []})
    with pytest.raises(FileNotFoundError, match="texts.json: not there"):
        label(profile)
