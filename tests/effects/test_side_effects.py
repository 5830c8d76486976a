"""Side effects: an offset of nothing changes nothing, each fold judges its own offset, and what is lost per gained."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from opinion_sae.book.figures.side_effects import trade_off
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.facts import fact_prompts
from opinion_sae.effects.readers import OffsetReader, Passage, fact_cells, loss_and_kl, text_cells
from opinion_sae.effects.side_effects import (
    accuracy_verdict,
    answer_cells,
    fact_examples,
    group_table,
    load_steered,
    measure,
    rescaled_cells,
    side_effects_table,
    summary_table,
    survey_cells,
    trade_off_table,
)
from opinion_sae.model.activations import content
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.metrics import kl

LAYER = 2
FOLDS = np.array([0, 1, 2, 0, 1, 2])
SPLITS = by_question(FOLDS)
UNSTEERED = [None] * 3
GROUPS = ("Female", "Male")
TEXTS = ["The weather is often cold, they say.", "Yes? No, never, and so on.", "A B C D E F G H.", "Two more of them."]


@pytest.fixture(scope="module")
def survey(six_questions):
    return six_questions


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, LAYER)


@pytest.fixture(scope="module")
def sae(tiny):
    return tiny.sae()


def made_delta(sae, seed, size=1.0):
    delta, generator = GroupDelta(GROUPS, sae), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        delta.shared.copy_(size * torch.randn(24, generator=generator))
        delta.deviation.copy_(size * torch.randn(2, 24, generator=generator))
    return delta


@pytest.fixture(scope="module")
def steered(sae):
    return [made_delta(sae, fold) for fold in range(3)]


@pytest.fixture(scope="module")
def asked(lm, facts):
    return AnswerPath(lm, facts.questions, LAYER, orders=1, prompts=fact_prompts(lm.tokenizer, facts)[1])


def readers(offsets, asked):
    return [OffsetReader(offset, asked) for offset in offsets]


def passages(lm, texts, length=48):
    return [Passage(lm, text, LAYER, length) for text in texts]


def test_an_offset_of_nothing_changes_nothing(lm, answers, survey, sae, facts):
    nothing = [made_delta(sae, fold, size=0.0) for fold in range(3)]
    cells = measure(answers, survey, SPLITS, {"unsteered": UNSTEERED, "delta": nothing}, facts, TEXTS)
    assert list(cells["unsteered"]) == list(cells["delta"])
    for quantity, values in cells["delta"].items():
        there = ~np.isnan(values)
        assert there.any()
        np.testing.assert_allclose(values[there], cells["unsteered"][quantity][there], atol=1e-4)
    assert np.nanmax(np.abs(cells["delta"]["next_token_kl"])) < 1e-5
    assert (cells["unsteered"]["next_token_kl"] == 0).all()


def test_answers_are_those_of_the_folds_own_offset_on_its_test_questions(answers, survey, steered):
    cells = survey_cells(answers, survey, SPLITS, steered)
    for offset, (_, _, _, test) in zip(steered, SPLITS, strict=True):
        p = answers.predict(offset, torch.from_numpy(test)).exp().double().numpy()
        np.testing.assert_allclose(cells["kl"][:, test], kl(survey.shares[:, test], p), rtol=1e-4)
        orders, mass = (part.numpy() for part in answers.next_token(offset))
        np.testing.assert_allclose(cells["option_mass"][:, test], mass[:, test].mean(-1), rtol=1e-4)
        np.testing.assert_allclose(orders[:, test].mean(2), p, atol=1e-5)
        tv = np.abs(orders[:, test, 0] - orders[:, test, 1]).sum(-1) / 2
        np.testing.assert_allclose(cells["order_tv"][:, test], tv, atol=1e-6)
    assert np.isnan(cells["kl"]).sum() == 1 and not np.isnan(cells["entropy"]).any()


def test_no_offset_touches_the_questions_of_another_fold(answers, survey, sae, steered):
    other = [*steered[:2], made_delta(sae, 9)]
    before, after = (survey_cells(answers, survey, SPLITS, of) for of in (steered, other))
    for quantity in before:
        assert np.array_equal(before[quantity][:, FOLDS != 2], after[quantity][:, FOLDS != 2], equal_nan=True)
    assert (before["entropy"][:, FOLDS == 2] != after["entropy"][:, FOLDS == 2]).all()
    alone = survey_cells(answers, survey, SPLITS, steered[:1])
    assert np.isnan(alone["entropy"][:, FOLDS != 0]).all() and not np.isnan(alone["entropy"][:, FOLDS == 0]).any()


def test_one_order_of_the_options_has_no_sensitivity_to_it(lm, survey, steered):
    assert "order_tv" not in survey_cells(AnswerPath(lm, survey.questions, LAYER, orders=1), survey, SPLITS, steered)


def test_answer_cells_by_hand(tiny):
    survey = tiny.survey([[[1.0, 0.0]], [[0.0, 1.0]], [[np.nan, np.nan]]], [tiny.question()], GROUPS + ("Other",))
    p = np.array([[[0.8, 0.2]], [[0.5, 0.5]], [[0.1, 0.9]]])
    cells = answer_cells(survey, p)
    np.testing.assert_allclose(cells["kl"][:, 0], [-np.log(0.8), -np.log(0.5), np.nan])
    np.testing.assert_allclose(cells["others_kl"][:, 0], [-np.log(0.2), -np.log(0.5), -np.log(0.1 * 0.9) / 2])
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert cells["entropy"][0, 0] == pytest.approx(entropy) and cells["entropy"][1, 0] == pytest.approx(np.log(2))
    certain = answer_cells(survey, np.array([[[1.0, 0.0]]]))
    assert (certain["entropy"] == 0).all() and certain["others_kl"][1, 0] == 0 and np.isinf(certain["kl"][1, 0])


def test_facts_are_dealt_out_among_the_offsets(asked, facts, steered):
    found = fact_cells(readers(steered, asked), facts, 2)["accuracy"]
    for item in range(5):
        likeliest = asked.predict(steered[item % 3])[:, item].argmax(-1).numpy()
        assert found[:, item].tolist() == (likeliest == facts.right[item]).tolist()
    plain = fact_cells(readers(UNSTEERED, asked), facts, 2)["accuracy"]
    assert plain.shape == (2, 5) and (plain[0] == plain[1]).all()
    assert plain[0].tolist() == (asked.predict()[0].argmax(-1).numpy() == facts.right).tolist()


def test_text_is_read_under_the_offset_at_every_content_token(lm, asked, steered):
    methods = {"unsteered": UNSTEERED, "delta": steered, "first": steered[:1]}
    methods = {name: readers(offsets, asked) for name, offsets in methods.items()}
    cells = text_cells(methods, passages(lm, TEXTS, 12), 2, share=1)
    for i, text in enumerate(TEXTS):
        tokens = lm.tokenizer(text, return_tensors="pt")["input_ids"][:, :12]
        assert cells["unsteered"]["text_loss"][0, i] == pytest.approx(lm.next_token_loss(tokens).mean().item(), 1e-4)
        for name, one in (("delta", steered[i % 3]), ("first", steered[0])):
            for group in range(2):

                def edit(x, one=one, group=group):
                    moved = one.steer(x[0])[None, :, group]
                    return torch.where(content(x, torch.ones(x.shape[:2], dtype=bool))[..., None], moved, x)

                loss = lm.next_token_loss(tokens, LAYER, edit).mean().item()
                assert cells[name]["text_loss"][group, i] == pytest.approx(loss, 1e-4)
    assert (cells["delta"]["next_token_kl"] > 0.01).all()


def test_every_group_reads_a_part_of_the_texts_under_every_offset(lm, asked, steered):
    texts = [text[n:] for n in range(3) for text in TEXTS]
    read = ~np.isnan(text_cells({"delta": readers(steered, asked)}, passages(lm, texts, 8), 2)["delta"]["text_loss"])
    assert (read.sum(0) == 1).all() and read.sum(1).tolist() == [6, 6]
    for group in range(2):
        assert set(np.flatnonzero(read[group]) % 3) == {0, 1, 2}


def test_one_row_stands_for_all_groups(lm, answers, survey, sae, facts, asked, steered):
    shared = steered[0].shared_for(GROUPS)
    full, one = [shared], [shared.for_groups(["Female"])]
    for measured in (
        lambda of: survey_cells(answers, survey, SPLITS, of)["kl"],
        lambda of: fact_cells(readers(of, asked), facts, 2)["accuracy"],
        lambda of: text_cells({"m": readers(of, asked)}, passages(lm, TEXTS), 2, share=1)["m"]["next_token_kl"],
    ):
        np.testing.assert_allclose(measured(one), measured(full), atol=1e-5)


finite = st.floats(-5, 5, width=32)


@given(arrays(np.float32, (3, 7), elements=finite), arrays(np.float32, (3, 7), elements=finite))
def test_next_token_kl_is_a_kl(one, other):
    following = torch.tensor([[0], [3], [6]])
    plain, logits = torch.from_numpy(one).log_softmax(-1), torch.from_numpy(other)
    loss, divergence = loss_and_kl(logits, plain, following)
    p, q = (table.double().softmax(-1).numpy() for table in (plain, logits))
    assert divergence == pytest.approx(kl(p, q).mean(), abs=1e-4) and divergence > -1e-5
    assert loss == pytest.approx(-np.log(q[range(3), following[:, 0]]).mean(), abs=1e-4)


def test_answers_that_are_only_rescaled_leave_the_text_alone(survey):
    plain = {"text_loss": np.full((2, 3), 4.0), "next_token_kl": np.zeros((2, 3)), "accuracy": np.ones((2, 5))}
    cells = rescaled_cells(survey, np.full((2, 6, 3), -np.log(3)), plain)
    assert (cells["text_loss"] == 4).all() and (cells["next_token_kl"] == 0).all()
    assert "accuracy" not in cells and "order_tv" not in cells
    np.testing.assert_allclose(cells["entropy"], np.log(3))


@pytest.fixture
def table(survey):
    """Δ gains 0.02 of alignment and loses a tenth of the facts; 'odd' gains nothing for sure."""
    one = np.ones((2, 6))
    rise = np.array([0.01, 0.03] * 3) * one
    plain = {
        "kl": 0.5 * one, "alignment": 0.7 * one, "others_kl": 0.5 * one,
        "accuracy": np.tile([1.0] * 8 + [0.0] * 2, (2, 1)), "text_loss": np.full((2, 4), 3.0),
        "next_token_kl": np.zeros((2, 4)),
    }  # fmt: skip
    changed = {"accuracy": np.tile([0.0] + [1.0] * 7 + [0.0] * 2, (2, 1)), "next_token_kl": np.full((2, 4), 0.4)}
    delta = plain | changed | {"kl": 0.3 * one, "alignment": 0.7 + rise, "text_loss": np.full((2, 4), 3 + np.log(2))}
    odd = delta | {"alignment": 0.7 + rise - 0.02}
    cells = {"unsteered": plain, "shared-delta": delta, "delta-half": odd, "delta": delta, "dense": delta}
    cells["calibrated"] = {name: plain[name] for name in plain if name != "accuracy"} | {"alignment": 0.7 + rise}
    return side_effects_table(survey, cells, np.arange(6), 300, 0)


def test_the_table_by_hand(table):
    assert list(table.columns) == ["method", "group", "quantity", "value", "low", "high", "n"]
    rows = table.set_index(["method", "group", "quantity"]).sort_index()
    assert rows.index.is_unique
    for group in ("all", *GROUPS):
        row = rows.loc[("delta", group)]
        assert row.loc["kl_change", "value"] == pytest.approx(-0.2) and row.loc["kl", "n"] == 6
        assert row.loc["accuracy", "value"] == pytest.approx(0.7) and row.loc["accuracy", "n"] == 10
        assert row.loc["accuracy_change", "value"] == pytest.approx(-0.1)
        assert row.loc["perplexity_ratio"].tolist() == pytest.approx([2, 2, 2, 4])
        low, value, high = row.loc["alignment_change", ["low", "value", "high"]]
        assert low < value < high and value == pytest.approx(0.02)
    assert not table["quantity"].eq("next_token_kl_change").any()
    assert not table[table["method"] == "unsteered"]["quantity"].str.endswith("_change").any()


def test_loss_per_gain_by_hand(table):
    found = trade_off_table(table)
    assert list(found.index) == ["shared-delta", "delta-half", "delta", "dense", "calibrated"]
    assert found.loc["delta"].tolist() == pytest.approx([0.02, 0.2, 10, 0.4, 2, 5, 0.2])
    assert found.loc["delta-half"].iloc[:5].tolist() == pytest.approx([0, 0.2, 10, 0.4, 2], abs=1e-9)
    assert found.loc["delta-half"].iloc[5:].isna().all()  # nothing was gained for sure
    assert np.isnan(found.loc["calibrated", "accuracy lost (points)"])
    assert found.loc["calibrated", "next-token KL per 0.01"] == 0


def test_tables_to_show(table, facts):
    shown = summary_table(table)
    assert shown.index[0] == "unsteered" and not any(name.endswith("_change") for name in shown)
    assert shown.loc["delta", "perplexity_ratio"] == pytest.approx(2) and np.isnan(shown.loc["calibrated", "accuracy"])
    by_group = group_table(table, "delta")
    assert list(by_group.index) == ["all", *GROUPS]
    assert {"kl_change", "next_token_kl", "perplexity_ratio"} <= set(by_group) and "kl" not in by_group
    examples = fact_examples(facts)
    assert examples.loc["a"].tolist() == [3, "Which is 0?", "A", "B, C, D"]
    assert examples.loc["b"].tolist() == [2, "Which is 1?", "G", "H, E, F"]


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-0.2, -0.05, "Under Δ the model answers fewer factual questions rightly"),
        (0.05, 0.2, "Under Δ the model answers more factual questions rightly"),
        (-0.2, 0.1, "No effect of Δ on the share of factual questions answered rightly could be shown"),
        (np.nan, np.nan, "There are too few factual questions"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, sentence):
    row = {"group": "all", "method": "delta", "quantity": "accuracy_change", "value": (low + high) / 2}
    assert accuracy_verdict(pd.DataFrame([row | {"low": low, "high": high, "n": 240}])).startswith(sentence)


def test_the_figure_has_a_mark_per_method_where_there_is_something_to_show(table):
    left, right = trade_off(table).axes
    assert len(left.containers) == 4 and len(right.containers) == 5  # no accuracy of 'calibrated'
    assert left.get_title(loc="left") == "6 questions, 10 facts"
    assert right.get_title(loc="left") == "6 questions, 4 texts"
    marks = [str(container.lines[0].get_marker()) for container in right.containers]
    assert len(set(marks)) == 5
    lost = {container.get_label(): container.lines[0].get_ydata()[0] for container in left.containers}
    assert lost["Δ"] == pytest.approx(10)


def test_a_table_without_the_unsteered_model_is_refused(survey):
    with pytest.raises(ValueError, match=r"the methods \['delta'\] lack 'unsteered'"):
        side_effects_table(survey, {"delta": {"kl": np.ones((2, 6))}}, np.arange(6), 10, 0)


def test_every_offset_of_the_earlier_chapters_is_loaded(tmp_path, tiny, answers, sae):
    for fold in range(3):
        made_delta(sae, fold).save(tmp_path / f"delta-{fold}.safetensors")
        shared = made_delta(sae, fold)
        shared.deviation.data.zero_()
        shared.save(tmp_path / f"shared-{fold}.safetensors")
    for name in ("0", "1", "2", "all"):
        ReadingDelta(("Female", "Male"), sae, axes=1).save(tmp_path / f"reading-{name}.safetensors")
    dense = {str(fold): torch.full((2, 32), float(fold)) for fold in range(3)}
    save_file(dense, tmp_path / "dense.safetensors")
    save_file({name: -vectors for name, vectors in dense.items()}, tmp_path / "diff-means.safetensors")
    tiny.sae(1).save(tmp_path / "joint" / "sae")
    made_delta(tiny.sae(1), 7).save(tmp_path / "joint" / "delta.safetensors")
    found = load_steered(tmp_path, answers, sae, 3, seed=0)
    names = ["unsteered", "shared-delta", "delta-half", "delta", "delta-reading-64", "random-latents", "dense"]
    names += ["diff-means", "delta-joint"]
    assert list(found) == names
    assert all(len(of) == 3 for name, of in found.items() if name != "delta-joint")
    assert len(found["delta-joint"]) == 1 and found["delta-joint"][0].sae.sha256() == tiny.sae(1).sha256()
    assert len(found["shared-delta"][0].groups) == 1 and found["unsteered"] == UNSTEERED
    for fold in range(3):
        whole = made_delta(sae, fold).offsets()
        torch.testing.assert_close(found["delta"][fold].offsets(), whole)
        torch.testing.assert_close(found["delta-half"][fold].offsets(), whole / 2)
        moved = found["random-latents"][fold].offsets()
        torch.testing.assert_close(moved.sort(1).values, whole.sort(1).values)
        assert isinstance(found["dense"][fold], DenseOffset) and found["dense"][fold].sae is None
        assert (found["dense"][fold].deviation == fold).all()
        assert (found["diff-means"][fold].deviation == -fold).all()
