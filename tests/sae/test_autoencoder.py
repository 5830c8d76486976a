"""SAEs small enough to work out by hand, against SAELens' own, and bad files."""

import json

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from opinion_sae.sae.autoencoder import SparseAutoencoder, check_fits, load_sae

META = {"model_name": "google/gemma-2-2b", "hook_name": "blocks.12.hook_resid_post"}


def by_hand(**settings):
    """Two wide, three latents: pre-activations of x are (x0, x1, -x0 - x1) + b_enc, less b_dec."""
    return SparseAutoencoder(
        torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]),
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]]),
        torch.tensor([1.0, 0.0]),
        **settings,
    )


SETTINGS = {
    "standard": {},
    "topk": {"k": 1},
    "jumprelu": {"threshold": torch.tensor([0.5, 0.5, 3.0]), "subtract_b_dec": False},
}
X = torch.tensor([[3.0, 1.0], [0.0, -1.0], [1.25, -3.0]])
# x - b_dec = (2, 1), (-1, -1), (0.25, -3);  pre = (2, 1.5, -2), (-1, -0.5, 3), (0.25, -2.5, 3.75)
LATENTS = {
    "standard": [[2, 1.5, 0], [0, 0, 3], [0.25, 0, 3.75]],
    "topk": [[2, 0, 0], [0, 0, 3], [0, 0, 3.75]],
    # b_dec not subtracted: pre = (3, 1.5, -3), (0, -0.5, 2), (1.25, -2.5, 2.75); 2.75 is under 3
    "jumprelu": [[3, 1.5, 0], [0, 0, 0], [1.25, 0, 0]],
}


@pytest.mark.parametrize("architecture", SETTINGS)
def test_latents_and_reconstruction_by_hand(architecture):
    sae = by_hand(**SETTINGS[architecture])
    assert (sae.architecture, sae.width, sae.d_in) == (architecture, 3, 2)
    z = sae.encode(X)
    assert z.tolist() == LATENTS[architecture]
    # decode((z0, z1, z2)) = (z0 - z2 + 1, 2 z1 - z2)
    expected = torch.stack([z[:, 0] - z[:, 2] + 1, 2 * z[:, 1] - z[:, 2]], dim=1)
    assert torch.equal(sae(X), expected)


@given(st.integers(0, 2**32), st.sampled_from(sorted(SETTINGS)))
def test_the_sparse_code_holds_the_same_latents(seed, architecture):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(seed))
    sae = by_hand(**SETTINGS[architecture])
    values, indices = sae.encode_sparse(x)
    assert torch.equal(torch.zeros(5, 3).scatter(1, indices, values), sae.encode(x))


@pytest.mark.parametrize("architecture", SETTINGS)
def test_a_saved_folder_comes_back_the_same(architecture, tmp_path):
    sae = by_hand(**SETTINGS[architecture], metadata=META)
    sae.save(tmp_path / "sae")
    back = load_sae(tmp_path / "sae")
    assert not any(parameter.requires_grad for parameter in back.parameters())
    assert back.architecture == architecture and back.k == sae.k
    assert torch.equal(back.encode(X), sae.encode(X)) and torch.equal(back(X), sae(X))
    assert META.items() <= back.metadata.items()
    assert back.sha256() == sae.sha256()
    back.b_enc.data[1] += 0.01
    assert back.sha256() != sae.sha256()


def scope_params():
    sizes = {"W_enc": (2, 3), "b_enc": (3,), "W_dec": (3, 2), "b_dec": (2,), "threshold": (3,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}


@pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")
def test_saelens_reads_what_we_save_and_gemma_scope_means_its_jumprelu(tmp_path, monkeypatch):
    from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

    for architecture, settings in SETTINGS.items():
        ours = by_hand(**settings, metadata=META)
        ours.save(tmp_path / architecture)
        theirs = SAE.load_from_disk(tmp_path / architecture)
        assert torch.equal(theirs.encode(X), ours.encode(X)) and torch.equal(theirs(X), ours(X))
        assert theirs.cfg.metadata.hook_name == META["hook_name"]
        theirs.save_model(tmp_path / "theirs")
        back = load_sae(tmp_path / "theirs")
        assert torch.equal(back.encode(X), ours.encode(X)) and META.items() <= back.metadata.items()

    params = scope_params()
    np.savez(tmp_path / "params.npz", **params)
    scope = load_sae(tmp_path)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=2, d_sae=3, apply_b_dec_to_input=False))
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    x = torch.randn(50, 2)
    assert 0 < (scope.encode(x) > 0).float().mean() < 1
    torch.testing.assert_close(scope.encode(x), theirs.encode(x))
    torch.testing.assert_close(scope(x), theirs(x))

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="SAE gemma-scope-2b-pt-res-canonical/layer_12/.*point `sae` at a folder"):
        load_sae("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical")


