"""The sentence under a figure is made from its table: another table, another sentence."""

import numpy as np
import pandas as pd
import pytest

from opinion_sae.artifacts import read_json
from opinion_sae.book import sentences
from opinion_sae.book.paths import ROOT


def table(name):
    return pd.read_csv(ROOT / "results" / "default" / f"{name}.csv")


def overall(frame):
    return frame[frame["group"] == "all"]


def by_model(name):
    return {"a model": overall(table(name)).set_index("method")}


# sentence: its table, and how that is turned
TURNED = {
    sentences.group_distance: (lambda: table("surveys"), lambda t: t.assign(floor=1.0)),
    sentences.sae_training: (lambda: table("sae_history"), lambda t: t.assign(validation_fvu=0.5)),
    sentences.joint_training: (lambda: table("joint_history"), lambda t: t.assign(validation_kl=0.5)),
    sentences.against: (lambda: overall(table("controls")), lambda t: t.assign(low=0.1, high=0.2)),
    sentences.alignment: (lambda: table("alignment"), lambda t: t.assign(kl=t["kl"].max() - t["kl"])),
    sentences.alignment_by_group: (lambda: table("alignment"), lambda t: t.assign(kl=-t["kl"])),
    sentences.transfer: (lambda: table("transfer"), lambda t: -t),
    sentences.latent_path: (lambda: table("path"), lambda t: t.assign(kl=t["kl"] + 1)),
    sentences.latent_path_by_group: (lambda: table("path"), lambda t: t.assign(kl=-t["kl"])),
    sentences.tilt: (lambda: table("../studies/constant/tilt"), lambda t: t.assign(value=t["value"] + t["t"])),
    sentences.dose: (lambda: table("dose"), lambda t: t.assign(kl=-t["kl"])),
    sentences.dose_choice: (lambda: table("dose_choice"), lambda t: t.assign(strength=1.0, low=-0.1)),
    sentences.doses: (lambda: table("doses"), lambda t: t.assign(shared=t["shared"] + 1)),
    sentences.gap_methods: (lambda: table("gaps"), lambda t: t.assign(gap_r_low=-1.0)),
    sentences.trade_off: (lambda: table("side_effects"), lambda t: t.assign(value=-t["value"])),
    sentences.claims: (lambda: table("claims"), lambda t: t.assign(verdict="contradicted")),
    sentences.compare_models: (
        lambda: by_model("alignment"),
        lambda ts: {name: t.assign(kl=1 - t["kl"]) for name, t in ts.items()},
    ),
    sentences.groups_by_model: (lambda: {"a model": table("alignment")}, lambda ts: {"another": ts["a model"]}),
}


@pytest.mark.parametrize("sentence", TURNED, ids=lambda sentence: sentence.__name__)
def test_it_turns_with_its_table(sentence):
    make, turn = TURNED[sentence]
    said, turned = sentence(make()), sentence(turn(make()))
    assert said != turned
    assert said.endswith(".") and "nan" not in said + turned


def test_methods_are_compared_over_as_many_seeds_and_without_everybodys_answers():
    kl = {"unsteered": 0.4, "delta": 0.3, "everyone": 0.01, "delta-reading": 0.2, "words": 0.1}
    found = pd.DataFrame({"method": list(kl), "kl": kl.values(), "group": "all"})
    said = sentences.alignment(found)
    assert said == (
        "Of what does not look up everybody's answers, the lowest mean KL is that of the read-out of words (0.100); "
        "the unsteered model has 0.400, Δ 0.300."
    )
    assert sentences.seed_counts(found) == "All rows of the table are of one seed."
    several = found.assign(n_seeds=[1, 1, 1, 5, 1])
    said = sentences.alignment(several)
    assert "over one seed that of the read-out of words (0.100) and over 5 seeds that of the reading Δ (0.200)" in said
    assert said.endswith("Δ 0.300 (over one seed).")
    counts = sentences.seed_counts(several)
    assert counts.startswith("The table has 1 row over 5 seeds, each with") and "and 3 rows of one seed" in counts
    by_name = found.set_index("method")
    said = sentences.compare_models({"a model": by_name})
    assert "look up everybody's answers, the lowest mean KL is with a model that of the read-out of words" in said


def test_dead_latents_are_defined_where_they_are_counted():
    said = sentences.sae_training(table("sae_history"))
    assert said.endswith("of the latents are dead: they fired on no token of training since the point before.")


def test_claims_are_counted_by_their_seeds():
    tested = table("evaluate_claims").query("group == 'all'")
    several = (tested["n_seeds"] > 1).sum()
    assert (
        f"{len(tested)} claims ({several} over 5 seeds, {len(tested) - several} over one seed), "
        in sentences.claims(tested)
    )
    assert sentences.claims_counted(tested.assign(n_seeds=1)) == f"{len(tested)} claims"


