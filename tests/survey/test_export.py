"""A survey written for others: the shipped ones come back whole, in OpinionQA's layout and as tidy CSV."""

import json
from dataclasses import replace

import numpy as np
import pytest

from opinion_sae.survey import load_survey
from opinion_sae.survey.export import _whole_people, whole_survey, write_opinionqa, write_tidy


def test_whole_people_add_up():
    assert _whole_people(np.array([1.5, 1.25, 0.25])).tolist() == [2, 1, 0]
    assert _whole_people(np.array([0.4, 0.4, 0.4])).tolist() == [1, 0, 0]
    assert _whole_people(np.zeros(3)).tolist() == [0, 0, 0]


def test_opinionqa_layout_by_hand(tmp_path):
    survey = load_survey("gss", attributes=["party", "party x sex"]).select(questions=[0, 1])
    write_opinionqa(survey, tmp_path / "poll")
    names = sorted(path.name for path in (tmp_path / "poll").iterdir())
    files = ["POLPARTY_SEX_data.json", "POLPARTY_data.json"]
    assert names == [*files, "info.csv", "metadata.csv", "provenance.json"]
    crossed, single = (json.loads((tmp_path / "poll" / name).read_text(encoding="utf-8")) for name in files)
    assert set(single["natspac"]) == {"MC_options", "question_text", "Democrat", "Independent", "Republican"}
    # weighted counts, scaled by what weighting costs over all people
    scale = survey.everyone_effective[0] / survey.everyone[0].sum()
    for group, name in enumerate(("Democrat", "Independent", "Republican")):
        np.testing.assert_allclose(list(single["natspac"][name].values()), survey.counts[group, 0, :3] * scale, atol=1)
        both = sum(sum(crossed["natspac"][name][sex].values()) for sex in ("Female", "Male"))
        assert both == pytest.approx(sum(single["natspac"][name].values()), abs=1)
    provenance = json.loads((tmp_path / "poll" / "provenance.json").read_text(encoding="utf-8"))
    assert "NORC" in provenance["attribution"] and "effective" in provenance["counts"]


@pytest.mark.parametrize("name", ["gss", "nonvoters-2020"])
def test_shipped_surveys_come_back_in_opinionqas_layout(tmp_path, name):
    survey = whole_survey(name)
    write_opinionqa(name, tmp_path / name)
    back = load_survey(str(tmp_path / name), 1, list(dict.fromkeys(survey.attributes)))
    assert back.questions == survey.questions and set(back.groups) <= set(survey.groups)
    order = [survey.groups.index(group) for group in back.groups]
    large = (survey.effective[order] > 200) & (back.respondents > 0)
    assert large.sum() > 0.3 * large.size
    assert np.abs(back.shares - survey.shares[order])[large].max() < 0.01
    assert np.abs(back.everyone_shares - survey.everyone_shares).max() < 0.01
    np.testing.assert_allclose(back.everyone_effective, survey.everyone_effective, rtol=0.02)


def test_a_shipped_survey_comes_back_from_tidy_csv(tmp_path):
    survey = whole_survey("nonvoters-2020")
    write_tidy("nonvoters-2020", tmp_path / "nonvoters-2020.csv")
    back = whole_survey(str(tmp_path / "nonvoters-2020.csv"))
    assert back.questions == survey.questions and back.groups == survey.groups
    np.testing.assert_array_equal(back.respondents, survey.respondents)
    np.testing.assert_allclose(back.counts, survey.counts, rtol=1e-5)


def test_uneven_and_missing_scales_come_back(tmp_path):
    survey = load_survey("nonvoters-2020").select(questions=[0, 1])
    first, second = survey.questions
    uneven = replace(first, positions=(1.0, 2.0, 2.5, 4.0), cluster="pair")
    changed = replace(survey, questions=(uneven, replace(second, ordinal=False, cluster="pair")))
    write_opinionqa(changed, tmp_path / "nonvoters-2020")
    assert load_survey(str(tmp_path / "nonvoters-2020"), 1).questions == changed.questions
