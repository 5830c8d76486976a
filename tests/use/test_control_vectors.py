"""Control vectors in GGUF: read back with the gguf package, and the same vector put to use."""

import gguf
import numpy as np
import pytest
import torch

from opinion_sae.delta.offsets import DenseOffset, GroupDelta
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.model.answers import AnswerPath
from opinion_sae.use.control_vectors import export_control_vectors, file_names, mean_shift

LAYER = 2
GROUPS = ("Republican", "65+", "$75,000 or more")


@pytest.fixture(scope="module")
def answers(tiny, lm):
    return AnswerPath(lm, tiny.questions, LAYER)


@pytest.fixture(scope="module")
def sae(tiny):
    return tiny.sae()


def filled(offset):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for part in (offset.shared, offset.deviation):
            part.copy_(torch.randn(part.shape, generator=generator))
    return offset


def read(path):
    """Fields and tensors of a GGUF file."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def test_a_dense_offset_comes_back_from_the_file(answers, tmp_path):
    offset = filled(DenseOffset(GROUPS, 32))
    table = export_control_vectors(tmp_path, answers, offset)
    assert table["group"].tolist() == list(GROUPS)
    assert table["file"].tolist() == ["Republican.gguf", "65+.gguf", "75-000-or-more.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(table["file"])
    np.testing.assert_allclose(table["constant_share"], 1, atol=1e-5)
    for g, row in table.iterrows():
        fields, tensors = read(tmp_path / row["file"])
        assert fields["general.architecture"] == "controlvector" and fields["general.name"] == GROUPS[g]
        assert fields["controlvector.model_hint"] == "llama" and fields["controlvector.layer_count"] == 1
        assert list(tensors) == [f"direction.{LAYER}"]
        tensor = tensors[f"direction.{LAYER}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32 and tensor.data.shape == (32,)
        expected = (offset.shared + offset.deviation[g]).detach().numpy()
        np.testing.assert_allclose(tensor.data, expected, atol=1e-5)
        assert row["norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-5)


def test_an_offset_of_latents_is_written_as_its_mean_shift(answers, sae, tmp_path):
    delta = filled(GroupDelta(GROUPS, sae))
    table = export_control_vectors(tmp_path, answers, delta)
    x, z = answers.residual, sae.encode(answers.residual)
    for g, row in table.iterrows():
        with torch.no_grad():
            shift = sae.decode((z + delta.offsets()[g]).clamp_min(0)) - sae.decode(z)
        written = read(tmp_path / row["file"])[1][f"direction.{LAYER}"].data
        np.testing.assert_allclose(written, shift.mean(0), atol=1e-4)
        share = (shift.mean(0).pow(2).sum() / shift.pow(2).sum(1).mean()).item()
        assert row["constant_share"] == pytest.approx(share, rel=1e-3) and 0 < share < 1
    assert len(x) == 6


def test_the_mean_is_over_all_prompts_however_they_are_split(tiny, lm, sae):
    many = AnswerPath(lm, [tiny.question(f"q{i}", text="Is it so? " * i) for i in range(1, 40)], LAYER)
    delta = filled(GroupDelta(GROUPS, sae))
    assert len(many.residual) == 78  # more than one part
    with torch.no_grad():
        expected = (delta.steer(many.residual) - many.residual[:, None]).mean(0)
    torch.testing.assert_close(mean_shift(many, delta)[0], expected, atol=1e-4, rtol=1e-4)


def test_file_names_are_safe_and_differ():
    assert file_names(("<$30,000", "$30,000+", "30 000", "/../", "democrat", "Democrat", "中")) == [
        "30-000.gguf", "30-000+.gguf", "30-000-2.gguf", "group.gguf", "democrat.gguf", "Democrat-2.gguf", "中.gguf",
    ]  # fmt: skip


def test_what_llama_cpp_cannot_take_is_refused(tiny, lm, answers, tmp_path):
    offset = filled(DenseOffset(GROUPS, 32))
    with pytest.raises(ValueError, match="hook_layer 0: llama.cpp takes control vectors for layer 1 and above"):
        export_control_vectors(tmp_path, AnswerPath(lm, tiny.questions, 0), offset)
    with torch.no_grad():
        offset.deviation[1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"the offsets of \['65\+'\] are not finite"):
        export_control_vectors(tmp_path, answers, offset)
    assert not list(tmp_path.iterdir())


def test_an_offset_that_reads_has_a_vector_for_each_question(answers, sae, tmp_path):
    delta, generator = ReadingDelta(GROUPS, sae, axes=1, reads="question"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in delta.parameters():
            part.copy_(torch.randn(part.shape, generator=generator))
    key = answers.questions[1].key
    with pytest.raises(ValueError, match=r"another for each question: say which by question=..., the key of one"):
        export_control_vectors(tmp_path, answers, delta)
    with pytest.raises(ValueError, match="no question has the key 'none'; there are "):
        export_control_vectors(tmp_path, answers, delta, question="none")
    assert not list(tmp_path.iterdir())
    table = export_control_vectors(tmp_path, answers, delta, question=key)
    with torch.no_grad():
        x_g = answers.steered(torch.tensor([answers.orders]), delta)[0]
    for file, expected in zip(table["file"], x_g - answers.residual[answers.orders], strict=True):
        written = read(tmp_path / file)[1][f"direction.{LAYER}"].data
        np.testing.assert_allclose(written, expected, atol=1e-4)
    np.testing.assert_allclose(table["constant_share"], 1, atol=1e-5)
