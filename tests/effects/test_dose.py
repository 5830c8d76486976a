"""Dose curves: strength 0 is the unsteered model, questions have their own fold's offset, the choice is held out."""

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.book.figures.dose import dose as draw_dose
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.offsets import GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects.dose import (
    dose_cells,
    dose_curve,
    dose_curves,
    held_out_choice,
    sweet_spot,
    sweet_spots,
    text_losses,
)
from opinion_sae.model.activations import content
from opinion_sae.model.answers import AnswerPath
from opinion_sae.score.metrics import kl
from opinion_sae.score.names import label
from opinion_sae.score.toplines import from_toplines

LAYER = 2
STRENGTHS = (-1.0, 0.0, 1.0, 2.0)
SPLITS = by_question(np.array([0, 1, 2, 0, 1, 2]))
TEXTS = ["The weather is often cold, they say.", "Question: yes? Answer: no, never, and so on.", "A B C D E F G H."]


@pytest.fixture(scope="module")
def survey(six_questions):
    return six_questions


@pytest.fixture(scope="module")
def answers(lm, survey):
    return AnswerPath(lm, survey.questions, LAYER)


@pytest.fixture(scope="module")
def sae(tiny):
    return tiny.sae()


@pytest.fixture(scope="module")
def deltas(sae):
    made = []
    for seed in range(3):
        delta, generator = GroupDelta(("Female", "Male"), sae), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            delta.shared.copy_(torch.randn(24, generator=generator))
            delta.deviation.copy_(torch.randn(2, 24, generator=generator))
        made.append(delta)
    return made


def test_some_questions_are_answered_as_among_all(answers, sae, deltas):
    chosen = torch.tensor([4, 1])
    part = answers.for_questions(chosen)
    assert [question.key for question in part.questions] == ["q4", "q1"]
    torch.testing.assert_close(part.predict(deltas[0]), answers.predict(deltas[0], chosen))
    torch.testing.assert_close(part.next_token(deltas[0]).mass, answers.next_token(deltas[0]).mass[:, chosen])


@pytest.mark.parametrize("part", ["test", "validation"])
def test_each_question_is_judged_under_its_own_folds_offset(answers, sae, deltas, survey, part):
    cells = dose_cells(answers, deltas, survey, SPLITS, part, STRENGTHS)
    assert list(cells.columns) == ["strength", "fold", "question", "kl", "kl_toplines", "option_mass"]
    assert len(cells) == len(STRENGTHS) * 6 and not cells.isna().any().any()
    for row in cells.itertuples():
        assert row.question in getattr(SPLITS[row.fold], part)
        dose = deltas[row.fold].scaled(row.strength)
        own = kl(survey.shares[:, row.question], answers.predict(dose)[:, row.question].exp().numpy())
        mass = answers.next_token(dose).mass.mean(-1)[:, row.question].numpy()
        answered = ~np.isnan(own)
        assert answered.sum() == (1 if row.question == 4 else 2)
        assert row.kl == pytest.approx(own[answered].mean(), rel=1e-3)
        assert row.option_mass == pytest.approx(mass[answered].mean(), rel=1e-3)
        known = np.exp(from_toplines(survey, answers.predict(dose).numpy())[:, row.question])
        assert row.kl_toplines == pytest.approx(kl(survey.shares[:, row.question], known)[answered].mean(), rel=1e-3)


def test_strength_zero_is_the_unsteered_model(lm, answers, sae, deltas, survey):
    cells = dose_cells(answers, deltas, survey, SPLITS, "test", STRENGTHS)
    zero = cells[cells["strength"] == 0].set_index("question").sort_index()
    unsteered = kl(survey.shares, answers.predict().exp().numpy())
    np.testing.assert_allclose(zero["kl"], np.nanmean(unsteered, axis=0), rtol=1e-3)
    np.testing.assert_allclose(zero["option_mass"], answers.next_token().mass.mean(-1)[0], rtol=1e-3)

    losses = text_losses(lm, deltas, TEXTS, LAYER, STRENGTHS, windows=3, length=16)
    curve = dose_curve(cells, losses, np.arange(6), 200, 0).set_index("strength")
    assert curve.loc[0, "perplexity_ratio"] == curve.loc[0, "perplexity_ratio_low"] == 1
    assert (curve["n_questions"] == 6).all() and (curve["n_windows"] == 3).all()
    assert list(curve.index) == list(STRENGTHS)
    for name in ("kl", "kl_toplines", "option_mass", "perplexity", "perplexity_ratio"):
        assert (curve[f"{name}_low"] <= curve[name]).all() and (curve[name] <= curve[f"{name}_high"]).all()


