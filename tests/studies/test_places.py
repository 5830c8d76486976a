"""Where group differences can be read: the cells of the map, and what a persona changes."""

import dataclasses

import numpy as np
import pytest
import torch

from opinion_sae.methods.from_features import dense, model_candidates
from opinion_sae.methods.kernel_ridge import kernel_ridge
from opinion_sae.methods.personas import persona_answers
from opinion_sae.methods.question_tokens import question_tokens
from opinion_sae.model.prompts import build_prompts
from opinion_sae.model.reading import PLACES
from opinion_sae.score.gaps import places as places_of
from opinion_sae.score.gaps_table import gaps_table
from opinion_sae.score.metrics import option_positions
from opinion_sae.studies import named, places
from opinion_sae.studies.layers import place_streams
from opinion_sae.survey import question_clusters


@pytest.fixture(scope="module")
def made(book, tmp_path_factory):
    """Every item of a small book, under a persona four questions of each fold."""
    given = dataclasses.replace(book, folder=tmp_path_factory.mktemp("places"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "ASKED", 4)
        parts = {name: item.make() for name, item in places.items(given).items()}
        yield given, parts, places.tables(given, parts)


def test_the_stream_is_that_of_one_prompt_alone(tiny, lm):
    """Layer by layer, at each place, for prompts of different length; the first layer is the embedding."""
    prompts = build_prompts(lm.tokenizer, tiny.questions, 1, "Somebody says:")
    found = place_streams(lm, prompts)
    assert found.shape == (3, len(lm.layers) + 1, len(prompts), lm.width)
    for item, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt.tokens])
        streams = [lm.embed(tokens)[0], *(lm.residual(tokens, layer)[0] for layer in range(len(lm.layers)))]
        weights = torch.linspace(-1, 1, len(prompt.order))[:, None]
        for layer, x in enumerate(streams):
            torch.testing.assert_close(found[0, layer, item], x[-1], atol=1e-4, rtol=1e-4)
            ends = (weights * x[list(prompt.ends)]).mean(0)
            torch.testing.assert_close(found[2, layer, item], ends, atol=1e-4, rtol=1e-4)


def test_the_cells_at_the_hook_layer_are_the_dense_read_outs(made):
    given, _, tables = made
    survey, layer = given.survey, given.answers.hook_layer
    tokens = question_tokens(given.lm, survey.questions, layer)
    methods = model_candidates(tokens, given.sae, given.seed)
    whole = "question and options"
    items = torch.arange(len(survey.questions))  # the book asks in one order
    ends = given.answers.read(None, "options", items).double().numpy()
    candidates = {
        "last": methods["direct-dense-last"],
        "question": {whole: methods["direct-dense"][whole]},
        "options": {"ends": dense(ends)},
    }
    log_probs = {place: [kernel_ridge(survey, given.splits, own)[0]] for place, own in candidates.items()}
    wanted = gaps_table(survey, log_probs, question_clusters(survey), given.replicates, given.seed)
    wanted = wanted[(wanted["task"] == "toplines") & (wanted["group"] == "all")].set_index("method")
    cells = tables["places"].set_index(["place", "layer"])
    for place in PLACES:
        for column in ("gap_r", "gap_r_low", "gap_r_high"):
            assert cells.loc[(place, layer), column] == pytest.approx(wanted.loc[place, column], abs=1e-4)


def test_the_map_has_every_cell_and_no_layer_is_better_than_the_best(made):
    given, _, tables = made
    cells = tables["places"]
    layers = list(range(-1, len(given.lm.layers)))
    for place in PLACES:
        own = cells[cells["place"] == place]
        assert own["layer"].tolist() == layers and (own["n_questions"] == 24).all()
        best = own.loc[own["gap_r"].idxmax()]
        assert best["behind_low"] == best["behind_high"] == 0
        words = made[1]["words"]["gap_r"]
        np.testing.assert_allclose(own["over_words"], made[1][place]["gap_r"][:, 0] - words[0])
        low, high = np.percentile(made[1][place]["gap_r"][-1, 1:] - words[1:], [2.5, 97.5])
        assert own["over_words_low"].iloc[-1] == pytest.approx(low) and own["over_words_high"].iloc[
            -1
        ] == pytest.approx(high)
    assert cells["place"].tolist().count("words") == 1
    # the last token of every prompt is the same, so before any layer it says nothing of the question
    nothing = made[1]["last"]["gap_r"][0, 0]
    constant = kernel_ridge(given.survey, given.splits, {"none": lambda train: np.zeros((24, 1))})[0]
    scored = gaps_table(given.survey, {"none": [constant]}, question_clusters(given.survey), 0)
    assert nothing == pytest.approx(
        scored.set_index(["method", "task", "group"]).loc[("none", "toplines", "all")].gap_r
    )


