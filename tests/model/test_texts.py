"""Text for the SAE: speeches, prompts, from a folder, from the hub, or written by the model itself; mixtures."""

import sys
import types

import pytest

from opinion_sae.model import texts as texts_module
from opinion_sae.model.activations import text_windows
from opinion_sae.model.sources import parse_sources
from opinion_sae.model.texts import (
    first_tokens,
    folder_texts,
    hub_texts,
    load_texts,
    prompt_texts,
    split_addresses,
    split_texts,
    write_texts,
    writing_tasks,
)

SPEECHES = [(year, f"{year} yes no " * 40) for year in (2026, 2024, 2015, 2014, 2005, 2004)]


def load(source, lm, survey):
    return load_texts(source, lm, survey, tokens=60, seed=0)


def test_a_folder_gives_its_txt_files_in_order(tmp_path, lm, two_groups):
    (tmp_path / "b.txt").write_text("Second, naïve.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("Not this.")
    assert folder_texts(str(tmp_path)) == ["First.", "Second, naïve."]
    training, _, held_out = load(str(tmp_path), lm, two_groups)
    assert sorted(training + held_out) == ["First.", "Second, naïve."] and len(held_out) == 1


def test_a_folder_without_texts_is_refused(tmp_path, lm, two_groups):
    for source in (str(tmp_path), str(tmp_path / "absent"), "selves"):
        with pytest.raises(FileNotFoundError, match=f"{source}.*no folder with .txt files; else use addresses,"):
            load(source, lm, two_groups)


def test_a_text_that_is_not_utf8_is_named(tmp_path, lm, two_groups):
    (tmp_path / "old.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match="old.txt.*UTF-8"):
        load(str(tmp_path), lm, two_groups)


def test_writing_tasks_are_all_different_until_they_run_out(two_groups):
    tasks = writing_tasks(two_groups, 16, seed=3)
    assert len(set(tasks)) == 16  # 4 tasks x 2 topics x 2 groups
    assert any("weather" in task and "a Female adult" in task for task in tasks)
    assert tasks == writing_tasks(two_groups, 16, seed=3) != writing_tasks(two_groups, 16, seed=4)
    assert writing_tasks(two_groups, 20, seed=3) == tasks + tasks[:4]


@pytest.mark.parametrize("chat", [False, True])
def test_the_model_writes_the_same_texts_for_the_same_seed(chat, tiny, two_groups):
    lm = tiny.lm(chat=chat)
    texts = write_texts(lm, two_groups, tokens=60, seed=0, length=20, batch=2)
    assert texts == write_texts(lm, two_groups, tokens=60, seed=0, length=20, batch=2)
    assert texts != write_texts(lm, two_groups, tokens=60, seed=1, length=20, batch=2)
    assert len(texts) == 8  # of 8 tokens each: few tokens make eight short pieces
    assert len(write_texts(lm, two_groups, tokens=190, seed=0, length=20, batch=2)) == 10
    for text in texts:  # only what was written, without the request and its marks
        assert "<s>" not in text and "</s>" not in text
        assert not any(task in text for task in writing_tasks(two_groups, 16, seed=0))


def count(lm, texts):
    return sum(len(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)


def test_prompts_come_in_whole_orders_without_an_answer(lm, two_groups):
    one = prompt_texts(lm, two_groups, 1)
    assert len(one) == len(two_groups.questions) and one[0].count("Yes") == 1 and one[0].endswith("Answer:")
    assert len(prompt_texts(lm, two_groups, round(2.4 * count(lm, one)))) == 2 * len(one)
    with pytest.raises(ValueError, match="'prompts': no text is left to judge the SAE on"):
        load("prompts", lm, two_groups)


def test_sources_take_their_shares(monkeypatch, lm, two_groups):
    monkeypatch.setattr(texts_module, "addresses", lambda: SPEECHES)
    both = load_texts(["addresses 3", "prompts 1"], lm, two_groups, tokens=400, seed=0)
    assert both.prompts == prompt_texts(lm, two_groups, 100)
    assert abs(count(lm, both.training) - 300) <= 2 and both.training[0].startswith("2026")
    assert both.held_out and all(text[:4] in ("2015", "2005") for text in both.held_out)


def test_addresses_are_split_by_year(lm):
    one = count(lm, [SPEECHES[0][1]])
    training, _, held_out = split_addresses(lm, SPEECHES, tokens=3 * one, judged=20)
    assert training == [SPEECHES[0][1], SPEECHES[1][1], SPEECHES[3][1]]  # the latest, but for 2015
    assert [text[:4] for text in held_out] == ["2015"] and abs(count(lm, held_out) - 20) <= 1
    training, _, held_out = split_addresses(lm, SPEECHES, tokens=10**6, judged=20)
    assert [text[:4] for text in held_out] == ["2015", "2005"] and len(training) == 4
    assert [text[:4] for text in split_addresses(lm, SPEECHES, tokens=5, judged=20).held_out] == ["2015"]


def test_texts_are_cut_at_the_budget_and_fill_whole_windows(lm):
    texts = [text for _, text in SPEECHES]
    kept = first_tokens(lm, texts, 200)
    assert kept[0] == texts[0][: len(kept[0])] and abs(count(lm, kept) - 200) <= 1
    assert first_tokens(lm, texts, 10**6) == texts
    windows = text_windows(lm, texts, 16, 64)
    real, cells = sum(int(w.real.sum()) for w in windows), sum(w.real.numel() for w in windows)
    assert real / cells > 0.95  # padding only where a text ends


def test_a_mixture_is_relative_to_its_sum():
    assert parse_sources("self") == {"self": 1.0}
    assert parse_sources(["addresses 3", "my texts 1"]) == {"addresses": 0.75, "my texts": 0.25}


@pytest.mark.parametrize("entry", ["addresses", "addresses 0", "self -1", "self nan", "self inf", " 0.5", "self x"])
def test_an_entry_without_a_positive_share_is_named(entry):
    with pytest.raises(ValueError, match=f"texts: '{entry}' must be a source and its share"):
        parse_sources(["prompts 0.5", entry])


def test_a_source_is_given_once():
    with pytest.raises(ValueError, match="texts: 'self' is given twice"):
        parse_sources(["self 1", "self 2"])


def test_hub_texts_stream_until_there_are_enough(monkeypatch, lm, two_groups):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        yield from ({"text": "word " * 40} for _ in range(100))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    texts = hub_texts("somebody/corpus", 240)
    assert asked == [("somebody/corpus", "train", True)] and len(texts) == 2
    assert len(load("hf:somebody/corpus", lm, two_groups).held_out) == 1


def test_a_dataset_without_text_is_named(monkeypatch, lm, two_groups):
    rows = types.SimpleNamespace(load_dataset=lambda *args, **more: iter([{"body": "b", "id": 1}]))
    monkeypatch.setitem(sys.modules, "datasets", rows)
    with pytest.raises(ValueError, match=r"'somebody/corpus' has no column 'text'; its columns are \['body', 'id'\]"):
        load("hf:somebody/corpus", lm, two_groups)


def test_split_keeps_every_text_once():
    texts = [str(i) for i in range(20)]
    train, held_out = split_texts(texts, 0.1, seed=0)
    assert len(held_out) == 2 and sorted(train + held_out) == sorted(texts)
    assert split_texts(texts, 0.1, seed=0) == (train, held_out) != split_texts(texts, 0.1, seed=1)
    assert len(split_texts(texts[:2], 0.01, seed=0)[1]) == 1


def test_one_text_cannot_be_split():
    with pytest.raises(ValueError, match="1 text.*at least two"):
        split_texts(["alone"], 0.1, seed=0)
