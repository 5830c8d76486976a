"""Offsets while text is written: where they act, that they go again, and which file belongs to which SAE."""

import pytest
import torch

from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.reading import DenseReading, ReadingDelta
from opinion_sae.methods.personas import in_turn
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.use.steering import asked_tokens, check_belongs, generate_answers, hook_layer_of, steer

LAYER = 2
GROUPS = ("Female", "Male")


def make_sae(d=32, m=24, seed=0, **metadata):
    generator = torch.Generator().manual_seed(seed)
    W_enc, W_dec = (torch.randn(*shape, generator=generator) for shape in ((d, m), (m, d)))
    return SparseAutoencoder(
        W_enc, torch.zeros(m), W_dec, torch.zeros(d), k=4,
        metadata={"hook_name": f"blocks.{LAYER}.hook_resid_post", **metadata},
    ).requires_grad_(False)  # fmt: skip


def filled(offset, size=5.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (offset.shared, offset.deviation):
            part.copy_(size * torch.randn(part.shape, generator=generator))
    return offset


def make_delta(sae, size=5.0):
    return filled(GroupDelta(GROUPS, sae), size)


@pytest.fixture(scope="module")
def sae():
    return make_sae()


def written(lm, prompts, tokens=6):
    """Greedy continuations of prompts of different lengths, padded on the left."""
    rows = [torch.tensor(lm.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1, padding_side="left")
    mask = torch.arange(ids.shape[1]) >= ids.shape[1] - torch.tensor([len(row) for row in rows])[:, None]
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 1}
    with torch.no_grad():
        return lm.model.generate(input_ids=ids, attention_mask=mask.long(), **settings)[:, ids.shape[1] :]


def by_hand(lm, prompt, tokens, move):
    """Greedy text with `move` applied at the last prompt token and at each new one, by whole forward passes."""
    ids = lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1] - 1
    for _ in range(tokens):
        positions, masks = lm.causal(*ids.shape)
        hidden = lm.run_layers(lm.embed(ids), range(LAYER + 1), positions, masks).clone()
        hidden[0, start:] = move(hidden[0, start:])
        hidden = lm.run_layers(hidden, range(LAYER + 1, len(lm.layers)), positions, masks)
        logits = lm.logits(hidden[:, -1])
        logits[:, lm.tokenizer.eos_token_id] = -torch.inf  # as min_new_tokens does
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[0, start + 1 :]


