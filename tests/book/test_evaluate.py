"""All comparisons together: every name, resumed where it stopped, and a claims page from them."""

import dataclasses
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import Item, made, recalled, write_csv, write_json
from opinion_sae.book import evaluate
from opinion_sae.book import evaluated as shown
from opinion_sae.book.claims import CLAIMS, claims_page
from opinion_sae.book.evaluate import Inputs
from opinion_sae.book.figures.gaps import gap_methods, learning_curve
from opinion_sae.book.paths import Run
from opinion_sae.book.profile import load_profile
from opinion_sae.delta.held_out import Split, by_question
from opinion_sae.delta.settings import FitSettings
from opinion_sae.effects import text_before as told
from opinion_sae.effects.facts import Facts
from opinion_sae.effects.side_effects import side_effects_table
from opinion_sae.effects.text_before import Elsewhere
from opinion_sae.methods import suite
from opinion_sae.methods.from_features import read_only, word_candidates
from opinion_sae.methods.personas import persona_residuals
from opinion_sae.methods.question_tokens import question_tokens
from opinion_sae.model.answers import AnswerPath
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.score.metrics import score
from opinion_sae.survey import survey_hash

FOLDS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
SPLITS = by_question(FOLDS)
SETTINGS = [FitSettings(epochs=1, lr=0.1, shared_lr=0.5, seed=seed) for seed in range(2)]
FITTED = {"shared-delta", "delta"}


@pytest.fixture(scope="module")
def survey(tiny):
    rng = np.random.default_rng(0)
    words = "taxes schools rivers police bread music trains winter horses banks islands towers".split()
    questions = [
        dataclasses.replace(tiny.question(f"q{i}", "ab", f"{word}?", "xyz"[i % 3]), survey="one" if i < 6 else "two")
        for i, word in enumerate(words)
    ]
    return tiny.survey(rng.dirichlet(np.ones(2), (4, 12)), questions, "fmdr", ["sex", "sex", "party", "party"])


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, 1, orders=1)


