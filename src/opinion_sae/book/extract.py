"""The command `opinion-sae extract`: the texts and activations of chapter 03, by several jobs.

Without a shard's number the texts are made and kept, once, since a model that writes some of them samples; with it the
activations of that shard. The chapter joins the shards, and makes what is missing or no longer fits, so its numbers are
the same for any number of shards.
"""

from __future__ import annotations

import hashlib
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from opinion_sae.artifacts import check_fields, read_json, write_json
from opinion_sae.book.chapter import Chapter
from opinion_sae.book.paths import ROOT
from opinion_sae.book.profile import MOST_SHARDS, Profile
from opinion_sae.book.workflow import user_files
from opinion_sae.model.activations import Activations, Shard
from opinion_sae.model.texts import PARTS, Texts, keep_shard, load_texts, text_activations
from opinion_sae.survey import survey_hash


class Kept(NamedTuple):
    """Texts that were made for `of` shards, under a hash of all that they depend on."""

    key: str
    of: int
    texts: Texts


def extract(profile: Profile, number: int | None = None) -> Path:
    """Write the texts, or the activations of one shard; the file. ValueError that names what does not fit."""
    chapter, of = Chapter(asdict(profile)), profile.shards
    with chdir(ROOT):  # as a chapter: paths in a profile start there
        return _texts(chapter, of) if number is None else _shard(chapter, number, of)


def _texts(chapter: Chapter, of: int) -> Path:
    write_json(_file(chapter), {"key": _key(chapter), "of": of} | _made(chapter)._asdict())
    return _file(chapter)


def _shard(chapter: Chapter, number: int, of: int) -> Path:
    if not 0 <= number < of:
        raise ValueError(f"--shard {number}: the profile has shards: {of}, so it must lie in 0..{of - 1}")
    found = _kept(chapter)
    if found is None or found.of != of:
        raise ValueError(f"{_file(chapter)}: no texts of this profile as it is; run extract without --shard first")
    return keep_shard(chapter.run.shards, chapter.lm, found.texts, chapter["hook_layer"], Shard(number, of))


def kept_texts(chapter: Chapter) -> Texts:
    """The texts that `extract` kept for these parameters, else made."""
    found = _kept(chapter)
    return _made(chapter) if found is None else found.texts


def kept_activations(chapter: Chapter, texts: Texts) -> Activations:
    """The stream at these texts, from the shards that `extract` kept for them, else made."""
    found = _kept(chapter)
    where = (None, 1) if found is None else (chapter.run.shards, found.of)
    return text_activations(chapter.lm, texts, chapter["hook_layer"], *where)


def read_kept(path: Path) -> Kept:
    """The texts that `extract` wrote. FileNotFoundError, or ValueError that names the field."""
    found = read_json(path)
    check_fields(found, {"key": str, "of": int, **dict.fromkeys(PARTS, list)}, str(path))
    if not 1 <= found["of"] <= MOST_SHARDS:
        raise ValueError(f"{path}: of is {found['of']}; it must lie in 1..{MOST_SHARDS}")
    for name in PARTS:
        if not all(isinstance(text, str) for text in found[name]):
            raise ValueError(f"{path}: {name} holds something else than text")
    return Kept(found["key"], found["of"], Texts(*(found[name] for name in Texts._fields)))


def _file(chapter: Chapter) -> Path:
    return chapter.run.shards / "texts.json"


def _kept(chapter: Chapter) -> Kept | None:
    """What was kept, if its key fits."""
    found = read_kept(_file(chapter)) if _file(chapter).exists() else None
    return found if found is not None and found.key == _key(chapter) else None


def _made(chapter: Chapter) -> Texts:
    return load_texts(chapter["texts"], chapter.lm, chapter.survey, chapter["text_tokens"], chapter["seed"])


def _key(chapter: Chapter) -> str:
    """A hash of all that the texts depend on."""
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in user_files({"texts": chapter["texts"]})]
    given = [chapter[name] for name in ("texts", "text_tokens", "seed")]
    return chapter.lm.key(chapter.lm.device.type, survey_hash(chapter.survey), *given, files)
