"""The folder of an SAE for the hub: SAELens reads it, and says the same; nothing is sent without a token."""

import pytest
import torch

from opinion_sae.sae.autoencoder import SparseAutoencoder, load_sae
from opinion_sae.use import hub
from opinion_sae.use.hub import hub_folder, upload

pytestmark = pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning")
HOOK = "blocks.2.hook_resid_post"
FACTS = {"active latents per token": "4.000"}


@pytest.fixture
def sae(tiny):
    made = tiny.sae()
    made.metadata = {"model_name": "some/model", "hook_name": HOOK}
    return made


def test_the_folder_is_what_would_be_uploaded_and_reads_back(sae, tmp_path):
    from sae_lens import SAE

    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    assert hub_folder(sae, tmp_path / "sae", "me/mine", x, FACTS) == HOOK
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["sae/README.md", f"sae/{HOOK}/cfg.json", f"sae/{HOOK}/sae_weights.safetensors"]
    theirs, ours = SAE.load_from_disk(str(tmp_path / "sae" / HOOK)), load_sae(tmp_path / "sae" / HOOK)
    torch.testing.assert_close(theirs(x), sae(x))
    assert ours.k == 4 and ours.metadata["hook_name"] == HOOK
    said = (tmp_path / "sae" / "README.md").read_text()
    assert said.startswith("---\nlibrary_name: saelens\n") and "| active latents per token | 4.000 |" in said
    assert f'SAE.from_pretrained("me/mine", "{HOOK}")' in said and "of some/model" in said


def test_another_reconstruction_is_refused_and_nothing_is_left(sae, tmp_path, monkeypatch):
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    forward = SparseAutoencoder.forward
    monkeypatch.setattr(SparseAutoencoder, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(ValueError, match="reconstructs otherwise than here, by 1e-02"):
        hub_folder(sae, tmp_path / "sae", "me/mine", x, FACTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mine", "me/mine/more", "../mine", "me/", "me/mi ne"])
def test_a_name_that_no_repository_has_is_refused(sae, tmp_path, name):
    with pytest.raises(ValueError, match="<owner>/<name>"):
        hub_folder(sae, tmp_path / "sae", name, torch.zeros(1, 32), FACTS)


def test_without_a_token_nothing_is_uploaded(tmp_path, monkeypatch):
    monkeypatch.delenv(hub.TOKEN, raising=False)
    with pytest.raises(ValueError, match="environment variable HF_TOKEN"):
        upload(tmp_path, HOOK, "me/mine")


def test_what_is_uploaded_is_the_folder(tmp_path, monkeypatch):
    import huggingface_hub
    import sae_lens

    sent = []
    monkeypatch.setenv(hub.TOKEN, "t")
    monkeypatch.setattr(sae_lens, "upload_saes_to_huggingface", lambda *about, **more: sent.append((about, more)))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_file", lambda self, **more: sent.append((self.token, more)))
    upload(tmp_path, HOOK, "me/mine")
    assert sent == [
        (({HOOK: tmp_path / HOOK}, "me/mine"), {"add_default_readme": False}),
        ("t", {"path_or_fileobj": tmp_path / "README.md", "path_in_repo": "README.md", "repo_id": "me/mine"}),
    ]
