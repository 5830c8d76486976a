"""Damaged inputs for every reader: good files, the ways in which they are damaged, and what became of each.

    python tests/doors/corpus.py

reads all of them with the package that is installed, each in a process of its own, and prints the failures.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import yaml
from torch import nn

LIMIT = 10  # seconds for one input
DEEP = 100_000  # lists within lists


class Damage(NamedTuple):
    """What is written in place of a good file. The error must name the file, and `place` if there is one."""

    name: str
    file: str
    content: bytes | Callable[[Path], None]
    place: str = ""


class Door(NamedTuple):
    """A reader: `write` leaves good files in a folder and says how they may be damaged, `read` reads them."""

    write: Callable[[Path], list[Damage]]
    read: Callable[[Path], object]


def outcome(door: Door, folder: Path, damage: Damage, good: object) -> str:
    """What is wrong: nothing if the input is refused by name or read rightly. `folder` holds the good files."""
    path = folder / damage.file
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    damage.content(path) if callable(damage.content) else path.write_bytes(damage.content)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT)
    try:
        found = shown(door.read(folder))
    except TimeoutError:
        return f"hangs: more than {LIMIT} s"
    except (ValueError, OSError) as error:
        said = str(error)
        if Path(damage.file).name not in said:
            return f"unnamed: {type(error).__name__} without {damage.file}: {said[:150]!r}"
        if damage.place not in said:
            return f"unplaced: {type(error).__name__} without {damage.place!r}: {said[:250]!r}"
        return f"not one line: {said[:250]!r}" if "\n" in said else ""
    except Exception as error:
        return f"depths: {type(error).__name__}: {str(error)[:150]!r}"
    finally:
        signal.alarm(0)
    return "" if found == good else "silent: read, with another answer than the good input's"


def _too_long(*_: object) -> None:
    raise TimeoutError


def shown(value: Any) -> Any:
    """What was read, as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return shown(value.detach().numpy())
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes() if value.dtype != object else value.tolist()
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if isinstance(value, nn.Module):
        plain = {name: one for name, one in vars(value).items() if not name.startswith("_") and name != "sae"}
        return type(value).__name__, shown(dict(value.state_dict())), shown(plain)
    if dataclasses.is_dataclass(value):
        return shown({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: shown(one) for key, one in sorted(value.items(), key=str)}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    return repr(value)


# how any file, any text, a table, JSON and tensors may be damaged


def link(path: Path) -> None:
    path.symlink_to(path)


def any_file(file: str) -> Iterator[Damage]:
    yield Damage("absent", file, lambda path: None)
    yield Damage("a folder", file, Path.mkdir)
    yield Damage("a named pipe", file, os.mkfifo)
    yield Damage("a link to itself", file, link)
    yield Damage("empty", file, b"")
    yield Damage("other bytes", file, bytes(range(256)) * 4)


def any_text(file: str, text: str) -> Iterator[Damage]:
    yield from any_file(file)
    yield Damage("UTF-16", file, text.encode("utf-16"))
    yield Damage("UTF-16 without a mark", file, text.encode("utf-16-le"))
    yield Damage("Latin-1", file, text.encode() + "é".encode("latin-1"))
    yield Damage("a NUL byte", file, text.encode() + b"\0")
    yield Damage("with a mark", file, b"\xef\xbb\xbf" + text.encode())


def any_table(file: str, text: str, columns: str, numbers: str = "", rows: bool = True) -> Iterator[Damage]:
    """`columns` are needed, `numbers` are those that hold numbers from 0 up; with `rows` errors name the row."""
    frame = pd.read_csv(pd.io.common.StringIO(text), dtype=str, keep_default_na=False)
    yield from any_text(file, text)
    yield Damage("CRLF", file, text.replace("\n", "\r\n").encode())
    yield Damage("a header alone", file, text.split("\n")[0].encode())
    yield Damage("an open quote", file, text.encode() + b'"')
    yield Damage("cut short", file, text.rstrip("\n").rpartition(",")[0].encode())
    yield Damage("a row too long", file, (text + ",".join(frame.iloc[0]) + ",1\n").encode())
    for column in columns.split():
        without, twice = frame.drop(columns=column), pd.concat([frame, frame[[column]]], axis=1)
        yield Damage(f"without {column}", file, without.to_csv(index=False).encode(), column)
        yield Damage(f"{column} twice", file, twice.to_csv(index=False).encode(), column)
    for column in numbers.split():
        for bad in ("x", "inf", "1e400") if not rows else ("", "x", "nan", "inf", "-1", "1e400", "true"):
            changed = frame.copy()
            changed.loc[1, column] = bad
            yield Damage(f"{column} {bad!r}", file, changed.to_csv(index=False).encode(), column)


def any_json(file: str, good: Any, needed: str = "", deep: bool = True) -> Iterator[Damage]:
    """`needed` are the keys, a.b within a, whose values are looked at."""
    text = json.dumps(good, ensure_ascii=False)
    yield from any_text(file, text)
    yield Damage("cut short", file, text.encode()[: len(text) // 2])
    yield Damage("deep", file, b"[" * DEEP)
    yield Damage("deep within", file, b'{"a":' * DEEP)
    yield Damage("NaN", file, text.encode()[:-1] + b', "more": NaN' + text.encode()[-1:])
    for other in ("[]", "3", "null", '"text"'):
        yield Damage(f"{other} alone", file, other.encode())
    for key in needed.split():
        for name, change in CHANGES.items():
            yield Damage(f"{key} {name}", file, change(good, key.split(".")), key.split(".")[-1])


def _within(good: Any, keys: list[str], change: Callable[[dict, str], None]) -> bytes:
    content = json.loads(json.dumps(good))
    inner = content
    for key in keys[:-1]:
        inner = inner[int(key) if isinstance(inner, list) else key]
    change(inner, keys[-1])
    return json.dumps(content).encode()


def _twice(good: Any, keys: list[str]) -> bytes:
    found = _within(good, keys, lambda inner, key: inner.update({key: "<mark>"})).decode()
    return found.replace('"<mark>"', f'{{}}, "{keys[-1]}": {json.dumps(_get(good, keys))}').encode()


def _get(content: Any, keys: list[str]) -> Any:
    for key in keys:
        content = content[int(key) if isinstance(content, list) else key]
    return content


CHANGES: dict[str, Callable[[Any, list[str]], bytes]] = {
    "missing": lambda good, keys: _within(good, keys, lambda inner, key: inner.pop(key)),
    "null": lambda good, keys: _within(good, keys, lambda inner, key: inner.update({key: None})),
    "a list of lists": lambda good, keys: _within(good, keys, lambda inner, key: inner.update({key: [[0.5]]})),
    "-0.5": lambda good, keys: _within(good, keys, lambda inner, key: inner.update({key: -0.5})),
    "twice": _twice,
}


def tensors(found: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    return save({name: one.contiguous() for name, one in found.items()}, header)


def any_tensors(
    file: str,
    good: dict[str, torch.Tensor],
    header: dict[str, str] | None = None,
    nan: bool = False,
    extra: bool = True,
) -> Iterator[Damage]:
    """With `nan` a row of NaN is allowed; without `extra` so are further tensors."""
    raw = tensors(good, header)
    yield from any_file(file)
    yield Damage("cut short", file, raw[:-5])
    yield Damage("cut in its header", file, raw[:20])
    yield Damage("a header of 2^60 bytes", file, (2**60).to_bytes(8, "little") + raw[8:])
    yield Damage("deep", file, (8 * DEEP).to_bytes(8, "little") + b"[" * 8 * DEEP)
    yield Damage("no tensors", file, tensors({}, header))
    if extra:
        yield Damage("one too many", file, tensors({**good, "more": torch.zeros(2)}, header))
    for name, one in good.items():

        def other(changed: torch.Tensor, name: str = name) -> bytes:
            return tensors({**good, name: changed}, header)

        first = (0,) * one.ndim
        for bad in ("inf",) if nan else ("nan", "inf", "-inf"):
            changed = one.clone()
            changed[first] = float(bad)
            yield Damage(f"{name} {bad}", file, other(changed), name)
        yield Damage(f"{name} missing", file, tensors({k: v for k, v in good.items() if k != name}, header))
        yield Damage(f"{name} wider", file, other(torch.cat([one, one], dim=-1)))
        yield Damage(f"{name} with an axis more", file, other(one[None]))
        yield Damage(f"{name} of nothing", file, other(one[..., :0]))
        yield Damage(f"{name} whole numbers", file, other((10 * one).nan_to_num(0).int()), name)
        yield Damage(f"{name} true and false", file, other(one > 0), name)
        yield Damage(f"{name} complex", file, other(one + 0.5j), name)


# readers


def profile(folder: Path) -> list[Damage]:
    good = {
        "model": "models/mine",
        "hook_layer": 3,
        "survey": "gss",
        "sae": "train",
        "seed": 0,
        "output": "results/doors",
    }
    source = Path(sys.modules["opinion_sae"].__file__).parents[2] / "profiles" / "default.yaml"
    default = yaml.safe_load(source.read_text(encoding="utf-8"))
    text = yaml.safe_dump(good)
    (folder / "mine.yaml").write_text(text)
    zero = {"sparsity", "hook_layer", "seed", "max_questions", "l1", "bootstrap", "select_layers", "tilts", "strengths"}
    found = [*any_text("mine.yaml", text)]
    for name, other in {
        **{
            "deep": "[" * 5000,
            "a list": "- a",
            "text": "a",
            "code": "model: !!python/name:os.system",
            "cut": text[:-20],
        },
        **{
            "a key twice": text + "seed: 0\n",
            "a list as key": text + "? [a]\n: b\n",
            "a number as key": text + "1: 2\n",
        },
        **{"unknown": text + "seeds: 1\n", "two documents": text + "---\n" + text, "few folds": text + "folds: 2\n"},
        **{
            "no 0": text + "strengths: [1.0, 2.0]\n",
            "no 1": text + "strengths: [0.0]\n",
            "many": text + "sae_k: 5000\n",
        },
        **{"a loop": text + "budgets: &a [*a]\n", "few questions": text + "max_questions: 2\n", "tab": "\tmodel: a"},
        **{"half a pair": text + 'open_question: "\\ud800"\n', "NUL in text": text + 'open_question: "a\\0"\n'},
    }.items():
        found.append(Damage(name, "mine.yaml", other.encode()))
    for key, value in default.items():
        values: list[Any] = [None]
        if isinstance(value, str):
            values += ["", " ", 3]
        elif isinstance(value, list):
            item = value[0] if value else "a"
            values += [[[item]], [item, item]] + ([[]] if key != "crossed" else [])
            values += [[""], [3]] if isinstance(item, str) else [["a"], [-1], [float("nan")]]
            values += [[0]] if key not in {*zero, "survey", "attributes", "crossed"} else []
        else:
            values += ["many", -1] + ([0] if key not in zero else [])
            values += [1.5, 10**400] if isinstance(value, int) else [float("inf"), float("nan"), True]
        for bad in values:
            changed = yaml.safe_dump({**good, key: bad})
            found.append(Damage(f"{key}: {str(bad)[:20]}", "mine.yaml", changed.encode(), key))
    return found


def read_profile(folder: Path) -> object:
    from opinion_sae.book.profile import load_profile

    return load_profile(str(folder / "mine.yaml"))


def sweep(folder: Path) -> list[Damage]:
    text = "profile: smoke\noutput: results/doors\nhook_layer: [3, 4]\nseed: 0\n"
    (folder / "mine.yaml").write_text(text)
    found = [*any_text("mine.yaml", text)]
    for key, values in {
        "profile": ["", "none", 3, ["smoke"], "../smoke", None],
        "output": ["", "/", "results/..", "results/default", 3, "a" * 300, None],
        "hook_layer": [[], [3, 3], ["many"], -1, [1.5], None, [[3]], {"a": 3}],
        "seed": [10**400, True],
        "survey": [[[]], 3, [["gss", "gss"]]],
        "model": [3, "", [None]],
        "layers": [3],
    }.items():
        for bad in values:
            changed = yaml.safe_dump({**yaml.safe_load(text), key: bad})
            found.append(Damage(f"{key}: {str(bad)[:20]}", "mine.yaml", changed.encode(), key))
    return found


def read_sweep(folder: Path) -> object:
    from opinion_sae.book.sweep import read_sweep

    with patch.dict(os.environ, OPINION_SAE_HOME=str(folder)):  # where it writes the profiles of its cells
        return [cell.values for cell in read_sweep(folder / "mine.yaml").cells]


def read_survey(source: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from opinion_sae.survey import load_survey

        return load_survey(source.format(folder), min_respondents=1)

    return read


TIDY = """question,option,attribute,group,count,people,n_effective,key,topic,ordinal
Is it so?,Yes,all,everyone,4.5,6,3.2,a,truth,false
Is it so?,No,all,everyone,1.5,6,3.2,a,truth,false
Is it so?,Yes,sex,Woman,4.5,5,2.5,a,truth,false
Is it so?,No,sex,Woman,0.5,5,2.5,a,truth,false
"""


def tidy(folder: Path) -> list[Damage]:
    (folder / "town.csv").write_text(TIDY)
    return [
        *any_table("town.csv", TIDY, "question option attribute group count", "count"),
        *(
            Damage(f"{old} as {new}", "town.csv", TIDY.replace(old, new, 1).encode(), place)
            for old, new, place in (
                ("Woman,4.5,5", "Woman,4.5,2", "people"),
                ("false", "perhaps", "ordinal"),
                ("No,sex", "Yes,sex", "row 5"),
                ("No,sex", ",sex", "row 5"),
                ("sex,Woman", "sex, ", "row 4"),
                ("sex,Woman", "sex x party,Woman", "row 4"),
                ("3.2,a", "7.5,a", "row 3"),
            )
        ),
    ]


QUESTIONS = "key,text,options,ordinal,topic\na,Is it so?,Yes|No,true,truth\nb,Which?,Red|Green|Blue,false,\n"
COUNTS = """question,attribute,group,option,respondents,weight,weight_squared
a,all,everyone,0,3,4.5,7.25
a,all,everyone,1,1,1.0,1.0
b,all,everyone,2,4,4.0,4.0
a,sex,Woman,0,2,3.5,6.25
b,sex,Woman,2,2,2.0,2.0
b,sex,Man,2,2,2.0,2.0
"""
FACTS = {"title": "Town", "source": "http://nowhere", "years": [2016, 2018]}


def counted(folder: Path) -> list[Damage]:
    town = folder / "town"
    town.mkdir()
    (town / "questions.csv").write_text(QUESTIONS)
    (town / "counts.csv").write_text(COUNTS)
    (town / "provenance.json").write_text(json.dumps(FACTS))
    changed = [
        ("counts.csv", COUNTS, "a,sex", "c,sex", "row 5"),
        ("counts.csv", COUNTS, "Woman,0,2", "Woman,2,2", "row 5"),
        ("counts.csv", COUNTS, "a,sex,Woman", "a,sex,", "row 5"),
        ("counts.csv", COUNTS, "a,sex,Woman", "a,sex x party,Woman", "row 5"),
        ("counts.csv", COUNTS, "2,3.5,6.25", "0,3.5,6.25", "row 5"),
        ("counts.csv", COUNTS, "3.5,6.25", "3.5,0.25", "row 5"),
        ("counts.csv", COUNTS, "b,all,everyone", "b,all,somebody", "everyone"),
        ("questions.csv", QUESTIONS, "b,Which", "a,Which", "row 3"),
        ("questions.csv", QUESTIONS, "Yes|No", "Yes|Yes", "row 2"),
        ("questions.csv", QUESTIONS, "Yes|No", "Yes", "row 2"),
        ("questions.csv", QUESTIONS, "Yes|No", "Yes|", "row 2"),
        ("questions.csv", QUESTIONS, "true", "1", "row 2"),
        ("questions.csv", QUESTIONS, "a,Is it so?", "a,", "row 2"),
        ("questions.csv", QUESTIONS, "a,Is it so?", ",Is it so?", "row 2"),
    ]
    about = [one for one in any_json("town/provenance.json", FACTS) if one.name != "absent"]
    about.append(Damage("a key twice", "town/provenance.json", b'{"title": "a", "title": "b"}', "title"))
    about.append(Damage("half a pair", "town/provenance.json", b'{"title": "\\ud800"}'))
    number_columns = "option respondents weight weight_squared"
    return [
        *any_table("town/questions.csv", QUESTIONS, "key text options ordinal topic"),
        *any_table("town/counts.csv", COUNTS, f"question attribute group {number_columns}", number_columns),
        *(Damage(f"{old} as {new}", f"town/{f}", t.replace(old, new, 1).encode(), p) for f, t, old, new, p in changed),
        *about,
    ]


def packed(folder: Path) -> list[Damage]:
    counted(folder)
    (folder / "town" / "counts.csv").unlink()
    raw = gzip.compress(COUNTS.encode())
    (folder / "town" / "counts.csv.gz").write_bytes(raw)
    return [
        *(one for one in any_file("town/counts.csv.gz") if one.name != "absent"),
        Damage("cut short", "town/counts.csv.gz", raw[:-5]),
        Damage("a wrong sum", "town/counts.csv.gz", raw[:-8] + bytes(8)),
        Damage("not packed", "town/counts.csv.gz", COUNTS.encode()),
    ]


INFO = """key,question,references,option_ordinal
TRUST_W26,How far do you trust it?,"['A lot', 'Not at all', 'In between', 'Refused']","[1.0, 2.0, 1.5]"
KIND_W26,Which one?,"['Red', 'Blue', 'Refused']","[1, 1]"
"""
METADATA = """key,options
SEX,"['Male', 'Female']"
POLPARTY,"['Republican', 'Democrat', 'Other']"
"""
RESPONSES = """TRUST_W26,KIND_W26,SEX,POLPARTY,WEIGHT_W26
A lot,Red,Male,Republican,1.0
In between,Blue,Male,Democrat,3.0
Refused,Refused,Female,Republican,2.0
Not at all,Red,Female,Refused,0.5
"""
WAVE = "American_Trends_Panel_W26"


def respondents(folder: Path) -> list[Damage]:
    (folder / WAVE).mkdir()
    for name, text in (("info", INFO), ("metadata", METADATA), ("responses", RESPONSES)):
        (folder / WAVE / f"{name}.csv").write_text(text)
    changed = [
        ("info", INFO, "[1.0, 2.0, 1.5]", "[1.0, 2.0, None]", "option_ordinal"),
        ("info", INFO, "[1.0, 2.0, 1.5]", "[1.0, 2.0, 1e999]", "option_ordinal"),
        ("info", INFO, "[1.0, 2.0, 1.5]", "[1, 2, 3, 4, 5]", "option_ordinal"),
        ("info", INFO, "[1.0, 2.0, 1.5]", "[" * 5000, "option_ordinal"),
        ("info", INFO, "['A lot', 'Not at all', 'In between', 'Refused']", "__import__('os')", "references"),
        ("info", INFO, "['A lot', 'Not at all', 'In between', 'Refused']", "{}", "references"),
        ("info", INFO, "'A lot', 'Not at all'", "'A lot', 'A lot'", "row 2"),
        ("metadata", METADATA, "['Male', 'Female']", "[]", "row 2"),
        ("metadata", METADATA, "['Male', 'Female']", "['Male', '']", "row 2"),
        ("metadata", METADATA, "['Male', 'Female']", "['Male', None]", "row 2"),
        ("metadata", METADATA, "['Male', 'Female']", "Male", "row 2"),
        ("metadata", METADATA, "POLPARTY", "GENDER", "row 3"),
        ("metadata", METADATA, "POLPARTY", "SEX", "row 3"),
        ("responses", RESPONSES, "A lot,Red", "A lots,Red", "row 2"),
        ("responses", RESPONSES, "WEIGHT_W26", "WEIGHT_W27", "WEIGHT_W26"),
    ]
    return [
        *any_table(f"{WAVE}/info.csv", INFO, "key question references option_ordinal"),
        *any_table(f"{WAVE}/metadata.csv", METADATA, "key options"),
        *any_table(f"{WAVE}/responses.csv", RESPONSES, "TRUST_W26 SEX", "WEIGHT_W26"),
        *(
            Damage(f"{o[:20]} as {n[:20]}", f"{WAVE}/{f}.csv", t.replace(o, n, 1).encode(), p)
            for f, t, o, n, p in changed
        ),
    ]


def answer_counts(folder: Path) -> list[Damage]:
    given = {"MC_options": ["A lot"], "question_text": "How?"}
    good = {
        "TRUST_W26": {**given, "Male": {"A lot": 3, "Refused": 1}, "Female": {"In between": 2}},
        "KIND_W26": {**given, "Male": {"Red": 1}, "Female": {"Blue": 2}},
    }
    (folder / "counts").mkdir()
    (folder / "counts" / "info.csv").write_text(INFO)
    (folder / "counts" / "SEX_data.json").write_text(json.dumps(good))
    keys = "TRUST_W26 TRUST_W26.Male TRUST_W26.Male.A_lot".replace("A_lot", "Refused")
    found = any_json("counts/SEX_data.json", good, keys)
    missing = ("TRUST_W26.Male missing", "Refused missing")  # groups and answers may be missing
    named = (one._replace(place=one.place and "TRUST_W26") if "twice" not in one.name else one for one in found)
    return [one for one in named if not one.name.endswith(missing) and one.name != "absent"]


def lines(folder: Path) -> list[Damage]:
    row = {
        "qkey": "Q1",
        "attribute": "SEX",
        "group": "Male",
        "responses": [0.5, 0.25, 0.25],
        "ordinal": [1.0, 2.0, 1.5],
    }
    row |= {"question": "How\u2028is it?", "options": ["Good", "Bad", "In between", "Refused"]}
    rows = [row, {**row, "group": "Female", "responses": [0.1, 0.6, 0.3]}]
    text = "\n".join(json.dumps(one) for one in rows)
    (folder / "a.jsonl").write_text(text, encoding="utf-8")
    found = [*any_text("a.jsonl", text), Damage("U+2028", "a.jsonl", text.replace("\\u2028", "\u2028").encode())]
    for name, bad in (
        ("deep", "[" * DEEP),
        ("cut", text[:-9]),
        ("a list", "[]"),
        ("NaN", text.replace("0.5,", "NaN,")),
    ):
        found.append(Damage(name, "a.jsonl", bad.encode()))
    found.append(Damage("twice", "a.jsonl", text.replace('"group"', '"qkey": "Q2", "group"', 1).encode(), "qkey"))
    for key in row:
        for name, bad in (("missing", ...), ("null", None), ("a list", [[1]]), ("a number", -0.5), ("empty", "")):
            changed = {one: value for one, value in row.items() if one != key} | ({} if bad is ... else {key: bad})
            content = f"{json.dumps(changed)}\n{json.dumps(rows[1])}"
            found.append(Damage(f"{key} {name}", "a.jsonl", content.encode(), "1"))
    return found


def world(folder: Path) -> list[Damage]:
    text = """question,selections,options,source
How is it?,"defaultdict(<class 'list'>, {'Norway': [0.5, 0.5], 'Chile': [0.25, 0.75]})","['Good', 'Bad']",WVS
How was it?,"defaultdict(<class 'list'>, {'Norway': [0.1, 0.9], 'Chile': [0.3, 0.7]})","['Good', 'Bad']",GAS
"""
    (folder / "world.csv").write_text(text)
    found = [*any_table("world.csv", text, "question selections options source")]
    for old, new, place in (
        ("[0.5, 0.5]", "[-0.5, 1.5]", "row 2"),
        ("[0.5, 0.5]", "'ab'", "row 2"),
        ("[0.5, 0.5]", "[1e999, 0.5]", "row 2"),
        ("{'Norway'", "{None", "row 2"),
        ("{'Norway'", "{", "row 2"),
        ("defaultdict(<class 'list'>, {'N", "eval({'N", "row 2"),
        ("['Good', 'Bad']", "['Good', ", "row 2"),
        ("['Good', 'Bad']", "(" * 5000, "row 2"),
    ):
        found.append(Damage(f"{old[:12]} as {new[:12]}", "world.csv", text.replace(old, new, 1).encode(), place))
    return found


def small_sae(k: int | None = 2, threshold: bool = False):
    from opinion_sae.sae.autoencoder import SparseAutoencoder

    make = torch.Generator().manual_seed(0)
    W_enc, W_dec = (torch.randn(*shape, generator=make) for shape in ((3, 4), (4, 3)))
    cut = torch.tensor([0.1, 0.2, 0.3, 0.4]) if threshold else None
    about = {"model_name": "mine", "hook_name": "blocks.1.hook_resid_post"}
    return SparseAutoencoder(W_enc, torch.ones(4), W_dec, torch.ones(3), k=k, threshold=cut, metadata=about)


def offsets(kind: str) -> Callable[[Path], list[Damage]]:
    def write(folder: Path) -> list[Damage]:
        from safetensors import safe_open

        from opinion_sae.delta import offsets, reading

        of, made = getattr(offsets, kind, None) or getattr(reading, kind), ["Female", "Male"]
        offset = of(made, 3, axes=2) if kind == "DenseReading" else of(made, small_sae())
        make = torch.Generator().manual_seed(1)
        for one in offset.parameters():
            one.data = torch.randn(one.shape, generator=make)
        offset.save(folder / "delta.safetensors", model="mine", hook_layer="1")
        with safe_open(folder / "delta.safetensors", framework="pt") as file:
            header, good = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        found = [*any_tensors("delta.safetensors", good, header)]
        listed = [key for key in ("groups", "parts") if key in header]
        for key in listed:
            for bad in (
                '["Female", "Female"]',
                '["Female"]',
                '["Female", null]',
                '["Female", ""]',
                '[["Female"], "Male"]',
            ):
                if (key, bad, len(listed)) != (
                    "groups",
                    '["Female"]',
                    2,
                ):  # it may be for fewer groups than were fitted
                    found.append(Damage(f"{key} {bad}", "delta.safetensors", tensors(good, {**header, key: bad})))
        for key in [*listed, *({"keep_error", "rank", "kind", "reads", "format"} & set(header))]:
            for bad in ("", "3.5", "null", "{", "[" * DEEP, '{"a": 1, "a": 2}', '"text"'):
                content = tensors(good, {**header, key: bad})
                found.append(Damage(f"{key} {bad[:8]!r}", "delta.safetensors", content, key))
        for key in [*listed, "format", *({"reads"} & set(header))]:
            without = {name: value for name, value in header.items() if name != key}
            found.append(Damage(f"without {key}", "delta.safetensors", tensors(good, without), key))
        if kind != "DenseReading":
            found.append(Damage("another SAE", "delta.safetensors", tensors(good, {**header, "sae": "0" * 64}), "SAE"))
        return found

    return write


def read_offset(folder: Path) -> object:
    from opinion_sae.delta.files import load_offset

    return load_offset(folder / "delta.safetensors", small_sae())


def read_dense_reading(folder: Path) -> object:
    from opinion_sae.delta.reading import DenseReading

    return DenseReading.load(folder / "delta.safetensors")


def dense(folder: Path) -> list[Damage]:
    from opinion_sae.delta.offsets import GroupDelta

    good = {"0": torch.rand(2, 3), "1": torch.rand(2, 3)}
    GroupDelta(["Female", "Male"], small_sae()).save(folder / "delta-0.safetensors")
    (folder / "dense.safetensors").write_bytes(tensors(good))
    return [*any_tensors("dense.safetensors", good, extra=False), *any_file("delta-0.safetensors")]


def read_dense(folder: Path) -> object:
    from opinion_sae.delta.files import load_dense

    return load_dense(folder, 2)


def answers(folder: Path) -> list[Damage]:
    good = {name: torch.rand(2, 3, 4).softmax(-1).log() for name in ("delta", "dense")}
    (folder / "answers.safetensors").write_bytes(tensors(good))
    odd = good["delta"].clone()
    odd[0, 0, 0] = float("nan")
    methods = ("missing", "one too many")  # there may be any
    return [
        *(one for one in any_tensors("answers.safetensors", good, nan=True) if not one.name.endswith(methods)),
        Damage("NaN in one option", "answers.safetensors", tensors({**good, "delta": odd}), "delta"),
        Damage("no logarithms", "answers.safetensors", tensors({**good, "delta": good["delta"].exp()}), "delta"),
    ]


def read_answers(folder: Path) -> object:
    from opinion_sae.delta.files import load_answers

    return load_answers(folder)


def stream(folder: Path) -> list[Damage]:
    good = {"tokens": torch.rand(5, 3), "held_out": torch.rand(4, 3)}
    (folder / "activations.safetensors").write_bytes(tensors(good))
    return [*any_tensors("activations.safetensors", good)]


def read_stream(folder: Path) -> object:
    from opinion_sae.model.activations import load_activations

    return load_activations(folder)


def shard(folder: Path) -> list[Damage]:
    good = {"training": torch.rand(5, 3), "prompts": torch.rand(2, 3), "held_out": torch.rand(4, 3)}
    (folder / "shard-0.safetensors").write_bytes(tensors(good, {"key": "mine"}))
    damages = any_tensors("shard-0.safetensors", good, {"key": "mine"})
    return [one for one in damages if one.name not in ("absent", "a link to itself")]  # then it is extracted


def read_shard(folder: Path) -> object:
    from opinion_sae.model.texts import read_shard

    return read_shard(folder / "shard-0.safetensors", "mine", 3)


def shard_texts(folder: Path) -> list[Damage]:
    good = {"key": "mine", "of": 3, "training": ["one é"], "prompts": [], "held_out": ["two"]}
    (folder / "texts.json").write_text(json.dumps(good), encoding="utf-8")
    zero = Damage("of 0", "texts.json", json.dumps({**good, "of": 0}).encode(), "of")
    return [*any_json("texts.json", good, " ".join(good)), zero]


def read_shard_texts(folder: Path) -> object:
    from opinion_sae.book.extract import read_kept

    return read_kept(folder / "texts.json")


def rows(folder: Path) -> list[Damage]:
    good = {"rows": torch.rand(2, 3, 4, 3)}
    (folder / "rows.safetensors").write_bytes(tensors(good))
    free = ("rows wider", "rows of nothing")  # any sizes may be there
    return [one for one in any_tensors("rows.safetensors", good) if one.name not in free]


def read_rows(folder: Path) -> object:
    from opinion_sae.effects.letter_rows import load_rows

    return load_rows(folder / "rows.safetensors")


def part(folder: Path) -> list[Damage]:
    raw = tensors({"p": torch.rand(2)}, {"key": "mine"})
    (folder / "part.safetensors").write_bytes(raw)
    damages = [one for one in any_file("part.safetensors") if one.name not in ("absent", "a link to itself")]
    return [*damages, Damage("cut short", "part.safetensors", raw[:-3])]


def read_kept(folder: Path) -> object:
    from opinion_sae.artifacts import read_part

    return read_part(folder / "part.safetensors", "mine")


def sae(k: int | None, threshold: bool = False) -> Callable[[Path], list[Damage]]:
    def write(folder: Path) -> list[Damage]:
        small_sae(k, threshold).save(folder / "sae")
        good = json.loads((folder / "sae" / "cfg.json").read_text())
        weights = {name: one.detach() for name, one in small_sae(k, threshold).state_dict().items()}
        needed = "architecture apply_b_dec_to_input normalize_activations" + (" k" if k else "")
        free = ("apply_b_dec_to_input missing", "normalize_activations missing")
        found = [one for one in any_json("sae/cfg.json", good, needed) if one.name not in free]
        for key, bad in (
            *(("k", True), ("k", 0), ("k", 9), ("k", "2"), ("d_in", "3"), ("d_in", 2.5), ("d_in", True)),
            *(("apply_b_dec_to_input", "false"), ("apply_b_dec_to_input", 0), ("metadata", []), ("metadata", "mine")),
            *(("architecture", "temporal"), ("rescale_acts_by_decoder_norm", "false")),
        ):
            if key != "k" or k:
                found.append(Damage(f"{key} {bad!r}", "sae/cfg.json", json.dumps({**good, key: bad}).encode(), key))
        weights_file = "sae/sae_weights.safetensors"
        of_weights = (one for one in any_tensors(weights_file, weights, extra=False))
        named = [one._replace(file="sae/sae_weights.safetensors") for one in of_weights]
        return [
            one for one in found if one.name not in ("absent", "a folder", "a link to itself", "a named pipe")
        ] + named

    return write


def read_sae(folder: Path) -> object:
    from opinion_sae.sae.autoencoder import load_sae

    found = load_sae(folder / "sae")
    return found, found.k, found.subtract_b_dec


def npz(folder: Path) -> list[Damage]:
    import io
    import zipfile

    good = {name: one.numpy() for name, one in small_sae(None, True).requires_grad_(False).state_dict().items()}

    def saved(arrays: dict[str, Any], save: Callable = np.savez) -> bytes:
        file = io.BytesIO()
        save(file, **arrays)
        return file.getvalue()

    def members(change: Callable[[str, bytes], bytes], flag: int = 0) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved(good))) as old, zipfile.ZipFile(file, "w") as new:
            for one in old.namelist():
                new.writestr(one, change(one, old.read(one)))
        raw = bytearray(file.getvalue())
        if flag:  # the flags of each entry of the directory
            place = raw.find(b"PK\1\2")
            while place >= 0:
                raw[place + 8] |= flag
                place = raw.find(b"PK\1\2", place + 4)
        return bytes(raw)

    def header(name: str, shape: str, kind: str = "<f4", nested: int = 0) -> bytes:
        said = (
            f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {'(' * nested}{shape}{')' * nested}, }}\n".encode()
        )
        array = b"\x93NUMPY\1\0" + len(said).to_bytes(2, "little") + said + bytes(64)
        return members(lambda one, old: array if one == f"{name}.npy" else old)

    class Harm:
        def __reduce__(self) -> tuple:
            return os.system, ("touch harm",)

    raw = saved(good)
    (folder / "sae").mkdir()
    (folder / "sae" / "params.npz").write_bytes(raw)
    found = {
        "cut short": raw[: len(raw) // 2],
        "packed": saved(good, np.savez_compressed),
        "encrypted": members(lambda _, old: old, flag=1),
        "unknown packing": raw.replace(b"\0\0\0\0\0\0", b"\0\0\7\0\0\0"),
        "grows": saved({**good, "W_enc": np.zeros((4000, 4000), np.float32)}, np.savez_compressed),
        "ten gigabytes said": header("W_enc", "(50000, 50000)"),
        "negative sizes": header("W_enc", "(-3, -4)"),
        "sizes past 64 bits": header("W_enc", "(99999999999, 99999999999)"),
        "deep": header("W_enc", "(3, 4)", nested=2000),
        "objects said": header("W_enc", "(3, 4)", "|O"),
        "not an array": members(lambda one, old: b"mine" if one == "W_dec.npy" else old),
        "version 9": members(lambda one, old: old.replace(b"NUMPY\1", b"NUMPY\11") if one == "W_dec.npy" else old),
        "objects": saved({**good, "W_dec": np.array([Harm()], dtype=object)}),
        "objects beside": saved({**good, "more": np.array([Harm()], dtype=object)}),
        "text": saved({**good, "b_dec": np.array(["a"])}),
        "a record": saved({**good, "b_dec": np.zeros(3, [("a", "f4")])}),
        "no members": saved({}),
    }
    places = {
        "grows": "W_enc",
        "encrypted": "W_enc",
        "ten gigabytes said": "W_enc",
        "text": "b_dec",
        "objects": "W_dec",
    }
    made = [Damage(name, "sae/params.npz", bad, places.get(name, "")) for name, bad in found.items()]
    for name, one in good.items():
        nan = one.copy()
        nan.flat[0] = np.nan
        for bad, changed in {
            **{"nan": nan, "complex": one + 1j, "whole numbers": (10 * one).astype(int), "an axis more": one[None]},
            **{"half of it": one[:-1], "true and false": one > 0},
        }.items():
            place = "" if bad == "half of it" else name  # one of the others may be what does not fit
            made.append(Damage(f"{name} {bad}", "sae/params.npz", saved({**good, name: changed}), place))
        without = {key: value for key, value in good.items() if key != name}
        made.append(Damage(f"{name} missing", "sae/params.npz", saved(without), name))
    return [*any_file("sae/params.npz"), *made]


def scope_of_gemma_3(folder: Path) -> list[Damage]:
    weights = small_sae(None, True).requires_grad_(False).state_dict()
    good = {name.replace("W_", "w_"): tensor for name, tensor in weights.items()}
    (folder / "sae").mkdir()
    (folder / "sae" / "params.safetensors").write_bytes(tensors(good))
    found = any_tensors("sae/params.safetensors", good)
    return [one._replace(place=one.place.replace("w_", "W_")) for one in found]


RUN = {"profile": {"model": "packaged:mine", "hook_layer": 3}, "machine": "2 cores"} | {
    "notebooks": {"01_surveys": {"seconds": 1.5, "peak_memory_mb": 300}}
}


def published(folder: Path) -> list[Damage]:
    head = "method,group,split,n_questions,kl,tv,alignment,kl_low,kl_high,alignment_low,alignment_high,gap_closed"
    cells = "question,9,0.5,0.4,0.7,0.4,0.6,0.6,0.8,0"
    table = "\n".join([head, *(f"{m},{g},{cells}" for m in ("delta", "dense") for g in ("all", "Male")), ""])
    floor = "group,kl,tv,alignment\nall,0.1,0.1,0.9\nMale,0.1,0.1,0.9\n"
    pairs = "method,reference,group,kl_difference,low,high\ndelta,dense,all,-0.1,-0.2,-0.05\ndelta,dense,Male,0,0,0\n"
    place = folder / "mine"
    place.mkdir()
    for name, text in (("alignment", table), ("floor", floor), ("comparisons", pairs)):
        (place / f"{name}.csv").write_text(text)
    (place / "numbers.json").write_text('{"a": "1"}')
    (place / "run.json").write_text(json.dumps(RUN))
    needed = "profile profile.model machine notebooks notebooks.01_surveys.seconds"
    doubled = table + table.split("\n")[1] + "\n"
    return [
        *any_table("mine/alignment.csv", table, "method group kl alignment", "kl alignment", rows=False),
        *any_table("mine/floor.csv", floor, "group kl", "kl", rows=False),
        *any_table("mine/comparisons.csv", pairs, "method reference kl_difference", "kl_difference", rows=False),
        Damage("a row twice", "mine/alignment.csv", doubled.encode(), "row 6"),
        *(one for one in any_json("mine/run.json", RUN, needed) if not one.name.endswith(("NaN", "seconds -0.5"))),
        Damage("NaN", "mine/run.json", json.dumps({**RUN, "machine": float("nan")}).encode()),
        *any_json("mine/numbers.json", {"a": "1"}),
    ]


def read_published(folder: Path) -> object:
    from opinion_sae.book.published import load_published, run_table

    found = load_published("mine", folder)
    run_table({"mine": found})
    return list(found)


def texts(folder: Path) -> list[Damage]:
    (folder / "texts").mkdir()
    for name in ("a", "b"):
        (folder / "texts" / f"{name}.txt").write_text(f"text {name} é", encoding="utf-8")
    return [one for one in any_text("texts/b.txt", "text b é") if one.name not in ("absent", "empty")]


def read_texts(folder: Path) -> object:
    from opinion_sae.model.texts import folder_texts

    return folder_texts(str(folder / "texts"))


ASKED = "question,options,key,ordinal,toplines\nIs it so?,Yes|No,a,true,60|40\nIs it not?,Yes|No|Both,b,false,\n"


def asked(folder: Path) -> list[Damage]:
    (folder / "questions.csv").write_text(ASKED)
    changed = [
        ("Is it so?", "", "row 2"),
        ("Is it so?", "x" * 5000, "row 2"),
        ("Yes|No,a", "Yes,a", "row 2"),
        ("Yes|No,a", "Yes|Yes,a", "row 2"),
        ("Yes|No,a", "|,a", "row 2"),
        ("Yes|No,a", "|".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ1") + ",a", "row 2"),
        ("Both,b", "Both,a", "row 3"),
        ("true", "perhaps", "row 2"),
        ("60|40", "60|50", "row 2"),
        ("60|40", "60", "row 2"),
        ("60|40", "nan|40", "row 2"),
        ("60|40", "-60|160", "row 2"),
        ("60|40", "inf|-inf", "row 2"),
        ("60|40", "x|40", "row 2"),
        ("toplines", "topline", "topline"),
        ("ordinal", "key", "key"),
    ]
    return [
        *any_table("questions.csv", ASKED, "question options"),
        *(
            Damage(f"{o} as {n[:9]}", "questions.csv", ASKED.replace(o, n, 1).encode(), place)
            for o, n, place in changed
        ),
    ]


def read_asked(folder: Path) -> object:
    from opinion_sae.use.asked import read_questions

    return read_questions(folder / "questions.csv")


def notebook(folder: Path) -> list[Damage]:
    code = {
        "cell_type": "code",
        "metadata": {},
        "execution_count": 1,
        "outputs": [],
        "source": ["import opinion_sae\n"],
    }
    given = {**code, "metadata": {"tags": ["parameters"]}, "source": ["seed: int = 0\n", "model: str = 'a'"]}
    good = {"cells": [given, code, {"cell_type": "markdown", "metadata": {}, "source": "text"}], "nbformat": 4}
    (folder / "a.ipynb").write_text(json.dumps(good))
    needed = "cells cells.0.source cells.0.metadata cells.0.cell_type cells.0.outputs"
    free = ("list of lists", "metadata missing")  # the first cell is then what is wrong
    found = [one._replace(place="") if one.name.endswith(free) else one for one in any_json("a.ipynb", good, needed)]
    found = [one for one in found if one.name != "cells.0.outputs missing"]
    for name, cells in {
        **{"no parameters": [code], "parameters twice": [given, given], "a cell of text": [given, "text"]},
        **{"not Python": [{**given, "source": "seed ="}], "no literal": [{**given, "source": "seed = f()"}]},
        **{"a call": [{**given, "source": "print()"}], "deep": [{**given, "source": "seed = " + "(" * 300}]},
        **{"source of numbers": [{**given, "source": [1, 2]}], "tags no list": [{**given, "metadata": {"tags": 3}}]},
        **{"NUL in source": [{**given, "source": "seed = 1\0"}]},
    }.items():
        found.append(Damage(name, "a.ipynb", json.dumps({**good, "cells": cells}).encode()))
    return found


def read_notebook(folder: Path) -> object:
    from opinion_sae.book.execute import declared
    from opinion_sae.book.reach import imported, source_of

    return declared(folder / "a.ipynb"), sorted(map(str, imported(source_of(folder / "a.ipynb"))))


ABOUT = ("about.json", "coverage.csv", "labels.csv", "offset.safetensors", "questions.safetensors", "sae.safetensors")


def kept(folder: Path) -> list[Damage]:
    """A published run; what is in the files other than about.json is under hashes, which are made anew here."""
    from opinion_sae.delta.offsets import GroupDelta
    from opinion_sae.use import published_run
    from opinion_sae.use.published_run import sha256_of

    place, made, groups = folder / "kept", small_sae(), ("Female", "Male")
    place.mkdir()
    GroupDelta(groups, made).save(place / "offset.safetensors")
    (place / "sae.safetensors").write_bytes(tensors({name: one.detach() for name, one in made.state_dict().items()}))
    direction = {"direction": torch.rand(3)}
    (place / "questions.safetensors").write_bytes(tensors(direction))
    levels = [(task, level) for task in published_run.TASKS for level in published_run.LEVELS]
    cells = [(task, group, level, level, 9, 0.1, 0.9, 1.5) for task, level in levels for group in ("all", *groups)]
    coverage = pd.DataFrame(cells, columns=list(published_run.COLUMNS)).to_csv(index=False)
    (place / "coverage.csv").write_text(coverage)
    (place / "labels.csv").write_text("latent,label\n1,roads\n3,rain\n")
    about = {
        **{"format": published_run.FORMAT, "model": "mine", "model_hash": "0", "dtype": "float32", "hook_layer": 1},
        **{"option_orders": 1, "survey": "town", "survey_hash": "0", "n_questions": 2, "unlike": 0.5},
        "groups": [{"attribute": "sex", "group": group, "people": 9.5} for group in groups],
        "sae": {"k": 2, "subtract_b_dec": True, "metadata": {}},
        "files": {name: sha256_of(place / name) for name in ABOUT[1:]},
    }
    (place / "about.json").write_text(json.dumps(about))

    def under_hash(name: str, content: bytes) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            path.write_bytes(content)
            changed = {**about, "files": {**about["files"], name: sha256_of(path)}}
            (path.parent / "about.json").unlink()  # a link to the good one
            (path.parent / "about.json").write_text(json.dumps(changed))

        return write

    needed = "model model_hash dtype hook_layer option_orders survey groups groups.0.people unlike sae sae.k files"
    free = ("unlike -0.5", "sae.k null")  # a threshold, and an SAE without top-k
    found = [one for one in any_json("kept/about.json", about, needed) if one.name not in free]
    for name in ABOUT[1:]:
        found += [one for one in any_file(f"kept/{name}")]
    of_tensors = any_tensors("kept/questions.safetensors", direction, extra=False)
    of_tables = [
        *any_table("kept/labels.csv", "latent,label\n1,roads\n3,rain\n", "latent label", "latent", rows=False),
        *any_table("kept/coverage.csv", coverage, "task group factor", rows=False),
    ]
    for one in (*of_tensors, *of_tables):
        if isinstance(one.content, bytes) and one.name not in ("CRLF", "with a mark", "a header alone"):
            name = one.file.removeprefix("kept/")
            found.append(one._replace(name=f"{one.name}, under its hash", content=under_hash(name, one.content)))
    return found


def read_run(folder: Path) -> object:
    from opinion_sae.use.published_run import load_published_run

    return load_published_run(folder / "kept")


def facts(folder: Path) -> list[Damage]:
    text = "subject,question,a,b,c,d,right\narts,Who?,He,She,It,They,A\narts,What?,This,That,These,Those,B\n"
    (folder / "facts.csv").write_text(text)
    (folder / "passages.txt").write_text("One.\n\nTwo.\n")
    passages = (one for one in any_text("passages.txt", "One.\n\nTwo.\n"))
    changed = [
        ("They,A", "They,E", "row 2"),
        ("What?", "Who?", "row 3"),
        ("This", "That", "row 3"),
        ("Who?", "", "row 2"),
    ]
    return [
        *any_table("facts.csv", text, "subject question a right"),
        *(Damage(f"{o} as {n}", "facts.csv", text.replace(o, n, 1).encode(), place) for o, n, place in changed),
        *passages,
    ]


def read_facts(folder: Path) -> object:
    from opinion_sae.effects.facts import load_facts, load_passages

    return load_facts(path=folder / "facts.csv"), load_passages(path=folder / "passages.txt")


def selection(folder: Path) -> list[Damage]:
    rows = [f"15,{fold},{mode},0.1,0,9,0.5,0.1,abc" for fold in (0, 1) for mode in ("shared", "both")]
    text = "\n".join(["layer,fold,mode,l1,kl_weight,latents,kl,fvu,settings", *rows, ""])
    (folder / "selection.csv").write_text(text)
    found = any_table("selection.csv", text, "layer mode kl settings", "layer fold kl", rows=False)
    free = ("absent", "a header alone", "a link to itself")  # it need not be there
    return [one for one in found if one.name not in free]


def read_selection(folder: Path) -> object:
    from opinion_sae.book.select import chosen_by_fold, grid_of

    grid = grid_of(folder / "selection.csv")
    return grid, chosen_by_fold(grid)


UNNEEDED = ("absent", "a header alone", "a link to itself")  # of a file that need not be there


def labels(folder: Path) -> list[Damage]:
    rows = "3,statistics,words,roads,0.5,,0.6,0.7,20,20,ab\n5,statistics,words,None,0.5,0.4,0.6,0.7,20,20,ab\n"
    text = "latent,by,judge,label,detection,random_detection,fuzzing,random_fuzzing,contexts,marks,sae\n" + rows
    (folder / "labels.csv").write_text(text)
    found = any_table("labels.csv", text, "latent by label fuzzing contexts", "latent fuzzing contexts", rows=False)
    return [one for one in found if one.name not in UNNEEDED]


def read_labels(folder: Path) -> object:
    from opinion_sae.book.cards import read_labels

    return read_labels(folder)


def other_seeds(folder: Path) -> list[Damage]:
    text = "latent,seeds,of,cosine\n0,1,2,0.75\n1,0,2,0.5\n"
    (folder / "evaluate_latents.csv").write_text(text)
    (folder / "evaluate.json").write_text('{"hashes": {"sae": "s"}}')
    found = any_table("evaluate_latents.csv", text, "latent seeds of cosine", "latent seeds cosine", rows=False)
    found = [*found, *any_json("evaluate.json", {"hashes": {"sae": "s"}}, "hashes hashes.sae")]
    return [one for one in found if one.name not in UNNEEDED]


def read_other_seeds(folder: Path) -> object:
    from opinion_sae.book.evaluated import evaluated_latents

    return evaluated_latents(folder, "s")


def reply(folder: Path) -> list[Damage]:
    one = endpoint(folder)
    one.write("what?", 5)
    (name,) = one.unsent
    good = {"url": "u", "request": {}, "reply": "roads"}
    (folder / f"{name}.json").write_text(json.dumps(good))
    return [one for one in any_json(f"{name}.json", good, "reply") if one.name not in UNNEEDED]


def endpoint(folder: Path) -> Any:
    from opinion_sae.use.endpoint import Endpoint

    return Endpoint("http://localhost:1/v1", "some", folder, len)


def read_reply(folder: Path) -> object:
    return endpoint(folder).write("what?", 5)


def model(folder: Path) -> list[Damage]:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=4, **sizes))
    made.save_pretrained(folder / "model")
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "<unk>": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>").save_pretrained(
        folder / "model"
    )
    weights = (folder / "model" / "model.safetensors").read_bytes()
    found = [*any_text("model/config.json", (folder / "model" / "config.json").read_text())]
    found += any_file("model/model.safetensors")
    found.append(Damage("cut short", "model/model.safetensors", weights[:-9]))
    found += any_text("model/tokenizer.json", (folder / "model" / "tokenizer.json").read_text())
    found += [Damage("deep", f"model/{name}.json", b"[" * DEEP) for name in ("config", "tokenizer")]
    found += [Damage(bad, "model/config.json", bad.encode()) for bad in ("[]", "{}", '{"model_type": "mine"}')]
    other = ("model/tokenizer.json", "model/model.safetensors")  # they might be in files of other names
    return [one for one in found if one.name != "absent" or one.file not in other]


