"""Side effects of a trained unembedding: its own answers, nothing for rows of zero, and passes made by hand."""

import numpy as np
import pytest
import torch

from opinion_sae.delta.held_out import by_question
from opinion_sae.effects.letter_rows import (
    RowsReader,
    letter_cells,
    letter_tokens,
    load_rows,
    moved_logits,
    option_cells,
    save_rows,
)
from opinion_sae.effects.readers import OffsetReader, Passage, asked_facts, fact_cells, text_cells
from opinion_sae.effects.side_effects import survey_cells
from opinion_sae.methods.readout import unembedding
from opinion_sae.model.answers import AnswerPath

FOLDS = np.array([0, 1, 2, 0, 1, 2])
TEXTS = ["The weather is often cold, they say.", "Yes? No, never, and so on.", "A B C D E F G H.", "Two more of them."]


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def answers(request, tiny, six_questions):
    return AnswerPath(tiny.lm(request.param), six_questions.questions, 2)


@pytest.fixture(scope="module")
def fitted(answers, six_questions):
    return unembedding(answers, six_questions, by_question(FOLDS))


def test_the_rows_give_the_answers_that_they_were_fitted_for(answers, fitted, six_questions):
    log_probs, rows = fitted
    assert rows.shape == (3, 2, len(letter_tokens(answers)), answers.lm.width)
    for fold, split in enumerate(by_question(FOLDS)):
        items = (torch.from_numpy(split.test)[:, None] * 2 + torch.arange(2)).flatten()
        p, mass = option_cells(answers, items, rows[fold].float(), letter_tokens(answers))
        mean = p.reshape(2, len(split.test), 2, -1).mean(2)
        np.testing.assert_allclose(mean, np.exp(log_probs[:, split.test]), atol=1e-3)
        assert (0 < mass).all() and (mass <= 1).all()


def test_rows_of_zero_change_nothing(answers, six_questions, facts):
    nothing = torch.zeros(3, 2, len(letter_tokens(answers)), answers.lm.width)
    plain = [None] * 3
    found = letter_cells(
        answers, six_questions, by_question(FOLDS), answers.predict().numpy().repeat(2, 0), nothing, facts, TEXTS
    )
    expected = survey_cells(answers, six_questions, by_question(FOLDS), plain)
    assert set(found) == {*expected, "accuracy", "text_loss", "next_token_kl"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.broadcast_to(values, found[name].shape), atol=1e-4)
    known, asked = asked_facts(answers, facts)
    readers = [OffsetReader(offset, asked) for offset in plain]
    np.testing.assert_array_equal(found["accuracy"], fact_cells(readers, known, 2)["accuracy"])
    read = ~np.isnan(found["text_loss"])
    assert np.abs(found["next_token_kl"][read]).max() < 1e-5 and read.sum(0).tolist() == [1] * 4


@torch.no_grad()
def test_only_the_letters_logits_move(answers):
    lm, letters = answers.lm, letter_tokens(answers)
    rows = torch.randn(2, len(letters), lm.width, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(3, 9)[None]
    stream = lm.residual(tokens, len(lm.layers) - 1)[0]
    plain, moved = lm.model(tokens).logits[0], moved_logits(lm, stream, rows, letters)
    others = torch.ones(plain.shape[1], dtype=torch.bool)
    others[letters] = False
    torch.testing.assert_close(moved[:, 1, others], plain[:, others], atol=1e-4, rtol=1e-4)
    h = lm.norm(stream)
    expected = plain[:, letters] + h @ rows[1].T
    torch.testing.assert_close(moved[:, 1, letters], expected, atol=1e-3, rtol=1e-3)
    readers = [RowsReader(rows, letters, answers)]
    found = text_cells({"": readers}, [Passage(lm, text, 2, 12) for text in TEXTS], 2, share=1)[""]
    body = lm.tokenizer(TEXTS[3], return_tensors="pt")["input_ids"][:, :12]
    logits = moved_logits(lm, lm.residual(body, len(lm.layers) - 1)[0, :-1], rows, letters)[:, 1]
    loss = torch.nn.functional.cross_entropy(logits, body[0, 1:]).item()
    assert found["text_loss"][1, 3] == pytest.approx(loss, rel=1e-4) and (found["next_token_kl"] > 0).all()


def test_rows_come_back_and_missing_ones_are_named(tmp_path):
    rows = torch.randn(3, 2, 4, 8, dtype=torch.float64)
    save_rows(tmp_path / "unembedding.safetensors", rows)
    assert torch.equal(load_rows(tmp_path / "unembedding.safetensors"), rows.float())
    with pytest.raises(FileNotFoundError, match="nothing.safetensors: no rows.*06_controls"):
        load_rows(tmp_path / "nothing.safetensors")
