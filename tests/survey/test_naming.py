"""Which questions name a group, by the rule in `survey.naming`."""

import pytest

from opinion_sae.survey.naming import names_a_group, names_of, naming

GROUPS = ("Democrat", "18-29", "Some college", "Lower income", "Democrat & Female")


@pytest.mark.parametrize(
    "text",
    [
        "Do most Democrats agree?",
        "A REPUBLICAN said so.",  # no group of this survey, but a party
        "Should women's work be paid alike?",
        "What of African Americans?",
        "Are people aged 18-29 lazy?",
        "Did you go to some college?",
    ],
)
def test_a_name_in_any_spelling_counts(tiny, text):
    assert names_a_group(tiny.question(text=text), GROUPS)


@pytest.mark.parametrize(
    "text",
    [
        "Do other people agree?",  # 'Other' is a group's name too
        "Should lower taxes come first?",
        "Is a republic best?",  # no whole word
        "Is it a mixed blessing for managers and colleges?",
    ],
)
def test_other_words_do_not(tiny, text):
    assert not names_a_group(tiny.question(text=text), GROUPS)


def test_options_count_and_parts_of_intersections(tiny):
    assert names_a_group(tiny.question(options=("Yes", "Only for men")), ())
    assert {"democrat", "female", "lower income"} <= names_of(GROUPS) and "other" not in names_of(GROUPS)


def test_a_survey_at_once(tiny, two_groups):
    questions = [tiny.question("a"), tiny.question("b", text="Is it so for men?"), tiny.question("c")]
    survey = tiny.survey(two_groups.shares, questions)
    assert naming(survey).tolist() == [False, True, False]
