"""A chapter gets its parts from the notebook's parameters, each when it is first asked for."""

import numpy as np
import pytest

from opinion_sae.book import chapter, paths
from opinion_sae.book.chapter import open_chapter
from opinion_sae.survey import load_survey, question_clusters, question_folds

DATA = {"survey": "nonvoters-2020", "attributes": ["sex"], "min_respondents": 50, "max_questions": 8}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return lambda **names: open_chapter({"output": "results/mine", "np": np, "_i": "In[1]"} | names)


def test_the_survey_and_its_folds_are_those_of_the_parameters(opened):
    made = opened(**DATA, folds=4, seed=3)
    survey = load_survey("nonvoters-2020", 50, ["sex"], 8)
    assert made.survey.questions == survey.questions and made.survey.groups == survey.groups == ("Female", "Male")
    np.testing.assert_array_equal(made.folds, question_folds(survey, 4, 3))
    np.testing.assert_array_equal(made.clusters, question_clusters(survey))
    assert [sorted(split.test) for split in made.splits] == [list(np.flatnonzero(made.folds == f)) for f in range(4)]
    assert made.run.results == paths.ROOT / "results" / "mine" and made.run.work.is_dir()


def test_the_model_its_answers_and_the_sae(opened, tiny, lm, monkeypatch):
    calls = []
    monkeypatch.setattr("opinion_sae.model.language_model.load_language_model", lambda *a: calls.append(a) or lm)
    made = opened(**DATA, model="tiny", dtype="float32", hook_layer=2, option_orders=1)
    assert calls == []
    assert made.answers is made.answers and made.answers.lm is made.lm is lm and len(made.answers.prompts) == 8
    assert calls == [("tiny", "float32")]
    sae = tiny.sae()
    sae.save(made.run.work / "sae")
    assert made.sae.sha256() == sae.sha256() and not made.sae.W_dec.requires_grad


def test_a_parameter_that_the_notebook_lacks_is_named(opened):
    with pytest.raises(ValueError, match="no parameter 'folds', which this needs; it has survey, "):
        _ = opened(**DATA).folds
    with pytest.raises(ValueError, match="no parameter 'output'"):
        chapter.open_chapter({"seed": 0})
