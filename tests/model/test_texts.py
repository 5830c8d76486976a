"""Text for the SAE: from a folder, from the hub, or written by the model itself."""

import sys
import types

import pytest

from opinion_sae.model.texts import load_texts, prompt_texts, split_texts, write_texts, writing_tasks


def load(source, lm, survey):
    return load_texts(source, lm, survey, tokens=60, seed=0)


def test_a_folder_gives_its_txt_files_in_order(tmp_path, lm, two_groups):
    (tmp_path / "b.txt").write_text("Second, naïve.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("Not this.")
    assert load(str(tmp_path), lm, two_groups) == ["First.", "Second, naïve."]


def test_a_folder_without_texts_is_refused(tmp_path, lm, two_groups):
    for source in (str(tmp_path), str(tmp_path / "absent"), "selves"):
        with pytest.raises(FileNotFoundError, match=f"{source}.*no folder with .txt files; else use 'self' or 'hf:"):
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


def test_self_adds_the_prompts_but_never_an_answer(lm, two_groups, tiny):
    texts = load("self", lm, two_groups)
    prompts = prompt_texts(lm, two_groups)
    assert texts[-6:] == prompts and len(texts) == 8 + 6
    assert prompts[0].count("Yes") == 1 and prompts[0].endswith("Answer:")


def test_hub_texts_stream_until_there_are_enough(monkeypatch, lm, two_groups):
    asked = []

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        yield from ({"text": "word " * 40} for _ in range(100))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    texts = load("hf:somebody/corpus", lm, two_groups)
    assert asked == [("somebody/corpus", "train", True)]
    assert len(texts) == 2  # 60 tokens are about 240 characters


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
