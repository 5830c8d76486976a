"""SAEs by release name, and whether an SAE, a model and a layer go together, before anything is loaded."""

import contextlib
import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import save_file

from opinion_sae.book import command
from opinion_sae.book.preflight import check_run
from opinion_sae.book.profile import load_profile
from opinion_sae.sae.autoencoder import SaeFacts, SparseAutoencoder, check_fits, load_sae, release_and_id, sae_facts

SCOPE = "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical"
SCOPE_2, SCOPE_2_FILE = "gemma-scope-2-1b-pt-res/layer_13_width_16k_l0_medium", "params.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")


def scope_params(d_in, width, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (d_in, width), "b_enc": (width,), "W_dec": (width, d_in), "b_dec": (d_in,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return params | {"threshold": np.abs(rng.normal(size=width)).astype(np.float32)}


def test_a_gemma_scope_release_is_read_through_saelens(tmp_path, monkeypatch):
    """SAELens finds the file; only the download is replaced, and the sizes that it takes from the names."""
    from sae_lens.loading import pretrained_sae_loaders
    from sae_lens.saes import sae as saelens

    params, asked = scope_params(8, 20), {}
    np.savez(tmp_path / "params.npz", **params)

    def download(**arguments):
        asked.update(arguments)
        return tmp_path / "params.npz"

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", download)
    monkeypatch.setattr(saelens, "get_config_overrides", lambda *names: {"d_in": 8, "d_sae": 20})
    found, local = load_sae(SCOPE), load_sae(tmp_path)
    assert asked["repo_id"] == "google/gemma-scope-2b-pt-res"
    assert asked["subfolder"] == "layer_12/width_16k/average_l0_82" and asked["filename"] == "params.npz"
    assert found.architecture == "jumprelu" and not found.subtract_b_dec
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert 0 < (found.encode(x) > 0).float().mean() < 1
    assert torch.equal(found.encode(x), local.encode(x)) and torch.equal(found(x), local(x))
    assert found.metadata["hook_name"] == "blocks.12.hook_resid_post"


@pytest.fixture
def scope_2(tmp_path, monkeypatch):
    """Where SAELens takes Gemma Scope 2's files from: a folder in place of the hub, with a small SAE."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    named = {name.replace("W_", "w_"): torch.from_numpy(array) for name, array in scope_params(8, 20).items()}
    save_file(named, tmp_path / "params.safetensors")
    said = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": "model.layers.13.output"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    asked = []

    def download(repo_id, filename, subfolder="", force_download=False):
        asked.append((repo_id, f"{subfolder}/{filename}" if subfolder else filename))
        return str(tmp_path / filename.rpartition("/")[2])

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *names: shapes)
    return asked


def test_a_gemma_scope_2_release_is_read_through_saelens(tmp_path, scope_2):
    found, local = load_sae(SCOPE_2), load_sae(tmp_path)
    path = "resid_post/layer_13_width_16k_l0_medium"
    assert set(scope_2) == {("google/gemma-scope-2-1b-pt", f"{path}/{name}") for name in ("config.json", SCOPE_2_FILE)}
    assert found.architecture == "jumprelu" and not found.subtract_b_dec and found.sha256() == local.sha256()
    assert found.metadata["hook_name"] == "blocks.13.hook_resid_post"
    assert found.metadata["model_name"] == "google/gemma-3-1b-pt"


def test_a_release_tells_its_layer_and_model_without_the_hub():
    facts = sae_facts(SCOPE)
    assert facts.d_in == 2304 and facts.metadata["model_name"] == "gemma-2-2b"
    assert check_fits(facts, SCOPE, "google/gemma-2-2b", 2304, 12) == ""
    for model, width, layer, message in [
        ("google/gemma-2-2b", 2304, 11, "blocks.12.hook_resid_post, but hook_layer 11 means blocks.11"),
        ("google/gemma-2-9b", 3584, 12, "width 2304, but google/gemma-2-9b is 3584 wide"),
        ("google/gemma-2-9b", 2304, 12, "trained on gemma-2-2b, but the model is google/gemma-2-9b"),
    ]:
        with pytest.raises(ValueError, match=f"SAE {SCOPE} .*{message}"):
            check_fits(facts, SCOPE, model, width, layer)
    mlp = SCOPE.replace("-res-", "-mlp-")
    with pytest.raises(ValueError, match="was trained at blocks.12.hook_mlp_out, but hook_layer 12 means"):
        check_fits(sae_facts(mlp), mlp, "google/gemma-2-2b", 2304, 12)


def test_an_sae_of_the_base_model_may_serve_the_chat_model_with_a_note():
    facts = SaeFacts(4, {"model_name": "gemma-2-2b", "hook_name": "blocks.3.hook_resid_pre"})
    note = check_fits(facts, "mine", "google/gemma-2-2b-it", 4, 2)  # before layer 3 is after layer 2
    assert note.startswith("SAE mine was trained on gemma-2-2b and is used on google/gemma-2-2b-it")
    with pytest.raises(ValueError, match="trained on gemma-2-2b, but the model is google/gemma-2-27b"):
        check_fits(facts, "mine", "google/gemma-2-27b", 4, 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SCOPE[:-1], "release gemma-scope-2b-pt-res-canonical has no .*; it has 58, such as .*layer_12/width_16k/can"),
        ("gemma-scope-2b-res/x", "SAELens knows no release 'gemma-scope-2b-res'.*'gemma-scope-2b-pt-res'"),
    ],
)
def test_unknown_releases_and_ids_are_answered_with_near_ones(source, message):
    with pytest.raises(ValueError, match=message):
        load_sae(source)


def test_a_repository_outside_the_directory_keeps_its_owner():
    assert release_and_id("somebody/saes/layer 3/best") == ("somebody/saes", "layer 3/best")


def test_norms_that_saelens_would_apply_are_folded_in(tmp_path):
    from sae_lens import SAE, TopKSAE, TopKSAEConfig

    theirs = TopKSAE(TopKSAEConfig(d_in=4, d_sae=9, k=2, rescale_acts_by_decoder_norm=True))
    generator = torch.Generator().manual_seed(0)
    theirs.load_state_dict({name: torch.randn(t.shape, generator=generator) for name, t in theirs.state_dict().items()})
    theirs.save_model(tmp_path / "sae")
    theirs, ours = SAE.load_from_disk(tmp_path / "sae"), load_sae(tmp_path / "sae")
    x = torch.randn(30, 4, generator=generator)
    torch.testing.assert_close(ours.encode(x), theirs.encode(x))
    torch.testing.assert_close(ours(x), theirs(x))


def main(arguments):
    """The command; where it fails, its one line is what ends it."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        failed = command.main(arguments)
    if failed:
        sys.exit(errors.getvalue())


@pytest.fixture
def profile(tmp_path, tiny):
    """A profile by path for a tiny model and an SAE in Gemma Scope's format, neither of which is ever loaded."""
    tiny.model("gemma2").config.save_pretrained(tmp_path / "model")
    (tmp_path / "sae").mkdir()
    np.savez(tmp_path / "sae" / "params.npz", **scope_params(32, 50))
    values = {
        "model": str(tmp_path / "model"),
        "hook_layer": 2,
        "survey": "gss",
        "sae": str(tmp_path / "sae"),
        "seed": 0,
        "output": str(tmp_path / "run"),
    }

    def write(**changes):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values | changes))
        return str(tmp_path / "mine.yaml")

    return write


