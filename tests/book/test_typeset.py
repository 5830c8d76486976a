"""A table on a page: caption, heads, names, digits, intervals; no pandas index; at most twelve columns."""

import re

import numpy as np
import pandas as pd
import pytest

from opinion_sae.book.typeset import WIDEST, sentence, table


def cells(made, tag="td"):
    return re.findall(rf"<{tag}[^>]*>([^<]*)</{tag}>", made.html)


def test_a_column_and_its_interval_become_one_in_the_digits_asked_for():
    frame = pd.DataFrame({"method": ["delta", "mine"], "kl": [0.25, 1], "kl_low": [0.2, np.nan], "kl_high": [0.3, 2.0]})
    made = table(frame, "Two <methods>", 2)
    assert cells(made) == ["Δ", "0.25 (0.20\u00a0to\u00a00.30)", "mine", "1.00"]  # in one piece on a phone
    assert cells(made, "th") == ["method", "KL (nats)"] and "<caption>Two &lt;methods&gt;</caption>" in made.html
    assert set(made._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert 'tabindex="0"' in made.html and 'aria-label="Two &lt;methods&gt;"' in made.html


def test_counts_of_latents_are_whole_numbers():
    frame = pd.DataFrame({"latents per group": [4085.64, 39.0, 7.25, np.nan], "kl": [39.0, 1, 1, 1]})
    assert cells(table(frame, "Counts", 4))[:6] == ["4086", "39.0000", "39", "1.0000", "7.2", "1.0000"]


def test_low_and_high_belong_to_the_column_before_them_and_to_no_other():
    frame = pd.DataFrame({"n_questions": [3], "difference": [-0.00001], "low": [-0.1], "high": [0.1], "share": [None]})
    assert cells(table(frame, "One")) == ["3", "0.000 (-0.100\u00a0to\u00a00.100)", ""]
    assert cells(table(pd.DataFrame({"delta": [1234.5, 0.00012]}), "Significant", None)) == ["1.23e+03", "0.00012"]


def test_a_sentence_begins_with_a_capital():
    shown = sentence("the text, Δ in it.")._repr_mimebundle_()
    assert shown == {"text/plain": "The text, Δ in it.", "text/markdown": "The text, Δ in it."}


def test_a_named_index_is_a_column_and_a_counted_one_is_not():
    frame = pd.DataFrame({"a": [1]}, index=pd.Index(["x<y"], name="key"))
    assert cells(table(frame, "Named")) == ["x&lt;y", "1"] and cells(table(frame.reset_index(drop=True), "Not")) == [
        "1"
    ]
    both = frame.set_index(pd.MultiIndex.from_tuples([("delta", 2)], names=["reference", "fold"]))
    assert cells(table(both, "Two levels")) == ["Δ", "2", "1"]


def test_blocks_of_columns_carry_their_name_and_their_own_intervals():
    part = pd.DataFrame({"kl_difference": [0.1], "low": [0.0], "high": [0.2]}, index=pd.Index(["delta"], name="method"))
    made = table(pd.concat({"one": part, "other": part + 1}, axis=1), "Blocks", 1)
    assert cells(made) == ["Δ", "0.1 (0.0\u00a0to\u00a00.2)", "1.1 (1.0\u00a0to\u00a01.2)"]
    assert cells(made, "th") == ["method", "one: KL, difference (nats)", "other: KL, difference (nats)"]


def test_what_is_too_wide_to_read_is_refused():
    frame = pd.DataFrame([range(WIDEST + 1)], columns=[f"c{n}" for n in range(WIDEST + 1)])
    assert len(cells(table(frame.iloc[:, 1:], "Just"))) == WIDEST
    with pytest.raises(ValueError, match="Too wide: 13 columns, at most 12"):
        table(frame, "Too wide")


def test_a_table_without_rows_is_a_sentence():
    assert table(pd.DataFrame({"kl": []}), "Nobody `chose`").html is None
    assert table(pd.DataFrame(), "Nobody `chose`").text == "Nothing to show: Nobody `chose`"
