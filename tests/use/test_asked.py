"""Questions of one's own: what is read, and one error for each mistake, with its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opinion_sae.use.asked import read_questions, toplines

HEAD = "question,options,key,ordinal,toplines\n"


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "questions.csv"
    path.write_bytes(text.encode(encoding))
    return read_questions(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_with_everything(tmp_path, encoding):
    text = HEAD + '"Is it, then?",Yes | No,then,TRUE,62|38\nDürfen wir das?,Ja|Nein|Weiß nicht,,false,\n'
    first, second = read(tmp_path, text, encoding)
    assert first.question.key == "then" and first.question.text == "Is it, then?" and first.question.ordinal
    assert first.question.options == ("Yes", "No") and first.toplines == pytest.approx((0.62, 0.38))
    assert second.question.key == "q2" and second.question.options == ("Ja", "Nein", "Weiß nicht")
    assert second.toplines == () and not second.question.ordinal


def test_the_two_columns_that_are_needed_are_enough(tmp_path):
    (only,) = read(tmp_path, "options,note,question,note\nYes|No,first,Is it so?,\n")  # and others are ignored
    assert only.question.text == "Is it so?" and only.question.key == "q1" and only.toplines == ()


@pytest.mark.parametrize(
    "text, message",
    [
        ("question,key\nIs it?,a\n", "column 'options' is missing"),
        ("question;options\nIs it?;a|b\n", "column 'question' is missing; the header is question;options"),
        ("question,options,options\nIs it?,a|b,a|b\n", "column 'options' is there twice"),
        ("question,options,key,key\nIs it?,a|b,a,b\n", "column 'key' is there twice"),
        ("question,options,Ordinal\nIs it?,a|b,true\n", "column 'Ordinal' is not known; 'ordinal' would be"),
        ("question,options,topline\nIs it?,a|b,50|50\n", "column 'topline' is not known; 'toplines' would be"),
        ("", "the file is empty"),
        ("question,options\n", "no row under the header"),
        ("question,options\nIs it?,a|b,c\n", "row 2: 3 fields where the header has 2"),
        (HEAD + "Is it?,a|b,,,\n  ,a|b,,,\n", "row 3, column 'question': there is no text"),
        (HEAD + "x" * 4001 + ",a|b,,,\n", "row 2, column 'question': 4001 characters; at most 4000"),
        (HEAD + "Is it?,a,,,\n", "row 2, column 'options': question 'q1' has 1 options; 2 to 26"),
        (HEAD + "Is it?,,,,\n", "row 2, column 'options': question 'q1' has 1 options"),
        (HEAD + f"Is it?,{'|'.join(map(str, range(27)))},,,\n", "has 27 options; 2 to 26"),
        (HEAD + "Is it?,a| |b,,,\n", "row 2, column 'options': an option is empty"),
        (HEAD + "Is it?,a|b|a ,,,\n", "row 2, column 'options': the same option twice"),
        (HEAD + "Is it?,a|b,,perhaps,\n", "row 2, column 'ordinal': 'perhaps' is neither true nor false"),
        (HEAD + "Is it?,a|b,k,,\nIs he?,a|b,k,,\n", "row 3, column 'key': 'k' is also the key of row 2"),
        (HEAD + "Is it?,a|b,q2,,\nIs he?,a|b,,,\n", "row 3, column 'key': 'q2' is also the key of row 2"),
        (HEAD + "Is it?,a|b,,,50\n", "row 2, column 'toplines': 1 shares for 2 options"),
        (HEAD + "Is it?,a|b,,,50|half\n", "row 2, column 'toplines': 'half' is not a number"),
        (HEAD + "Is it?,a|b,,,120|-20\n", "row 2, column 'toplines': .* a share is a number from 0 up"),
        (HEAD + "Is it?,a|b,,,nan|1\n", "row 2, column 'toplines': .* a share is a number from 0 up"),
        (HEAD + "Is it?,a|b,,,60|37\n", "row 2, column 'toplines': the shares add up to 97; those of all who"),
        (HEAD + "Is it?,a|b,,,0|0\n", "the shares add up to 0"),
    ],
)
def test_one_error_with_its_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "questions.csv"))


def test_a_file_that_is_not_there_or_not_utf8(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_questions(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="line 2: byte 0xfc is not UTF-8; save the file as UTF-8"):
        read(tmp_path, "question,options\nDürfen wir?,Ja|Nein\n", "latin-1")


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=8), st.booleans())
def test_shares_rounded_to_whole_percent_are_taken_and_add_up_to_one(people, percent):
    rounded = [round(100 * n / sum(people)) for n in people]
    text = "|".join(f"{share}%" if percent else f"{share / 100}" for share in rounded)
    found = toplines(text, tuple(map(str, people)), "here")
    assert sum(found) == pytest.approx(1)
    assert found == pytest.approx([n / sum(people) for n in people], abs=0.01 + 0.005 * len(people))
