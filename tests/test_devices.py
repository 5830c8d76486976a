"""The chain on GPUs, without one: tensors that say where they lie, and an error wherever two places meet.

`Placed` wraps a tensor and claims to lie on a device. Every operation checks that its tensors lie together, as CUDA
would, runs on the CPU and claims the same place for its outcome. The stand-ins are meta:0 and meta:1, since torch
built for the CPU takes no CUDA tensors.
"""

import numpy as np
import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from opinion_sae.delta.few_latents import latent_path, tilt_sweep
from opinion_sae.delta.fit import fit_dense, fit_frozen
from opinion_sae.delta.held_out import by_question
from opinion_sae.delta.joint import fit_joint
from opinion_sae.delta.offsets import AdditiveDelta, DenseOffset, GroupDelta, LowRankDelta, MultiplicativeDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.delta.settings import FitSettings, JointSettings
from opinion_sae.effects.firing import read_corpus
from opinion_sae.effects.interpret import token_effects
from opinion_sae.effects.removal import Removal
from opinion_sae.model.activations import Activations, activations
from opinion_sae.model.answers import AnswerPath
from opinion_sae.model.language_model import LanguageModel
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.sae.quality import sae_quality
from opinion_sae.sae.train import untrained_sae

aten = torch.ops.aten
CPU, FIRST, SECOND = torch.device("cpu"), torch.device("meta:0"), torch.device("meta:1")
COPIES = {aten._to_copy.default, aten.copy_.default}  # these may go from one place to another
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}  # by indices on the CPU
HOOK = 1
TEXTS = ["Question: yes? Answer: A B C " * 6, "The weather is often cold, they say. " * 3]


class Placed(torch.Tensor):
    @staticmethod
    def __new__(cls, raw, device):
        place = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "device": device}
        return torch.Tensor._make_wrapper_subclass(cls, raw.shape, **place)

    def __init__(self, raw, device):
        self.raw = raw

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return checked(function, args, kwargs or {})

    def tolist(self):
        return self.raw.tolist()

    def item(self):
        return self.raw.item()


def place(device):
    device = torch.device(device)
    return torch.device(device.type, device.index or 0) if device.type == "meta" else device