def read_model(folder: Path) -> object:
    from opinion_sae.model.weights import load_weights

    lm, tokenizer, _ = load_weights(str(folder / "model"), torch.float32)
    return lm, tokenizer("a b a")["input_ids"]


STUDY = {"machine": "two cores", "throughput": {}, "missing": [], "seconds": {"total": 60.0}}


def study(folder: Path) -> list[Damage]:
    numbers = [f"{name}{end}" for name in ("accuracy", "worst", "gain") for end in ("", "_low", "_high")]
    rows = [f"general,{kind},{','.join(['0.5'] * 9)}" for kind in ("confounded,0", "retrained,64")]
    text = "\n".join([",".join(["features", "treatment", "taken", *numbers]), *rows, ""])
    (folder / "shift").mkdir()
    (folder / "shift" / "accuracy.csv").write_text(text)
    (folder / "shift" / "study.json").write_text(json.dumps(STUDY))
    found = any_table("shift/accuracy.csv", text, "features treatment worst gain_low", "worst gain_low", rows=False)
    needed = "machine throughput missing seconds seconds.total"
    found = [*found, *any_json("shift/study.json", STUDY, needed)]
    return [one for one in found if one.name not in UNNEEDED and not one.name.endswith(("-0.5", "of lists"))]


def read_study(folder: Path) -> object:
    from opinion_sae.book.study_tables import load_tables, note

    found = load_tables("shift", folder)
    return found, note(found)