def test_text_is_read_under_the_windows_own_group_at_content_tokens(lm, sae, deltas):
    losses = text_losses(lm, deltas, TEXTS, LAYER, STRENGTHS, windows=2, length=12)
    assert losses.groupby("strength").size().nunique() == 1 and set(losses["window"]) == {0, 1}
    pieces = [torch.tensor([0, *ids]) for text in TEXTS for ids in chunks(lm, text, 11)]
    rows = [pieces[i] for i in np.argsort([-len(piece) for piece in pieces], kind="stable")]
    rows = [rows[i * len(rows) // 2] for i in range(2)]  # window 0: Female of fold 0; window 1: Male of fold 1
    assert len(rows[0]) == len(rows[1]) == 12
    tokens = torch.stack(rows)

    def edit(x):
        moved = torch.cat([deltas[i].for_groups([deltas[i].groups[i]]).steer(x[i])[None, :, 0] for i in (0, 1)])
        return torch.where(content(x, torch.ones(x.shape[:2], dtype=bool))[..., None], moved, x)

    found = losses.loc[losses["strength"] == 1, "loss"].to_numpy().reshape(2, -1)
    np.testing.assert_allclose(found, lm.next_token_loss(tokens, LAYER, edit), rtol=1e-4)
    plain = losses.loc[losses["strength"] == 0, "loss"].to_numpy().reshape(2, -1)
    np.testing.assert_allclose(plain, lm.next_token_loss(tokens), rtol=1e-4)
    assert np.abs(found - plain).max() > 0.01


def chunks(lm, text, size):
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[i : i + size] for i in range(0, len(ids), size) if len(ids[i : i + size]) >= 3]


def made_curve(**columns):
    return pd.DataFrame({"strength": [-1.0, 0.0, 1.0, 2.0], **columns})


def test_the_sweet_spot_by_hand():
    free = {"kl": [0.5, 0.4, 0.3, 0.2], "option_mass": [0.9] * 4, "perplexity": [10.0] * 4}
    assert sweet_spot(made_curve(**free)) == 2
    assert sweet_spot(made_curve(**{**free, "perplexity": [10, 10, 10.9, 11.1]})) == 1
    assert sweet_spot(made_curve(**{**free, "option_mass": [0.9, 0.9, 0.84, 0.8]})) == 0
    assert sweet_spot(made_curve(**{**free, "option_mass": [0.9, 0.9, 0.84, 0.8]}), mass_loss=0.07) == 1
    assert sweet_spot(made_curve(**{**free, "perplexity": [10, 10, 12, 12]}), perplexity_rise=0.3) == 2
    assert sweet_spot(made_curve(**{**free, "kl": [0.1, 0.4, 0.5, 0.6]})) == -1
    assert sweet_spot(made_curve(**{**free, "kl": [0.4] * 4})) == 0


def made_cells(kl_by_fold):
    """Two folds of two questions each; kl_by_fold: fold -> strength -> kl."""
    rows = [
        (strength, fold, 2 * fold + n, value + 0.01 * n, 0.9)
        for fold, values in enumerate(kl_by_fold)
        for strength, value in values.items()
        for n in range(2)
    ]
    return pd.DataFrame(rows, columns=["strength", "fold", "question", "kl", "option_mass"]).assign(kl_toplines=0.1)


def test_the_strength_is_chosen_on_validation_and_judged_on_test_questions():
    validation = made_cells([{0.0: 0.5, 1.0: 0.4, 2.0: 0.3}, {0.0: 0.5, 1.0: 0.2, 2.0: 0.3}])
    test = made_cells([{0.0: 0.6, 1.0: 0.5, 2.0: 0.7}, {0.0: 0.4, 1.0: 0.3, 2.0: 0.1}])
    losses = pd.DataFrame({"strength": [0.0, 1.0, 2.0] * 2, "window": [0] * 3 + [1] * 3, "loss": [2.0] * 6})
    table = held_out_choice(validation, test, losses, np.arange(4), 500, 0).set_index("fold")
    assert table["strength"].to_dict() == {"0": 2, "1": 1, "all": 1.5}
    assert table["n_questions"].to_dict() == {"0": 2, "1": 2, "all": 4}
    assert table.loc["0", "kl"] == pytest.approx(0.705) and table.loc["0", "kl_at_1"] == pytest.approx(0.505)
    assert table.loc["1", "difference"] == 0
    assert table.loc["all", "difference"] == pytest.approx(0.1)
    assert table.loc["all", "low"] < 0.1 < table.loc["all", "high"]


def test_each_method_is_judged_by_its_task_and_drawn_in_every_panel():
    columns = {"n_questions": 71, "n_windows": 24, "n_tokens": 1500}
    for name, falls in (("kl", 1), ("kl_toplines", -1), ("option_mass", 0), ("perplexity", 0), ("perplexity_ratio", 0)):
        middle = 0.6 - falls * np.array([0.0, 0.1, 0.2, 0.3])
        columns |= {name: middle, f"{name}_low": middle - 0.1, f"{name}_high": middle + 0.1}
    curve = made_curve(**columns)
    curves = pd.concat([curve.assign(method=name) for name in ("delta", "delta-reading-64")])
    spots = sweet_spots(curves)
    assert spots == {"delta": 2, "delta-reading-64": -1}
    figure = draw_dose(curves, spots, {"uniform": 0.3})
    sizes = [axes.get_xlabel().splitlines()[-1] for axes in figure.axes]
    assert sizes == ["71 questions"] * 3 + ["24 texts"]
    for axes in figure.axes:
        assert [one.get_label() for one in axes.containers] == ["Δ", label("delta-reading-64")]
        assert [one.lines[0].get_xdata().tolist() for one in axes.containers] == [[-1, 0, 1, 2]] * 2
        rings = [line.get_xdata().tolist() for line in axes.lines if line.get_markersize() == 11]
        assert rings == [[2], [-1]]


def test_an_offset_that_reads_is_dosed_too(lm, answers, sae, survey):
    """At strength 0 the unsteered model; at 1 the answers that it gives by itself; and text is read as it goes."""
    offsets = []
    for seed in range(3):
        offset = ReadingDelta(("Female", "Male"), sae, axes=1, reads="question")
        with torch.no_grad():
            for tensor in (offset.a, offset.b, offset.c):
                tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)))
        offsets.append(offset)
    curves = dose_curves(
        {"delta-reading": dose_cells(answers, offsets, survey, SPLITS, "test", (0.0, 1.0))},
        {"delta-reading": text_losses(lm, offsets, TEXTS, LAYER, (0.0, 1.0), windows=3, length=16)},
        *(np.arange(6), 100, 0),
    )
    assert list(curves["method"]) == ["delta-reading"] * 2
    answered = [
        answers.predict(offset).exp().numpy()[:, split.test] for offset, split in zip(offsets, SPLITS, strict=True)
    ]
    own = [kl(survey.shares[:, split.test], p) for split, p in zip(SPLITS, answered, strict=True)]
    mean = np.nanmean(np.concatenate(own, axis=1), axis=0).mean()
    assert curves["kl"][1] == pytest.approx(mean, rel=1e-3) and curves["perplexity_ratio"][1] != 1


def test_doses_that_cannot_be_judged_are_refused(answers, sae, deltas, survey):
    with pytest.raises(ValueError, match="part 'train' is not test or validation"):
        dose_cells(answers, deltas, survey, SPLITS, "train")
    with pytest.raises(ValueError, match=r"offsets of fold 0 are for \('Male',\), the survey has \('Female', 'Male'\)"):
        dose_cells(answers, [delta.for_groups(["Male"]) for delta in deltas], survey, SPLITS)
    unsteered, fitted = (made_cells([{strength: 0.5}] * 2) for strength in (0.0, 1.0))
    losses = pd.DataFrame({"strength": [1.0], "window": [0], "loss": [2.0]})
    with pytest.raises(ValueError, match=r"strength 1 is not among the doses, \[0.0\]"):
        held_out_choice(unsteered, unsteered, losses, np.arange(4), 10, 0)
    with pytest.raises(ValueError, match="strength 0 is not among the doses"):
        dose_curve(fitted, losses, np.arange(4), 10, 0)