PROMPTS = ["Question: yes? Answer:", "A"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3", "gpt-neox", "mistral"])
def test_text_is_that_of_the_rule_by_hand_whatever_the_padding(tiny, sae, family):
    lm, delta, strength = tiny.lm(family), make_delta(sae), 0.7

    def move(x):
        z = sae.encode(x)
        return x + sae.decode((z + strength * delta.offsets()[1]).clamp_min(0)) - sae.decode(z)

    with torch.no_grad(), steer(lm, delta, "Male", strength):
        found = written(lm, PROMPTS)
    with torch.no_grad():
        expected = [by_hand(lm, prompt, 6, move) for prompt in PROMPTS]
        unsteered = [by_hand(lm, prompt, 6, lambda x: x) for prompt in PROMPTS]
    assert found.tolist() == [row.tolist() for row in expected]
    assert written(lm, PROMPTS).tolist() == [row.tolist() for row in unsteered] != found.tolist()


def test_only_the_last_position_of_a_pass_moves(lm, sae):
    delta, seen = make_delta(sae), []
    handle = lm.layers[LAYER + 1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        lm.model(ids)
        with steer(lm, delta, "Female"):
            lm.model(ids)
    handle.remove()
    before, after = seen
    assert torch.equal(before[:, :-1], after[:, :-1])
    expected = delta.for_groups(["Female"]).steer(before[:, -1])[:, 0]
    assert torch.equal(after[:, -1], expected.detach()) and not torch.equal(after[:, -1], before[:, -1])


@pytest.mark.parametrize("kind", ["latents", "dense"])
def test_strength_zero_changes_no_token_and_a_large_one_does(tiny, lm, sae, kind):
    offset = make_delta(sae) if kind == "latents" else filled(DenseOffset(GROUPS, 32))
    plain = written(lm, PROMPTS)
    with steer(lm, offset, "Male", 0.0, LAYER):
        assert torch.equal(written(lm, PROMPTS), plain)
    with steer(lm, offset, "Male", 3.0, LAYER):
        assert not torch.equal(written(lm, PROMPTS), plain)


def test_bfloat16_weights_keep_their_text_at_strength_zero(tiny, sae):
    lm = tiny.lm()
    lm.model.to(torch.bfloat16)
    plain = written(lm, PROMPTS)
    with steer(lm, make_delta(sae), "Male", 0.0):
        assert torch.equal(written(lm, PROMPTS), plain)


def test_a_dense_offset_is_added_as_it_is(lm):
    offset, seen = filled(DenseOffset(GROUPS, 32)), []
    ids = torch.tensor([[0, 5, 6]])
    with torch.no_grad(), steer(lm, offset, "Male", -2.0, hook_layer=LAYER):
        handle = lm.layers[LAYER].register_forward_hook(lambda module, args, output: seen.append(output))
        lm.model(ids)
        handle.remove()
    expected = lm.residual(ids, LAYER)[:, -1] - 2 * (offset.shared + offset.deviation[1])
    torch.testing.assert_close(seen[0][:, -1], expected.detach())


def test_each_row_may_have_its_own_group(lm, sae):
    delta, prompts = make_delta(sae), ["A", "A", "A"]
    order = ["Male", "Female", "Male"]
    with steer(lm, delta, order):
        together = written(lm, prompts)
    for row, group in zip(together, order, strict=True):
        with steer(lm, delta, group):
            assert torch.equal(written(lm, ["A"])[0], row)
    with pytest.raises(ValueError, match="2 groups for a batch of 3 rows"), steer(lm, delta, list(GROUPS)):
        written(lm, prompts)


def test_the_hook_goes_even_after_an_error(lm, sae):
    plain = written(lm, PROMPTS)
    with pytest.raises(ZeroDivisionError), steer(lm, make_delta(sae, 50.0), "Male"):
        assert not torch.equal(written(lm, PROMPTS), plain)
        _ = 1 / 0
    assert torch.equal(written(lm, PROMPTS), plain) and not lm.layers[LAYER]._forward_hooks


def test_what_cannot_be_steered_is_named(lm, sae):
    delta = make_delta(sae)
    with pytest.raises(KeyError, match=r"no offset for \['Martian'\]; there are \['Female', 'Male'\]"):
        with steer(lm, delta, "Martian"):
            pass
    with pytest.raises(ValueError, match="hook_layer 4: tiny-llama has 5 layers"):
        with steer(lm, delta, "Male", hook_layer=4):
            pass
    with pytest.raises(ValueError, match="give hook_layer"):
        with steer(lm, filled(DenseOffset(GROUPS, 32)), "Male"):
            pass
    with pytest.raises(ValueError, match="hook_name 'hook_embed'"):
        hook_layer_of(make_sae(hook_name="hook_embed"))
    assert hook_layer_of(sae) == LAYER


def test_a_scaled_offset_is_a_copy(sae):
    delta = make_delta(sae)
    before = delta.offsets().detach().clone()
    part = delta.for_groups(["Male"]).scaled(-2.0)
    assert part.groups == ("Male",)
    torch.testing.assert_close(part.offsets(), -2 * before[1:])
    assert torch.equal(delta.scaled(1.0).offsets(), before) and torch.equal(delta.offsets(), before)


def test_answers_side_by_side(tiny, sae):
    lm, delta = tiny.lm(chat=True), make_delta(sae)
    table = generate_answers(lm, "Is it so?", delta, ["Male", "Female", "Male"], tokens=8)
    assert list(table.columns) == ["group", "unsteered", "steered"]
    assert table["group"].tolist() == ["Male", "Female", "Male"]
    assert table["unsteered"].nunique() == 1  # greedy
    assert table["steered"][0] == table["steered"][2] != table["steered"][1]
    assert (table["steered"] != table["unsteered"]).all()
    assert not lm.layers[LAYER]._forward_hooks
    nothing = generate_answers(lm, "Is it so?", delta, strength=0.0, tokens=8)
    assert nothing["group"].tolist() == list(GROUPS) and (nothing["steered"] == nothing["unsteered"]).all()


def test_sampled_answers_differ_by_the_offset_alone(lm, sae):
    same = generate_answers(lm, "Is it so?", make_delta(sae), ["Male"] * 4, strength=0.0, tokens=8, seed=3)
    assert (same["steered"] == same["unsteered"]).all() and same["unsteered"].nunique() > 1
    moved = generate_answers(lm, "Is it so?", make_delta(sae), ["Male"] * 4, tokens=8, seed=3)
    assert (moved["unsteered"] == same["unsteered"]).all() and (moved["steered"] != same["steered"]).any()


def test_an_offset_from_a_file_steers_its_own_model_and_layer_only(lm, sae, tmp_path):
    path = tmp_path / "deltas.safetensors"
    about = {"model": lm.name, "hook_layer": str(LAYER)}
    make_delta(sae).save(path, **about)
    delta = GroupDelta.load(path, sae)
    with steer(lm, delta, "Male"):
        pass
    with pytest.raises(ValueError, match="fitted with hook_layer 2, but used with hook_layer 1"):
        with steer(lm, delta, "Male", hook_layer=1):
            pass
    with pytest.raises(ValueError, match="fitted with model gpt, but used with model tiny-llama"):
        check_belongs({**about, "model": "gpt"}, lm, LAYER)
    check_belongs({**about, "model": "its name elsewhere", "model_sha256": lm.sha256}, lm, LAYER)
    with pytest.raises(ValueError, match="fitted with model_sha256 0ff, but used with model_sha256 "):
        check_belongs({**about, "model_sha256": "0ff"}, lm, LAYER)


def make_reading(sae, place, kind=ReadingDelta):
    offset = kind(GROUPS, sae if kind is ReadingDelta else 32, axes=1, reads=place)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part in offset.parameters():
            part.copy_(3 * torch.randn(part.shape, generator=generator))
    return offset


@pytest.mark.parametrize("kind", [ReadingDelta, DenseReading])
@pytest.mark.parametrize("place", ["question", "last", "options"])
def test_an_offset_that_reads_reads_the_prompt_once_and_keeps_that(lm, sae, place, kind):
    """By hand: counts of firing, or the mean stream, of the prompt's tokens; then the same at every token written."""
    offset = make_reading(sae, place, kind)

    def read_of(prompt):
        x = lm.residual(lm.tokenizer(prompt, return_tensors="pt")["input_ids"], LAYER)[0]
        fires = (sae.encode(x) > 0).float() if kind is ReadingDelta else x
        if place == "options":
            return torch.zeros(1, 24 if kind is ReadingDelta else 32)
        read = fires[-1] if place == "last" else fires.sum(0) if kind is ReadingDelta else fires.mean(0)
        return read[None]

    order = ["Male", "Female"]
    with torch.no_grad(), steer(lm, offset, order, 0.5, LAYER):
        found = written(lm, PROMPTS)
    for row, prompt, group in zip(found, PROMPTS, order, strict=True):
        with torch.no_grad():
            part, read = offset.for_groups([group]).scaled(0.5), read_of(prompt)
            expected = by_hand(lm, prompt, 6, lambda x, p=part, r=read: p.steer(x, r.expand(len(x), -1))[:, 0])
        assert row.tolist() == expected.tolist()
        with torch.no_grad(), steer(lm, offset, group, 0.5, LAYER):
            assert written(lm, [prompt])[0].tolist() == row.tolist()
            assert written(lm, [prompt])[0].tolist() == row.tolist()  # another prompt's pass reads anew
    assert not lm.layers[LAYER]._forward_hooks and not lm.model._forward_pre_hooks


def test_answers_under_an_offset_that_reads(tiny, sae):
    lm, delta = tiny.lm(chat=True), make_reading(sae, "question")
    table = generate_answers(lm, "Is it so?", delta, tokens=8)
    assert table["group"].tolist() == list(GROUPS) and (table["steered"] != table["unsteered"]).all()
    nothing = generate_answers(lm, "Is it so?", delta, strength=0.0, tokens=8)
    assert (nothing["steered"] == nothing["unsteered"]).all()


@pytest.mark.parametrize("chat", [True, False])
def test_the_question_is_told_from_what_stands_around_it(tiny, chat):
    lm = tiny.lm(chat=chat)
    ids = lm.tokenizer(in_turn(lm.tokenizer, " Is it so?"), add_special_tokens=not chat)["input_ids"]
    asked = asked_tokens(lm.tokenizer, " Is it so?")
    assert lm.tokenizer.decode(ids[asked]).strip() == "Is it so?" and asked_tokens(lm.tokenizer, "") is None