# of the book's own JSON: what is written, and the fields that are looked at
RECORDED = {
    "run.json": ({"notebooks": {"01_a": {"seconds": 1.5, "peak_memory_mb": 300}}}, "notebooks notebooks.01_a.seconds"),
    "01_a.json": ({"seconds": 1.5, "peak_memory_mb": 300}, "seconds peak_memory_mb"),
    "cards.json": (
        {"sae": "ab", "axes": [], "cards": [{"role": "read", "latent": 3, "axis": 1}]},
        "sae cards cards.0.role cards.0.latent cards.0.axis",
    ),
    "explorer.json": (
        {"questions": [{"key": "a", "latents": [3]}]},
        "questions questions.0.key questions.0.latents",
    ),
    "texts.json": ({"prompts": ["a"], "held_out": ["b"], "training": ["c"]}, "prompts held_out training"),
    "full_size.json": (
        {
            **{"machine": {"cores": 2, "cpu": "mine"}, "model": {"weights_gb": 5.0}, "seconds": 5.0, "peak_gb": 7.0},
            **{"work": {"questions": 9, "groups": 2, "option_orders": 2, "prompt_tokens": 90}, "limit": 1.5},
            **{"peak_over_weights": 1.4, "stages": [{"stage": "load", "seconds": 1.0, "peak_gb": 2.0}]},
        },
        "machine machine.cores work.questions model.weights_gb seconds stages stages.0.seconds",
    ),
}


