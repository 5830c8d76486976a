"""Two methods compared: which is better, and a p that is fair when neither is."""

import numpy as np
import pytest

from opinion_sae.score.gap_effects import gap_effects
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.score.statistics import holm
from opinion_sae.score.toplines import everyone


def test_p_is_fair_when_two_methods_are_equally_good(made):
    found = []
    for seed in range(40):
        survey, truth, _ = made.simulated(questions=40, groups=2, seed=seed)
        rng = np.random.default_rng(seed)
        ours, theirs = (made.noisy(truth, 0.1, rng) for _ in range(2))
        effects = gap_effects(survey, [ours], [theirs], np.arange(40), "alone", replicates=200)
        found.append(effects["gap_r"]["g0"].p)
    assert np.mean(np.array(found) < 0.05) < 0.16 and 0.35 < np.mean(found) < 0.65


def test_a_better_method_is_found_better_and_none_than_itself(made):
    survey, truth, _ = made.simulated(questions=80)
    rng = np.random.default_rng(0)
    good, bad = ([made.noisy(truth, amount, rng) for _ in range(2)] for amount in (0.03, 0.3))
    effects = gap_effects(survey, good, bad, np.arange(80), replicates=300)
    assert list(effects) == ["gap_r", "group_kl_closed", "kl"] and list(effects["kl"])[0] == "all"
    for name in ("gap_r", "group_kl_closed"):
        found = effects[name]["all"]
        assert 0 < found.low < found.effect < found.high and found.p == 1 / 301
        assert (found.n_questions, found.n_seeds) == (80, 2)
    assert effects["kl"]["all"].high < 0
    table = gaps_table(survey, {"good": good, "bad": bad}, np.arange(80), 300).set_index(["task", "method", "group"])
    for name in effects:
        difference = table.loc[("toplines", "good", "g1"), name] - table.loc[("toplines", "bad", "g1"), name]
        assert effects[name]["g1"].effect == pytest.approx(difference)
    same = gap_effects(survey, good, good, np.arange(80), replicates=50)["gap_r"]["all"]
    assert same.effect == same.low == same.high == 0 and same.p == 1
    assert np.isfinite(holm(np.array([effects["gap_r"][g].p for g in survey.groups]))).all()
    against = gap_effects(survey, good, [everyone(survey)], np.arange(80), replicates=50)["group_kl_closed"]["all"]
    assert against.effect == pytest.approx(table.loc[("toplines", "good", "all"), "group_kl_closed"])
    with pytest.raises(ValueError, match="2 seeds and 3"):
        gap_effects(survey, good, [*bad, bad[0]], np.arange(80), replicates=5)
    few = gap_effects(survey, good, bad, np.zeros(80, int), replicates=5)["gap_r"]["all"]
    assert np.isnan(few.p) and few.effect == effects["gap_r"]["all"].effect
