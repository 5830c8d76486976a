"""Activations extracted in shards: joined, they are those of one job, byte for byte."""

import pytest
import torch

from opinion_sae.model.activations import PROMPT_ENDS, Activations, Shard, activations, text_windows
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.model.texts import PARTS, Texts, keep_shard, shard_file, shard_key, shard_streams, text_activations

WORDS = "Question: yes? Answer: the weather is often cold, they say. "
FOUND = Texts(
    [WORDS * n for n in (9, 1, 4, 7, 2, 5)],
    [f"Question {n}: is it so? A B C Answer:" for n in range(8)],
    [WORDS * 3, WORDS],
)
LAYER = 2


@pytest.fixture
def small(monkeypatch):
    """Batches so small that the texts fill several."""
    monkeypatch.setattr(LanguageModel, "tokens_per_batch", property(lambda _: 130))


def by_one_job(lm, texts):
    """What chapter 03 did before there were shards."""
    parts = [activations(lm, texts.training, LAYER)] if texts.training else []
    parts += [activations(lm, texts.prompts, LAYER, ends=PROMPT_ENDS)] if texts.prompts else []
    return Activations(torch.cat(parts), activations(lm, texts.held_out, LAYER))


def same(one, other):
    return all(torch.equal(a, b) and a.dtype == b.dtype == torch.float32 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("of", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("texts", [FOUND, FOUND._replace(prompts=[])], ids=["with prompts", "without"])
def test_shards_join_to_what_one_job_extracts(lm, small, tmp_path, of, texts):
    expected = by_one_job(lm, texts)
    assert same(text_activations(lm, texts, LAYER, of=of), expected)
    for number in range(of):
        keep_shard(tmp_path, lm, texts, LAYER, Shard(number, of))
    assert same(text_activations(lm, texts, LAYER, tmp_path, of), expected)


def test_shards_are_whole_batches_each_once_in_order(lm, small):
    batches = text_windows(lm, FOUND.training, tokens_per_batch=lm.tokens_per_batch)
    assert len(batches) > 7
    for of in (1, 2, 3, 7, len(batches) + 3):
        parts = [Shard(number, of).part(batches) for number in range(of)]
        assert [id(batch) for part in parts for batch in part] == [id(batch) for batch in batches]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_is_kept_is_read_and_only_the_rest_is_extracted(lm, small, tmp_path, monkeypatch):
    expected, asked = by_one_job(lm, FOUND), []
    for number in range(3):
        keep_shard(tmp_path, lm, FOUND, LAYER, Shard(number, 3))
    real = shard_streams
    monkeypatch.setattr("opinion_sae.model.texts.shard_streams", lambda *a: asked.append(a[-1].number) or real(*a))
    assert same(text_activations(lm, FOUND, LAYER, tmp_path, 3), expected) and asked == []
    shard_file(tmp_path, Shard(1, 3)).unlink()
    assert same(text_activations(lm, FOUND, LAYER, tmp_path, 3), expected) and asked == [1]
    keep_shard(tmp_path, lm, FOUND, LAYER + 1, Shard(2, 3))  # of another layer
    asked.clear()
    assert same(text_activations(lm, FOUND, LAYER, tmp_path, 3), expected) and 1 in asked and 2 in asked


def test_a_damaged_shard_is_named(lm, small, tmp_path):
    path = keep_shard(tmp_path, lm, FOUND, LAYER, Shard(1, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"shard-1.safetensors: not a safetensors file: .*; delete it and run again"):
        text_activations(lm, FOUND, LAYER, tmp_path, 2)


def test_the_key_tells_apart_whatever_changes_the_numbers(lm, tiny, monkeypatch):
    shard = Shard(1, 3)
    keys = [
        shard_key(lm, FOUND, LAYER, shard),
        shard_key(lm, FOUND, 1, shard),
        shard_key(lm, FOUND, LAYER, Shard(1, 4)),
    ]
    keys += [shard_key(lm, FOUND, LAYER, Shard(2, 3)), shard_key(lm, FOUND._replace(prompts=[]), LAYER, shard)]
    other = tiny.lm()
    assert shard_key(other, FOUND, LAYER, shard) == keys[0]
    other.model.to(torch.bfloat16)
    keys.append(shard_key(other, FOUND, LAYER, shard))
    monkeypatch.setattr(LanguageModel, "tokens_per_batch", property(lambda _: 64))
    keys.append(shard_key(lm, FOUND, LAYER, shard))
    monkeypatch.setattr(torch, "__version__", "0")
    keys.append(shard_key(lm, FOUND, LAYER, shard))
    assert len(set(keys)) == len(keys)


def test_the_parts_are_those_of_the_texts():
    assert tuple(PARTS) == Texts._fields