def spoil(folder, config=(), **tensors):
    """Change some entries of a saved SAE; None removes one."""
    kept = json.loads((folder / "cfg.json").read_text()) | dict(config)
    (folder / "cfg.json").write_text(json.dumps(kept))
    weights = load_file(folder / "sae_weights.safetensors") | tensors
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({}, {"W_enc": torch.ones(3, 3)}, r"W_enc has shape \(3, 3\), expected \(2, 3\)"),
        ({}, {"W_dec": torch.ones(6)}, r"W_dec has shape \(6,\), expected \(latents, width\)"),
        ({"d_in": 5}, {}, r"W_enc has shape \(2, 3\), expected \(5, 3\)"),
        ({}, {"b_dec": None}, r"tensors \['b_dec'\] are missing; found \['W_dec', 'W_enc', 'b_enc'\]"),
        ({}, {"b_enc": torch.tensor([0, torch.nan, 0])}, "b_enc holds values that are not finite"),
        ({"architecture": "temporal"}, {}, "'temporal' is not one of standard, topk, jumprelu, gated"),
        ({"architecture": "gated"}, {}, r"tensors \['b_mag', 'b_gate', 'r_mag'\] are missing"),
        ({"architecture": "batchtopk"}, {}, r"tensors \['topk_threshold'\] are missing"),
        ({"architecture": "jumprelu"}, {}, r"tensors \['threshold'\] are missing"),
        ({"normalize_activations": "layer_norm"}, {}, "normalize_activations is 'layer_norm'; only 'none'"),
        ({"k": 4}, {}, "k is 4, expected a whole number from 1 to its width, 3"),
        ({"k": None}, {}, "k is None, expected a whole number"),
        ({"hook_name": "blocks.3.hook_resid_post"}, {}, "SAELens before version 6"),
    ],
)
def test_bad_folders_are_refused(config, tensors, message, tmp_path):
    by_hand(k=1).save(tmp_path / "mine")
    spoil(tmp_path / "mine", config, **tensors)
    with pytest.raises(ValueError, match=f"SAE .*mine: .*{message}"):
        load_sae(tmp_path / "mine")


def test_cut_files_are_named(tmp_path):
    by_hand(k=1).save(tmp_path / "mine")
    weights = tmp_path / "mine" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="mine/sae_weights.safetensors: not a safetensors file"):
        load_sae(tmp_path / "mine")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="mine/sae_weights.safetensors"):
        load_sae(tmp_path / "mine")
    (tmp_path / "mine" / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="mine/cfg.json: not valid JSON"):
        load_sae(tmp_path / "mine")


def test_bad_gemma_scope_files_are_refused(tmp_path):
    path = tmp_path / "params.npz"
    np.savez(path, **(scope_params() | {"threshold": np.array([{"run": "me"}], dtype=object)}))
    with pytest.raises(ValueError, match="params.npz: not an .npz file of plain numbers .nothing is unpickled"):
        load_sae(tmp_path)
    np.savez(path, **{k: v for k, v in scope_params().items() if k != "threshold"})
    with pytest.raises(ValueError, match=r"params.npz: tensors \['threshold'\] are missing"):
        load_sae(tmp_path)
    np.savez(path, **(scope_params() | {"threshold": np.zeros(2, dtype=np.float32)}))
    with pytest.raises(ValueError, match=r"params.npz: threshold has shape \(2,\), expected \(3,\)"):
        load_sae(tmp_path)
    for content in (b"", b"words", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="params.npz: not an .npz file"):
            load_sae(tmp_path)


def test_gemma_scope_for_gemma_3_is_read_from_its_own_file(tmp_path):
    params = {name: torch.from_numpy(array) for name, array in scope_params().items()}
    small = {name.replace("W_", "w_"): tensor for name, tensor in params.items()}
    save_file(small, tmp_path / "params.safetensors")
    scope = load_sae(tmp_path)
    np.savez(tmp_path / "params.npz", **scope_params())
    assert (
        scope.architecture == "jumprelu" and not scope.subtract_b_dec and scope.sha256() == load_sae(tmp_path).sha256()
    )
    (tmp_path / "params.npz").unlink()
    save_file(small | {"affine_skip_connection": torch.eye(2)}, tmp_path / "params.safetensors")
    with pytest.raises(
        ValueError, match=r"params.safetensors: tensors \['affine_skip_connection'\] are none of an SAE's"
    ):
        load_sae(tmp_path)
    save_file({name: small[name] for name in small if name != "w_dec"}, tmp_path / "params.safetensors")
    with pytest.raises(ValueError, match=r"params.safetensors: tensors \['W_dec'\] are missing"):
        load_sae(tmp_path)


def test_absent_saes_are_named(tmp_path):
    for source in (tmp_path, tmp_path / "absent", "./absent", "absent"):
        with pytest.raises(
            FileNotFoundError,
            match=f"SAE {source}: neither cfg.json .* nor params.npz or params.safetensors .Gemma Scope.",
        ):
            load_sae(source)


def test_an_sae_must_fit_the_model_and_the_layer(tmp_path):
    sae = by_hand(metadata=META)
    check_fits(sae, "scope", "google/gemma-2-2b", 2, 12)
    check_fits(sae, "scope", str(tmp_path), 2, 12)  # a local copy may have any name
    with pytest.raises(ValueError, match="scope reads activations of width 2, but google/gemma-2-2b is 5 wide"):
        check_fits(sae, "scope", "google/gemma-2-2b", 5, 12)
    with pytest.raises(ValueError, match="at blocks.12.hook_resid_post, but hook_layer 3 means blocks.3.hook"):
        check_fits(sae, "scope", "google/gemma-2-2b", 2, 3)
    with pytest.raises(ValueError, match="scope was trained on google/gemma-2-2b, but the model is meta/llama"):
        check_fits(sae, "scope", "meta/llama", 2, 12)
    check_fits(by_hand(), "unlabelled", "meta/llama", 2, 3)
    with pytest.raises(ValueError, match="width 2, got 7"):
        by_hand().encode(torch.zeros(1, 7))