def recorded(file: str) -> Callable[[Path], list[Damage]]:
    def write(folder: Path) -> list[Damage]:
        good, needed = RECORDED[file]
        (folder / file).write_text(json.dumps(good))
        found = any_json(file, good, needed)
        able = {"run.json": ("absent",), "full_size.json": ("-0.5",), "cards.json": ("sae missing", "axis null")}
        able["explorer.json"] = ("absent",)
        return [one for one in found if not one.name.endswith(able.get(file, ("nothing",)))]

    return write


def read_recorded(file: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from opinion_sae.book import recorded
        from opinion_sae.book.build import explored
        from opinion_sae.book.cards import read_cards

        return {
            "run.json": lambda path: recorded.read_costs(path, recorded.COST),
            "01_a.json": lambda path: recorded.read_cost(path, recorded.COST),
            "cards.json": read_cards,
            "explorer.json": explored,
            "texts.json": recorded.read_texts,
            "full_size.json": recorded.read_full_size,
        }[file](folder / file)

    return read


BIOS = ("hard_text", "profession", "gender")


def biographies(kind: str) -> Callable[[Path], list[Damage]]:
    file, numbers, texts = f"a.{kind}", ("profession", "gender"), ["He nurses, and well.", "She paints."]
    frame = pd.DataFrame([(f"{n} {texts[n % 2]}", 21 - 8 * (n % 2), n // 2 % 2) for n in range(80)], columns=list(BIOS))

    def raw(rows: pd.DataFrame) -> bytes:
        if kind == "parquet":
            return rows.to_parquet(None)
        lines = rows.to_json(orient="records", lines=True) if kind == "jsonl" else rows.to_csv(index=False)
        return str(lines).encode()

    def changed(column: str, bad: object) -> bytes:
        return raw(frame.assign(**{column: [bad, *frame[column].tolist()[1:]]}))

    def write(folder: Path) -> list[Damage]:
        good = raw(frame)
        (folder / file).write_bytes(good)
        if kind == "csv":
            found = [*any_table(file, good.decode(), " ".join(BIOS), " ".join(numbers))]
        else:
            found = [*(any_text(file, good.decode()) if kind == "jsonl" else any_file(file))]
            found += [Damage("cut short", file, good[: len(good) // 2]), Damage("deep", file, b"[" * DEEP)]
            found += [Damage(f"without {one}", file, raw(frame.drop(columns=one)), one) for one in BIOS]
        found += [Damage(f"{one} {bad}", file, changed(one, bad), one) for one in numbers for bad in (-1, 28)]
        found += [
            Damage("no rows", file, raw(frame[:0])),
            Damage("no text", file, changed("hard_text", " "), "hard_text"),
        ]
        if kind == "parquet":
            true, whole = frame.assign(gender=frame["gender"] > 0), {"profession": float, "gender": "Int64"}
            found += [Damage("true and false", file, raw(true), "gender")]
            found += [Damage("no whole numbers", file, raw(frame.astype(whole)), "profession")]
            found += [
                Damage("bytes", file, raw(frame.assign(hard_text=frame["hard_text"].str.encode("utf-8"))), "hard_text")
            ]
            found += [Damage("lists", file, raw(frame.assign(gender=[[0]] * 80)), "gender")]
            found += [
                Damage("without its end", file, good[:-4]),
                Damage("another end", file, good[:-8] + b"\xff" * 4 + good[-4:]),
            ]
        return found

    return write


def read_biographies(kind: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from opinion_sae.studies.biographies import load_biographies

        return load_biographies(folder / f"a.{kind}")

    return read


DOORS = {
    "profile": Door(profile, read_profile),
    "sweep": Door(sweep, read_sweep),
    "tidy CSV": Door(tidy, read_survey("{}/town.csv")),
    "counted survey": Door(counted, read_survey("{}/town")),
    "packed survey": Door(packed, read_survey("{}/town")),
    "OpinionQA": Door(respondents, read_survey(f"{{}}/{WAVE}")),
    "OpinionQA counts": Door(answer_counts, read_survey("{}/counts")),
    "SubPOP": Door(lines, read_survey("subpop:{}/a.jsonl")),
    "GlobalOpinionQA": Door(world, read_survey("globalopinionqa:{}/world.csv")),
    **{f"offsets: {kind}": Door(offsets(kind), read_offset) for kind in ("GroupDelta", "LowRankDelta", "ReadingDelta")},
    "offsets: DenseReading": Door(offsets("DenseReading"), read_dense_reading),
    "dense vectors": Door(dense, read_dense),
    "answers": Door(answers, read_answers),
    "activations": Door(stream, read_stream),
    "shard": Door(shard, read_shard),
    "texts of shards": Door(shard_texts, read_shard_texts),
    "rows": Door(rows, read_rows),
    "parts": Door(part, read_kept),
    "SAE: topk": Door(sae(2), read_sae),
    "SAE: jumprelu": Door(sae(None, True), read_sae),
    "SAE: npz": Door(npz, read_sae),
    "SAE: Gemma Scope 2": Door(scope_of_gemma_3, read_sae),
    "published tables": Door(published, read_published),
    "study": Door(study, read_study),
    **{f"recorded: {file}": Door(recorded(file), read_recorded(file)) for file in RECORDED},
    "texts": Door(texts, read_texts),
    "questions": Door(asked, read_asked),
    "notebook": Door(notebook, read_notebook),
    "published run": Door(kept, read_run),
    "facts": Door(facts, read_facts),
    "selection": Door(selection, read_selection),
    "labels": Door(labels, read_labels),
    "latents of other seeds": Door(other_seeds, read_other_seeds),
    "kept reply": Door(reply, read_reply),
    "model": Door(model, read_model),
    **{f"biographies: {one}": Door(biographies(one), read_biographies(one)) for one in ("parquet", "csv", "jsonl")},
}


def failures(name: str, place: Path, apart: bool = False) -> tuple[int, dict[str, str]]:
    """How many inputs a door has, and what is wrong with which; `apart`, each is read in a process of its own."""
    door, good = DOORS[name], place / "good"
    good.mkdir(parents=True)
    damages, found = door.write(good), {}
    read = shown(door.read(good))
    for number, damage in enumerate(damages):
        folder = place / str(number) / "in"
        shutil.copytree(good, folder, copy_function=os.link)
        wrong = _apart(door, folder, damage, read) if apart else outcome(door, folder, damage, read)
        found |= {f"{name}, {damage.file}, {damage.name}": wrong} if wrong else {}
        shutil.rmtree(place / str(number))
    return len(damages), found


def _apart(door: Door, folder: Path, damage: Damage, good: object) -> str:
    """`outcome`, also where a reader in another language holds on to the process or ends it."""
    ends = os.pipe()
    child = os.fork()
    if not child:
        os.write(ends[1], outcome(door, folder, damage, good).encode()[:4000] or b"-")
        os._exit(0)
    os.close(ends[1])
    ready, _, _ = select.select([ends[0]], [], [], LIMIT + 2)
    said = (os.read(ends[0], 4000).decode() or "depths: ended the process") if ready else f"hangs: more than {LIMIT} s"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ends[0])
    return said.removeprefix("-")


def main(names: list[str]) -> None:
    import warnings

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    total, kinds = 0, Counter()
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(names or DOORS):
            count, found = failures(name, Path(place) / str(number), apart=True)
            total += count
            kinds.update(wrong.partition(":")[0] for wrong in found.values())
            for which, wrong in found.items():
                print(f"{which}: {wrong}", flush=True)
    print(f"{total} damaged inputs, {kinds.total()} failures: {dict(kinds)}")


if __name__ == "__main__":
    import opinion_sae  # noqa: F401

    main(sys.argv[1:])