def checked(function, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    # a number without axes may meet any device
    places = {t.device for t in tensors if isinstance(t, Placed) or t.ndim}
    out = tensors[0].device if tensors else CPU
    if function not in COPIES:
        allowed = {out, CPU} if function in INDEXING else {next(iter(places), CPU)}
        if not places <= allowed:
            raise RuntimeError(f"{function}: tensors on {sorted(map(str, places))}")
        out = out if function in INDEXING else next(iter(places), CPU)
    if kwargs.get("device") is not None:
        out, kwargs = place(kwargs["device"]), {**kwargs, "device": CPU}
    known = {id(t.raw): t for t in tensors if isinstance(t, Placed)}  # what is changed in place keeps its wrapper
    args, kwargs = tree_map(lambda leaf: leaf.raw if isinstance(leaf, Placed) else leaf, (args, kwargs))

    def claimed(leaf):
        if id(leaf) in known:
            return known[id(leaf)]
        return Placed(leaf, out) if isinstance(leaf, torch.Tensor) and out != CPU else leaf

    return tree_map(claimed, function(*args, **kwargs))


class Devices(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return checked(function, args, kwargs or {})


def move(module, device):
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(Placed(weight.detach(), device), weight.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else Placed(buffer, device)
    return module


def spread(tiny, last):
    """A tiny Gemma 2 on the first device, its last two layers and the norm on device `last`, by accelerate's hooks.

    They are those that transformers leaves in a model with a device map: a part's inputs come to where its weights are.
    """
    model = tiny.model("gemma2").eval().requires_grad_(False)
    backbone = model.model
    parts = {f"model.layers.{index}": last if index > 2 else FIRST for index in range(len(backbone.layers))}
    parts |= {"model.norm": last, "model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "lm_head": FIRST}
    for name, device in parts.items():
        move(model.get_submodule(name), device)
    model.lm_head.weight = backbone.embed_tokens.weight
    attach_align_device_hook_on_blocks(model, execution_device=parts | {"": FIRST}, offload=dict.fromkeys(parts, False))
    return LanguageModel("g", model, tiny.tokenizer(), backbone.layers, backbone.norm, backbone.rotary_emb, "none")


def make_sae():
    decoder = nn.functional.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    zeros = torch.zeros(64), torch.zeros(32)
    sae = SparseAutoencoder(decoder.T.contiguous(), zeros[0], decoder, zeros[1], threshold=torch.full((64,), 0.5))
    return sae.requires_grad_(False)


def filled(offset):
    generator = torch.Generator().manual_seed(1)
    for part in offset.parameters():
        part.data.normal_(generator=generator)
    return offset


@pytest.fixture(params=[FIRST, SECOND], ids=["one device", "two devices"])
def lm(request, tiny):
    with Devices():
        yield spread(tiny, request.param)


def test_mixing_places_is_noticed():
    one, other = (Placed(torch.ones(2, 2), device) for device in (FIRST, SECOND))
    with Devices():
        assert (one @ one).device == FIRST and one.to(SECOND).device == SECOND and one.cpu().device == CPU
        for pair in ((one, other), (one, torch.ones(2, 2))):
            with pytest.raises(RuntimeError, match="mm.default: tensors on"):
                pair[0] @ pair[1]


def test_the_model_lies_in_two_parts(tiny):
    with Devices():
        lm = spread(tiny, SECOND)
        answers = AnswerPath(lm, tiny.questions, HOOK)
    assert [lm.layer_device(index) for index in range(5)] == [FIRST] * 3 + [SECOND] * 2 and lm.device == FIRST
    assert [answers.keys_values[index].device for index in (2, 3)] == [FIRST, SECOND]


@pytest.mark.parametrize("offset", [GroupDelta, MultiplicativeDelta, AdditiveDelta, LowRankDelta, DenseOffset])
def test_answers_and_gradients_are_those_of_the_cpu_wherever_the_offset_lies(offset, lm, tiny):
    exact = AnswerPath(tiny.lm("gemma2", tie_word_embeddings=True), tiny.questions, HOOK, orders=2)
    answers, sae = AnswerPath(lm, tiny.questions, HOOK, orders=2), move(make_sae(), FIRST)
    here, there = (filled(offset(("a", "b"), 32 if offset is DenseOffset else one)) for one in (make_sae(), sae))
    expected = exact.log_probs(here)
    expected[0, 1, 0].backward()
    found = answers.log_probs(there)
    found[0, 1, 0].backward()
    torch.testing.assert_close(found.cpu(), expected)
    torch.testing.assert_close(there.shared.grad, here.shared.grad)
    again = answers.predict(move(there, FIRST))
    torch.testing.assert_close(again, expected.detach())
    assert answers.next_token(there).mass.mean(-1).device == answers.by_letter().device == CPU


def test_fits_run_and_leave_finite_histories(lm, tiny, two_groups):
    answers, sae = AnswerPath(lm, tiny.questions, HOOK, orders=2), move(make_sae(), FIRST)
    split, settings = tiny.split([0, 1], [2]), FitSettings(epochs=1, batch=2, l1=1e-3)
    for delta, history in (
        fit_frozen(answers, sae, two_groups, split, settings),
        fit_dense(answers, two_groups, split, settings),
    ):
        assert delta.shared.device == FIRST and np.isfinite(history["validation_kl"]).all()


def test_joint_training_and_refits_run_there(lm, tiny, two_groups):
    answers, sae = AnswerPath(lm, tiny.questions, HOOK, orders=2), move(make_sae(), FIRST)
    settings, splits = JointSettings(epochs=1, batch=2), by_question(np.arange(3))
    tokens = activations(lm, TEXTS, HOOK)
    for trained in (sae, untrained_sae(tokens, 64, 8, 0, {})):  # which is made on the CPU
        _, history = fit_joint(
            answers, trained, two_groups, Activations(tokens, tokens), tiny.split([0, 1], [2]), settings=settings
        )
        assert np.isfinite(history["validation_kl"]).all()
    deltas = [filled(GroupDelta(two_groups.groups, sae)) for _ in splits]
    dense = [filled(DenseOffset(two_groups.groups, 32)) for _ in splits]
    again = (answers, two_groups, splits, deltas)
    assert latent_path(*again, dense, [2], settings)
    assert tilt_sweep(*again, [10.0], settings)
    reads = [move(ReadingDelta(two_groups.groups, sae), FIRST) for _ in splits]
    log_probs = answers.predict(reads[0]).numpy()
    assert Removal(answers, splits, reads).read(0, log_probs).shape == log_probs.shape


def test_the_sae_is_judged_and_read_there(lm, tiny):
    x, sae = activations(lm, TEXTS, HOOK), move(make_sae(), FIRST)
    assert x.device == sae.encode(x).device == sae(x).device == CPU
    assert np.isfinite(list(sae_quality(lm, sae, TEXTS, HOOK, x[:4]).values())).all()
    assert len(token_effects(lm, sae, torch.tensor([1, 5]))) == 2
    assert len(read_corpus(AnswerPath(lm, tiny.questions, HOOK), sae, TEXTS).of_survey) == 5