def test_the_check_names_both_sides_and_runs_nothing(profile, tmp_path, capsys):
    main(["check", profile()])
    assert "gss" in capsys.readouterr().out and not (tmp_path / "run").exists()
    np.savez(tmp_path / "sae" / "params.npz", **scope_params(48, 50))
    with pytest.raises(
        SystemExit, match=f"^error: SAE {tmp_path}/sae reads .* width 48, but {tmp_path}/model is 32 wide"
    ):
        main(["check", profile()])
    with pytest.raises(SystemExit, match="^error: hook_layer 4: .*model has 5 layers, so it must lie in 0..3"):
        main(["check", profile(hook_layer=4)])
    by_us = SparseAutoencoder(
        *(torch.zeros(s) for s in [(32, 3), (3,), (3, 32), (32,)]),
        k=1,
        metadata={"hook_name": "blocks.1.hook_resid_post"},
    )
    by_us.save(tmp_path / "ours")
    with pytest.raises(
        SystemExit, match="ours was trained at blocks.1.hook_resid_post, but hook_layer 2 means blocks.2"
    ):
        main(["check", profile(sae=str(tmp_path / "ours"))])
    with pytest.raises(SystemExit, match="^error: model '/absent/model': no such folder"):
        main(["check", profile(model="/absent/model")])


def test_the_gemma_profile_fits_together_as_far_as_names_tell(monkeypatch, tiny):
    """With the configuration that the hub would give for google/gemma-2-2b."""
    config = tiny.model("gemma2").config
    config.hidden_size, config.num_hidden_layers = 2304, 26
    asked = []
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda name, **more: asked.append(name) or config)
    gemma = load_profile("gemma-2-2b")
    assert gemma.model == "google/gemma-2-2b" and check_run(gemma) == ""
    assert "same family" in check_run(dataclasses.replace(gemma, model="google/gemma-2-2b-it"))
    with pytest.raises(ValueError, match="trained at blocks.12.hook_resid_post, but hook_layer 13"):
        check_run(dataclasses.replace(gemma, hook_layer=13))
    assert set(asked) == {"google/gemma-2-2b", "google/gemma-2-2b-it"}


def test_the_gemma_3_profile_fits_together_as_far_as_names_tell(monkeypatch, tiny, scope_2):
    config = tiny.model("gemma3").config
    config.hidden_size, config.num_hidden_layers = 8, 26  # as wide as the small SAE
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda name, **more: config)
    gemma = load_profile("gemma-3-1b")
    assert gemma.model == "google/gemma-3-1b-pt" and gemma.sae == SCOPE_2 and check_run(gemma) == ""
    assert "same family" in check_run(dataclasses.replace(gemma, model="google/gemma-3-1b-pt-mine"))
    with pytest.raises(ValueError, match="trained at blocks.13.hook_resid_post, but hook_layer 12"):
        check_run(dataclasses.replace(gemma, hook_layer=12))
    with pytest.raises(ValueError, match="trained on google/gemma-3-1b-pt, but the model is google/gemma-2-2b"):
        check_run(dataclasses.replace(gemma, model="google/gemma-2-2b"))


def test_intersections_need_their_parts(profile):
    with pytest.raises(
        SystemExit, match=r"crossed \['age x sex'\].*attributes \['sex'\] lacks \['age'\]; an empty list"
    ):
        main(["check", profile(attributes=["sex"], crossed=["age x sex"])])
    main(["check", profile(attributes=["SEX", "party"], crossed=["POLPARTY x sex"])])
    main(["check", profile(attributes=["sex"], crossed=[])])


def test_a_book_checks_first(profile, tmp_path):
    with pytest.raises(SystemExit, match="^error: hook_layer 4: "):
        main(["book", profile(hook_layer=4)])
    assert not (tmp_path / "run").exists()