def test_training_curves_are_told_by_stage():
    history = pd.DataFrame(
        {"stage": ["shared"] * 2 + ["deviation"] * 2, "fold": 0, "validation_kl": [0.4, 0.3, 0.3, 0.25]}
    )
    assert "from 0.400 to 0.300 with the shared part, and to 0.250" in sentences.delta_training(history)


def test_pairs_and_places():
    apart = np.array([[0, 0.1, 0.3], [0.1, 0, 0.2], [0.3, 0.2, 0]])
    assert sentences.group_pairs(apart, "abc") == "Furthest apart are a and c (0.300), nearest a and b (0.100)."
    assert "No two groups" in sentences.group_pairs(np.full((2, 2), np.nan), "ab")
    rows = [(2, 0, 0.9, 0.5, 3), (2, 1, 0.1, 0.5, 3)]
    places = pd.DataFrame(rows, columns=["options", "place", "model", "people", "questions"])
    assert sentences.position(places) == (
        "The model gives the first option 0.90 on average, people 0.50; by place alone, 0.40 of the model's answers "
        "would have to move."
    )


def test_differences_count_groups_on_either_side():
    rows = [("all", -1, 1), ("a", -2, -1), ("b", -1, 1), ("c", 1, 2), ("d", -2, -1)]
    found = pd.DataFrame(rows, columns=["group", "low", "high"]).assign(method="delta", reference="dense")
    assert "Δ is closer than the dense vector for 2 of 4 groups and further for 1" in sentences.differences(
        found, "delta", "dense"
    )


def test_what_was_not_run_is_said():
    assert "not trained here" in sentences.sae_training(pd.DataFrame(columns=["step"]))
    assert "has not been run" in sentences.layer_grid(pd.DataFrame()) + sentences.claims(
        pd.DataFrame(columns=["group"])
    )
    assert "No published run" in sentences.compare_models({}) + sentences.groups_by_model({})


def test_what_the_sae_leaves_is_told_where_offsets_read_and_write():
    quality = {"fvu": 0.15, "fvu_at_questions": 0.065, "fvu_at_answers": 0.132, "ce_recovered": 0.995}
    said = sentences.sae_quality(quality)
    assert "leaves 15.0% of the variance of held-out text, 6.5% at the questions' tokens, which offsets read" in said
    assert "and 13.2% at the prompts' last tokens, where they write, unexplained" in said and "keeps 99.5%" in said
    other = sentences.sae_quality({name: value for name, value in quality.items() if name != "fvu_at_questions"})
    assert "of held-out text and 13.2% at the prompts'" in other


def test_the_published_sae_is_good_enough_where_offsets_read_and_write():
    quality = read_json(ROOT / "results" / "default" / "sae.json")
    assert max(quality["fvu_at_questions"], quality["fvu_at_answers"]) <= 0.15


def test_layers_speed_and_growth():
    grid = pd.DataFrame({"mode": ["unsteered", "both", "shared"], "layer": [3, 5, 7], "l1": 0.1, "kl": [0.1, 0.2, 0.3]})
    assert "0.200 on average over folds, is at layer 5 with γ = 0.1" in sentences.layer_grid(grid)
    assert "1 of 2 comparisons; the ratios run from 0.5 to 20" in sentences.speed(
        pd.DataFrame({"ratio": [0.5, 20, None]})
    )
    columns = {"ratio": [0.5, 20, None], "reached": ["below", "aim", "below"], "peer": ["one", "another", None]}
    ratios = pd.DataFrame(columns, index=["step", "read", "add"])
    assert "20, and 1 of them lies below what was asked for at least (step beside one)." in sentences.speed(ratios)
    met = sentences.speed(ratios.assign(reached="aim"))
    assert met.endswith("and 0 of them lie below what was asked for at least.")
    slopes = pd.DataFrame({"time, fitted": [0.9, 1.1], "memory, fitted": [0.5, 0.6]})
    said = sentences.growth(slopes)
    assert "time with slopes from 0.90 to 1.10 and the more memory with slopes from 0.50 to 0.60" in said


def test_joint_training_from_scratch_is_held_against_reconstruction_alone():
    names = ["from scratch, e kept", "from scratch, reconstruction alone"]
    costs = pd.DataFrame({"fvu": [0.6, 0.5], "fvu_at_answers": [1.0, 4.0]}, index=names)
    assert "leaves 1.20 times" in sentences.joint_costs(costs) and "0.25 times" in sentences.joint_costs(costs)
    assert "none was trained" in sentences.joint_costs(costs.iloc[:1])


def test_small_numbers_keep_two_digits():
    assert sentences.with_ends(-0.00034, -0.0007, -2e-5, 3) == "-0.00034 (-0.00070 to -0.00002)"
    assert sentences.with_ends(0.25, -0.0001, None, 3) == "+0.250"
    assert sentences.with_ends(0.25, -0.0001, 0.5, 3) == "+0.250 (+0.000 to +0.500)"
    assert sentences.with_ends(0.0, float("nan"), None, 2) == "+0.00"