@pytest.fixture(scope="module")
def sae():
    W_dec = torch.nn.functional.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    return SparseAutoencoder(W_dec.T.clone(), torch.zeros(48), W_dec, torch.zeros(32), k=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def tokens(lm, survey):
    return question_tokens(lm, survey.questions, 1)


@pytest.fixture(scope="module")
def book(answers, tokens, sae, survey):
    """What the chapters leave of the first seed."""
    chosen = SETTINGS[0]
    fitted, fits = suite.of_seed(answers, tokens, sae, survey, SPLITS, chosen)
    shared, deltas = fits["shared-delta"].offsets, fits["delta"].offsets
    fitted |= suite.rest_of_seed(answers, survey, SPLITS, shared, deltas, chosen)
    others = {"unsteered": answers.predict().numpy(), "delta-joint": fitted["delta"]}
    others["delta-selected"] = fitted["shared-delta"]
    others["diff-means"] = suite.persona_directions(answers, survey, SPLITS).log_probs
    others |= read_only(survey, SPLITS, {"words": word_candidates(survey)})[0]
    return {**fitted, **others, **suite.references(answers, survey, SPLITS)[0]}


@pytest.fixture(scope="module")
def elsewhere(lm, tiny):
    questions = tuple(tiny.question(f"f{i}", "ABCD", f"Which is {i}?") for i in range(13))
    return Elsewhere(lm, Facts(questions, np.arange(13) % 4), [f"They say it is {i} miles." for i in range(13)])


@pytest.fixture(scope="module")
def crossed(tiny, survey):
    names = ["f & d", "f & r", "m & d", "m & r"]
    shares = np.random.default_rng(1).dirichlet(np.ones(2), (4, 12))
    return tiny.survey(shares, survey.questions, names, ["sex x party"] * 4)


@pytest.fixture(scope="module")
def given(answers, sae, survey, folder, book, elsewhere, crossed):
    return Inputs(answers, lambda seed: sae, survey, SPLITS, folder, book, elsewhere, SETTINGS, crossed)


@pytest.fixture(scope="module")
def steps(given):
    """What there is after each item."""
    return list(evaluate.evaluation(given))


@pytest.fixture(scope="module")
def evaluated(steps):
    return steps[-1]


@pytest.fixture(scope="module")
def tables(evaluated):
    return evaluated.tables


def test_every_method_is_there_with_its_seeds(tables, book, answers, survey):
    moved = {"random-latents", "random-latents-deviation", "sign-flip", "sign-flip-deviation"}
    reads = {"delta-reading", "delta-reading-64", "dense-reading"}
    twice = (
        FITTED
        | moved
        | reads
        | {"dense", "shuffled-groups", "permuted-decoder", "direct", "direct-shuffled", "words+direct"}
    )
    twice |= {"shuffled-questions", "shuffled-groups-reading", "random-dictionary", "random-read-latents"}
    left_out = FITTED | reads | {"words", "direct", "direct-shuffled", "words+direct"}
    once = {name + suffix for name in left_out for suffix in ("-by-topic", "-by-survey")} | (set(book) - twice)
    once |= {"left-out-shared", "left-out-sibling", "prompt-qa", "prompt-bio", "prompt-portray", "prompt-best"}
    once |= {"few-shot", "lora"}
    read_out = {"calibrated-shared", "calibrated", "unembedding", "probe", "uniform", "everyone", "position-prior"}
    assert once >= read_out | {"diff-means"} and set(tables) == twice | once
    assert {len(tables[name]) for name in twice} == {2} and {len(tables[name]) for name in once} == {1}
    for found in tables.values():
        for table in found:
            assert table.shape in ((4, 12, 2), (1, 12, 2))
            np.testing.assert_allclose(np.exp(table).sum(-1), 1, rtol=1e-5)  # so every question is answered


def test_what_is_worth_most_comes_first_and_each_step_has_what_is_done(steps):
    names = "reading-1 controls-1 split-by-topic split-by-survey crossed left-out learning-0.125 learning-0.25"
    names += " learning-0.5 prompt-qa prompt-bio prompt-portray few-shot lora-0 lora-1 lora-2"
    assert [step.missing for step in steps] == [names.split()[done:] for done in range(1, 17)]
    first = steps[0]
    assert len(first.tables["delta-reading"]) == 2 and len(first.tables["dense"]) == 1 and not first.cells
    assert "lora" not in steps[-2].tables and list(first.learning) == [1.0]  # of a LoRA in part nothing is said


def test_only_the_kinds_asked_for_are_made(given, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "learned_from", lambda *about: {name: given.book[name] for name in suite.LEARNING})
    steps = list(evaluate.evaluation(replace(given, folder=tmp_path), ["learning"]))
    assert [sorted(step.learning)[0] for step in steps] == [0.125] * 3 and len(steps[-1].missing) == 13
    again = list(evaluate.evaluation(replace(given, folder=tmp_path), ["learning"]))
    assert len(again) == 1 and again[0].missing == steps[-1].missing


def test_fewer_questions_are_part_of_more_and_the_same_are_tested():
    split = Split("one", np.arange(40), np.arange(40, 56), np.arange(56, 60))
    half, eighth = (suite.with_fewer(split, share, 0) for share in (0.5, 0.125))
    assert (len(half.train), len(half.validation), len(eighth.train), len(eighth.validation)) == (20, 8, 5, 2)
    assert set(eighth.train) < set(half.train) < set(split.train) and half.test is split.test
    np.testing.assert_equal(suite.with_fewer(split, 1.0, 0).train, split.train)


def test_an_intersection_left_out_is_answered_by_the_sum_of_its_groups_codes(evaluated, answers, sae, crossed):
    found = evaluated.crossed
    assert set(found) == {"delta-reading-fitted", "delta-reading-left-out"}
    for table in found.values():
        np.testing.assert_allclose(np.exp(table).sum(-1), 1, rtol=1e-5)
    other = crossed.counts.copy()
    other[0] = other[0, :, ::-1]  # what people of 'f & d' answered plays no part in what is said of them
    changed = suite.leave_intersections_out(answers, sae, replace(crossed, counts=other), SPLITS)
    np.testing.assert_array_equal(changed["delta-reading-left-out"][0], found["delta-reading-left-out"][0])
    assert not np.array_equal(changed["delta-reading-left-out"][1], found["delta-reading-left-out"][1])


def test_side_effects_of_what_is_told_are_measured_on_all_there_is(evaluated, survey):
    cells = evaluated.cells
    assert set(cells) == {"prompt-qa", "prompt-bio", "prompt-portray", "few-shot", "lora"}
    for method, found in cells.items():
        assert set(found) == {
            "kl", "alignment", "others_kl", "entropy", "option_mass", "accuracy", "text_loss", "next_token_kl"
        }  # fmt: skip
        assert not np.isnan(found["option_mass"]).any() and found["option_mass"].shape == (4, 12)
        for name in ("accuracy", "text_loss", "next_token_kl"):
            assert found[name].shape == (4, 13)
            assert (~np.isnan(found[name])).sum(0).tolist() == [1] * 13, (method, name)  # each by a quarter of 4
        assert np.nanmin(found["next_token_kl"]) > 1e-3
        assert set(found["accuracy"][~np.isnan(found["accuracy"])]) <= {0, 1}
    plain = {name: np.zeros_like(values) for name, values in cells["lora"].items()}
    table = side_effects_table(survey, {"unsteered": plain, **cells}, np.arange(12), 50, 0)
    assert table.loc[table["quantity"] == "accuracy_change", "n"].max() == 13


def test_what_is_done_is_read_and_other_settings_are_fitted_anew(given, evaluated, monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("fitted again")

    for module, name in ((evaluate, "fit_frozen"), (suite, "of_seed"), (suite, "on_other_splits"), (told, "fit_lora")):
        monkeypatch.setattr(module, name, refuse)
    (again,) = evaluate.evaluation(given)
    for before, after in zip(evaluated[:2], again[:2], strict=True):
        for name, found in before.items():
            np.testing.assert_equal(found, after[name])
    with pytest.raises(AssertionError, match="fitted again"):
        list(evaluate.evaluation(replace(given, settings=[replace(one, epochs=2) for one in SETTINGS])))


def test_what_was_made_under_other_terms_is_made_anew(tmp_path):
    path = tmp_path / "a.safetensors"
    assert recalled(path, ["one"]) is None
    made(path, Item(["one"], lambda: {"x": np.ones(2)}))
    assert recalled(path, ["one"])["x"].tolist() == [1, 1] and recalled(path, ["two"]) is None
    made(path, Item(["two"], lambda: {"x": np.zeros(2)}))
    assert recalled(path, ["one"]) is None and recalled(path, ["two"])["x"].tolist() == [0, 0]


def test_gaps_of_seeds_splits_and_fewer_questions(given, evaluated, survey):
    found = evaluate.gap_tables(given, evaluated, 20)
    gaps = found["gaps"].set_index(["task", "method", "group"]).sort_index()
    assert "everyone" not in found["gaps"]["method"].tolist()
    assert gaps.loc[("toplines", "delta-reading", "all"), "n_seeds"] == 2
    seeds = found["gaps_by_seed"].set_index(["task", "method", "number"]).sort_index()
    each = seeds.loc[("toplines", "delta-reading")]
    assert each.index.tolist() == [0, 1]
    assert each["gap_r"].mean() == pytest.approx(gaps.loc[("toplines", "delta-reading", "all"), "gap_r"])
    pairs = found["pair_gaps"].set_index(["task", "method"])
    assert each["pair_r"].mean() == pytest.approx(pairs.loc[("toplines", "delta-reading"), "r"])
    splits = found["splits"].set_index(["task", "method", "split"]).sort_index()
    sizes = {"survey": 12, "to one": 6, "to two": 6}
    for split, count in sizes.items():
        assert splits.loc[("toplines", "words-by-survey", split), "n_questions"] == count
    of_crossed = splits.xs("intersection", level="split").index.tolist()
    assert of_crossed == [("toplines", "delta-reading-fitted"), ("toplines", "delta-reading-left-out")]
    learning = found["learning"].set_index(["task", "method", "share"]).sort_index()
    assert learning.loc[("toplines", "words", 1.0), "gap_r"] == gaps.loc[("toplines", "words", "all"), "gap_r"]
    assert learning["n_seen"].unique().tolist() == [4, 8]  # of 8; two of each part at least


def test_tables_and_a_claims_page_from_all_of_it(survey, tables):
    rows, claims = evaluate.evaluation_tables(survey, tables, 100, 0)
    assert set(rows["method"]) == set(tables) and set(rows["group"]) == {"all", *survey.groups}
    kl = rows[rows["group"] == "all"].set_index("method")["kl"]
    by_seed = [np.mean(score(survey, table).kl) for table in tables["delta"]]
    assert kl["delta"] == pytest.approx(np.mean(by_seed))
    split = rows.drop_duplicates("method").set_index("method")["split"]
    assert split[["delta", "delta-by-topic", "delta-by-survey", "left-out-shared"]].tolist() == (
        "question topic survey group".split()
    )
    assert claims["claim"].nunique() == len(CLAIMS)  # no claim names a method that no code makes
    assert "Not tested" not in claims_page(CLAIMS, claims)
    seeds = claims.drop_duplicates(["method", "reference"]).set_index(["method", "reference"])["n_seeds"]
    assert seeds["delta", "uniform"] == 2 and seeds["delta-by-topic", "unsteered"] == 1


@pytest.fixture
def left(monkeypatch):
    """A run whose tables and hashes, of a model and an SAE, lie in one folder."""
    monkeypatch.setattr(Run, "work", property(lambda run: run.results))

    def at(folder, model="m", sae="s"):
        write_json(folder / "hash-model.json", {"model": model})
        write_json(folder / "hash-sae.json", {"sae": sae})
        return Run("some", folder)

    return at


def test_pages_of_what_there_is_say_what_is_missing(given, steps, survey, tmp_path, left):
    nothing = shown.load_evaluated(left(tmp_path), survey)
    for page in (shown.seeds_page(nothing), shown.learning_sentence(nothing), shown.splits_sentence(nothing)):
        assert "make evaluate" in page and "nan" not in page
    for step, name in ((steps[0], "first"), (steps[-1], "last")):
        folder = tmp_path / name
        folder.mkdir()
        for kind, table in evaluate.gap_tables(given, step, 20).items():
            write_csv(folder / f"evaluate_{kind}.csv", table)
        hashes = {"data": survey_hash(survey), "model": "m", "sae": "s"}
        write_json(folder / "evaluate.json", {"hashes": hashes, "missing": step.missing})
    first, last = (shown.load_evaluated(left(tmp_path / name), survey) for name in ("first", "last"))
    page = shown.seeds_page(first)
    assert "missing are `controls-1`, `split-by-topic`" in page and "Under 2 seeds" in page and "LoRA" not in page
    assert "has not been measured" in shown.learning_sentence(first)
    page = shown.seeds_page(last)
    assert "missing are" not in page and "<td>LoRA</td>" in shown.seeds_table(last).html
    assert shown.seeds_table(nothing) is None and shown.splits_table(nothing) is None
    assert shown.learning_sentence(last).startswith(
        "From 4 questions to fit and choose by to 8, the gap correlation of"
    )
    page = shown.splits_table(last).html
    heads = ["method", "measure", "questions", "topics", "surveys", "surveys, tested on one", "surveys, tested on two"]
    assert re.findall("<th [^>]*>([^<]*)</th>", page) == heads and page.count("<td>reading Δ</td>") == 2
    assert "intersection" in shown.splits_sentence(last)
    figure = learning_curve(last.table("learning"))
    figure.canvas.draw()
    said = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert said == {"reading Δ", "dense reading", "words"}  # on the lines, not by colour alone
    figure = gap_methods(last.table("gaps"), last.table("gaps_by_seed"), "toplines")
    figure.canvas.draw()
    assert not [name for name in figure.axes[0].texts if "topics" in name.get_text()]
    plt.close("all")


def test_rows_are_taken_over_only_for_the_same_survey_model_and_sae(survey, tables, tmp_path, left):
    nothing = shown.load_evaluated(left(tmp_path), survey)
    assert "has not been run" in nothing.note and not len(nothing.rows)
    rows, claims = evaluate.evaluation_tables(survey, tables, 0, 0)
    write_csv(tmp_path / "evaluate.csv", rows)
    write_csv(tmp_path / "evaluate_claims.csv", claims)
    write_csv(tmp_path / "evaluate_side_effects.csv", pd.DataFrame({"method": ["lora"], "value": [0.5]}))
    write_json(tmp_path / "evaluate.json", {"hashes": {"data": survey_hash(survey), "model": "m", "sae": "s"}})
    found = shown.load_evaluated(left(tmp_path), survey)
    ours = rows[rows["method"].isin(["unsteered", "delta"])].assign(kl=1.0, n_seeds=1)
    joined = shown.with_evaluated(ours, found.rows)
    assert set(joined["method"]) == set(tables) and list(joined) == list(ours)
    page = shown.evaluated_page(found)
    assert page.startswith("Of this survey") and page.count("{numref}`fig-evaluated`, `make evaluate`") == len(CLAIMS)
    assert shown.evaluated_page(nothing) == nothing.note
    assert (joined.loc[joined["method"].isin(["unsteered", "delta"]), "kl"] == 1).all()  # the run's own rows stay
    other = shown.load_evaluated(left(tmp_path, sae="t"), survey)
    assert "are of other sae than this run" in other.note
    other = shown.load_evaluated(left(tmp_path, model="n"), survey)
    assert "are of other model than this run" in other.note and not len(other.claims)
    pd.testing.assert_frame_equal(shown.with_evaluated(ours, other.rows), ours)
    gaps = pd.DataFrame({"method": rows["method"].unique(), "task": "alone", "group": "all", "n_seeds": 5})
    write_csv(tmp_path / "evaluate_gaps.csv", gaps[gaps["method"] != "everyone"])
    seeds = shown.with_evaluated(ours, found.rows).drop_duplicates("method").set_index("method")["n_seeds"].to_dict()
    assert seeds == {name: 1 if name in ("unsteered", "delta", "everyone") else 5 for name in seeds}
    assert found.table("side_effects")["method"].tolist() == ["lora"] and not len(other.table("side_effects"))


def test_a_book_that_is_not_there_is_asked_for(tmp_path, monkeypatch):
    profile = dataclasses.replace(load_profile("smoke"), output=str(tmp_path / "nothing-here"))
    monkeypatch.setattr("opinion_sae.book.paths.ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="no held-out answers there; run the chapters"):
        evaluate.evaluate(profile)


def test_the_saes_of_other_seeds_say_which_latents_they_have_too(sae, tiny, tmp_path):
    assert shown.evaluated_latents(tmp_path, sae.sha256()) is None
    for seed, other in ((1, sae), (2, tiny.sae(7))):
        other.save(tmp_path / "evaluate" / f"sae-{seed}-of-{sae.sha256()[-12:]}")
    tiny.sae().save(tmp_path / "evaluate" / "sae-1-of-another")
    kept = evaluate.kept_saes(tmp_path, sae)
    assert [folder.name[:5] for folder in kept] == ["sae-1", "sae-2"]
    found = evaluate.found_again(sae.W_dec, [evaluate.load_sae(folder).W_dec for folder in kept])
    write_csv(tmp_path / "evaluate_latents.csv", found)
    write_json(tmp_path / "evaluate.json", {"hashes": {"sae": sae.sha256()}})
    again = shown.evaluated_latents(tmp_path, sae.sha256())
    assert again is not None and again["seeds"].tolist() == [1] * 48 and set(again["of"]) == {2}
    assert shown.evaluated_latents(tmp_path, "another") is None
    write_csv(tmp_path / "evaluate_latents.csv", evaluate.found_again(sae.W_dec, []))
    assert shown.evaluated_latents(tmp_path, sae.sha256()) is None


def test_the_default_books_direction_needs_few_prompts(answers, survey, monkeypatch):
    asked = []
    monkeypatch.setattr(suite, "persona_residuals", lambda *args: asked.append(args[-1]) or persona_residuals(*args))
    found = suite.persona_directions(answers, survey, SPLITS)
    assert len(asked[0]) == 3 and set(FOLDS[asked[0]]) == {0, 1, 2}  # so that every split has some to train on
    assert found.log_probs.shape == (4, 12, 2) and len(found.offsets) == 3