def test_a_persona_enters_above_the_embedding(made):
    given, parts, tables = made
    cells = tables["personas"].set_index(["place", "layer"])
    for place in PLACES:
        shares = cells.loc[place]["named"]
        assert not np.nan_to_num(shares[-1]).any() and (shares.drop(-1) > 0).all() and (shares.drop(-1) < 1).all()
        assert (cells.loc[place]["same"].drop(-1) <= shares.drop(-1) + 1e-9).all()
    assert set(tables["pairs"]["attribute"]) == {"sex", "party"}
    assert (tables["personas"]["n_questions"] == 12).all() and (tables["personas"]["n_pairs"] == 2).all()
    assert -1 <= cells.loc["answers"]["pair_r"].item() <= 1
    survey, asked = given.survey, places.Ground(given).asked
    told = persona_answers(given.lm, survey, 1, places.STYLE, given.folder / "told", asked.tolist()).log_probs
    of_model = places_of(np.exp(told[[2, 3]]), option_positions(tuple(survey.questions[q] for q in asked), 2))
    np.testing.assert_allclose(parts["persona-party"]["said"], of_model[0] - of_model[1], atol=1e-5)
    some = {name: part for name, part in parts.items() if name not in ("persona-sex", "words")}
    assert list(places.tables(given, some)) == ["places"] and places.tables(given, {}) == {}


def test_streams_are_run_once(made, monkeypatch):
    given, _, _ = made
    before = places.Ground(given).streams
    monkeypatch.setattr(places, "place_streams", None)
    np.testing.assert_array_equal(places.Ground(given).streams, before)


def test_the_pair_is_the_one_that_lies_furthest_apart_beyond_its_noise(tiny):
    at = {"f": 0.5, "m": 0.6, "d": 0.2, "i": 0.5, "r": 0.9}
    shares = np.array([[[1 - place, place]] * 4 for place in at.values()])
    questions = [tiny.question(f"q{i}", "ab") for i in range(4)]
    survey = tiny.survey(shares, questions, tuple(at), ["sex", "sex", "party", "party", "party"])
    assert named.far_pairs(survey) == {"sex": (0, 1), "party": (2, 4)}
    np.testing.assert_allclose(named.pair_gaps_of(survey, {"party": (2, 4)}), [[-0.7] * 4])
    alone = survey.select(groups=[0, 2])
    with pytest.raises(ValueError, match="no two groups of one attribute"):
        named.far_pairs(alone)


def test_questions_that_name_a_group_are_not_asked(tiny):
    questions = [tiny.question(f"q{i}", "ab", text) for i, text in enumerate(["Roads?", "Women?", "Rivers?", "Men?"])]
    survey = tiny.survey(np.full((2, 4, 2), 0.5), questions, ("Women", "Men"))
    asked = named.asked_of(survey, [tiny.split([1], [2], [0, 3]), tiny.split([0], [3], [1, 2])], {"sex": (0, 1)}, 5)
    assert asked.tolist() == [0, 2]


def test_shares_by_hand():
    """d = (2, 0) and (4, 0): N = (4 + 16) / 4 = 5, of it the same 2 x 9 / 4 = 4.5; m = +-1, so Q = 2."""
    apart, middle = np.array([[[2.0, 0.0], [4.0, 0.0]]]), np.array([[0.0, 1.0], [0.0, -1.0]]) + 7
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    shares, same = named.named_shares(apart, middle @ middle.T, weights)
    assert shares[0] == pytest.approx(5 / 7) and same[0] == pytest.approx(4.5 / 7)
    assert shares[1] == same[1] == pytest.approx(1)  # one question twice: nothing of it varies but the persona
    assert np.isnan(named.named_shares(np.zeros((1, 2, 2)), np.zeros((2, 2)), weights)[0]).all()


@pytest.fixture
def planted():
    """Three attributes, 60 questions in three folds: how far apart groups are is one direction of what differs."""
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(3, 60, 8)) + rng.normal(size=(3, 1, 8))
    fold = np.arange(60) % 3
    splits = [((fold != f) & (fold != (f + 1) % 3), fold == (f + 1) % 3, fold == f) for f in range(3)]
    return apart, apart @ rng.normal(size=8) + np.array([[1.0], [-2.0], [0.0]]), splits


def test_a_direction_that_all_attributes_share_is_found(planted):
    apart, actual, splits = planted
    actual[0, 5] = np.nan  # a pair that was not asked
    found = named.pair_read_out(apart, actual, splits)
    there, actual = ~np.isnan(actual), actual - np.nanmean(actual, 1, keepdims=True)  # levels are not read
    assert np.corrcoef(found[there], actual[there])[0, 1] > 0.95 and not np.isnan(found).any()
    turned = apart * np.array([1, -1, 1])[:, None, None]  # by attribute: no one direction serves
    worse = named.pair_read_out(turned, actual, splits)
    assert np.corrcoef(worse[there], actual[there])[0, 1] < 0.8


def test_what_does_not_differ_predicts_nothing(planted):
    """The level of the questions fitted to would go against that of those held out."""
    apart, actual, splits = planted
    same = np.zeros_like(apart) + apart[:, :1]
    np.testing.assert_allclose(named.pair_read_out(same, actual, splits), 0, atol=1e-9)


def test_held_out_questions_take_no_part(planted):
    apart, actual, splits = planted
    test = splits[0][2]
    before = named.pair_read_out(apart, actual, splits[:1])
    assert np.isnan(before[:, ~test]).all()
    after = named.pair_read_out(apart, np.where(test, -actual, actual), splits[:1])
    np.testing.assert_array_equal(before, after)
