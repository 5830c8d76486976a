"""Models, tokenizers and surveys small enough to make in a test, shared by the test files."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hypothesis
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from opinion_sae.delta.held_out import Split
from opinion_sae.effects.firing import Corpus
from opinion_sae.model.language_model import wrap
from opinion_sae.sae.autoencoder import SparseAutoencoder
from opinion_sae.survey import Question, Survey

# An example's time says nothing on a busy machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

CHAT = (
    "{% for turn in messages %}<s>{{ turn['role'] }}\n{{ turn['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
# Gemma 2 with everything that it does differently at work: a window shorter than any prompt in
# some layers, heads that do not add up to the width, both soft caps low enough to bite
GEMMA = {
    "head_dim": 12,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "query_pre_attn_scalar": 12,
}
# its layers with a window turn keys and queries by other angles than the rest
GEMMA3 = {name: GEMMA[name] for name in ("head_dim", "sliding_window", "layer_types", "query_pre_attn_scalar")}
CONFIGS = {
    "llama": (LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {"num_key_value_heads": 2, **GEMMA}),
    "gemma3": (Gemma3TextConfig, {"num_key_value_heads": 2, **GEMMA3}),
    "gpt-neox": (GPTNeoXConfig, {}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 7}),
}


def make_tokenizer(chat=False, letters="ABCDEFGH"):
    """A byte-level BPE that knows ' A' and so on as one token, and puts BOS before plain text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(["Question: yes? Answer: " + " ".join(letters)] * 3, trainer)
    if not chat:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def make_model(family="llama", seed=0, **changes):
    """A random model of one of the families; its weights are large enough for layers to matter."""
    config_class, settings = CONFIGS[family]
    torch.manual_seed(seed)
    config = config_class(**{"vocab_size": 320, **SMALL, **settings, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def make_lm(family="llama", chat=False, seed=0, **changes):
    return wrap(f"tiny-{family}", make_model(family, seed, **changes), make_tokenizer(chat), "none")


def make_question(key="q", options=("Yes", "No"), text="Is it so?", topic="life"):
    return Question(key, text, tuple(options), True, topic, "made up")


QUESTIONS = (
    make_question("a", ("Yes", "No"), "Is it so?"),
    make_question("b", ("Never", "Sometimes", "Often", "Always"), "How often is it cold?", "weather"),
    make_question("c", ("Good", "Bad", "Neither"), "What do you say of the new road?"),
)


def make_survey(shares, questions=QUESTIONS, groups=("Female", "Male"), attributes=None):
    """A survey with these shares: 100 people a cell, none in a cell of NaN."""
    counts = np.nan_to_num(100 * np.asarray(shares, dtype=float))
    cells = counts.sum(-1)
    return Survey(
        "made up",
        tuple(questions),
        tuple(groups),
        tuple(attributes or ["sex"] * len(groups)),
        counts,
        cells.astype(int),
        cells,
        counts.sum(0),
        cells.sum(0),
    )


def make_sae(seed=0):
    """24 random latents of the tiny models' stream, of which 4 fire at a time."""
    generator = torch.Generator().manual_seed(seed)
    W_enc, W_dec = (torch.randn(*shape, generator=generator) for shape in ((32, 24), (24, 32)))
    return SparseAutoencoder(W_enc, torch.zeros(24), W_dec, torch.zeros(32), k=4).requires_grad_(False)


def make_split(train, validation=(), test=()):
    return Split("some", *(np.array(part, dtype=int) for part in (train, validation, test)))


def make_corpus(texts, firings):
    """Texts as lists of words; `firings` are for each latent the words, counted through, on whose first token it
    fires, with how strongly."""
    tokenizer, words = make_tokenizer(), [word for text in texts for word in text]
    tokens = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    lengths, of_word = torch.tensor([len(one) for one in tokens]), torch.arange(len(words))
    of_text = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(text) for text in texts]))
    first = lengths.cumsum(0) - lengths
    where = [first[word] for one in firings for word in sorted(one)]
    values = [float(one[word]) for one in firings for word in sorted(one)]
    return Corpus(
        tokenizer,
        torch.tensor([token for one in tokens for token in one]),
        of_text.repeat_interleave(lengths),
        of_word.repeat_interleave(lengths),
        tuple(words),
        torch.zeros(len(texts), dtype=torch.bool),
        torch.tensor(where),
        torch.tensor(values),
        torch.tensor([0, *(len(one) for one in firings)]).cumsum(0),
    )


@pytest.fixture(autouse=True)
def _figures_are_closed():
    """After each test: matplotlib keeps those that a test left open, and warns of more than twenty in a process."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def tiny():
    """The makers above, since test modules cannot import one another."""

    class Tiny:
        tokenizer = staticmethod(make_tokenizer)
        model = staticmethod(make_model)
        lm = staticmethod(make_lm)
        question = staticmethod(make_question)
        survey = staticmethod(make_survey)
        sae = staticmethod(make_sae)
        split = staticmethod(make_split)
        corpus = staticmethod(make_corpus)
        questions = QUESTIONS

    return Tiny


@pytest.fixture(scope="session")
def lm():
    """A tiny Llama without a chat template."""
    return make_lm()


@pytest.fixture
def two_groups():
    """What two groups answer to QUESTIONS; the second did not answer the last."""
    nan = np.nan
    return make_survey(
        [
            [[0.9, 0.1, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0]],
            [[0.2, 0.8, 0, 0], [0.7, 0.1, 0.1, 0.1], [nan, nan, nan, nan]],
        ]
    )


@pytest.fixture(scope="session")
def six_questions():
    """Two groups' answers to six questions of two and three options; the second group did not answer the fifth."""
    rng = np.random.default_rng(0)
    questions = [make_question(f"q{i}", options, f"Is it {i}?") for i, options in enumerate([("Yes", "No"), "abc"] * 3)]
    shares = np.zeros((2, 6, 3))
    for q, question in enumerate(questions):
        n = len(question.options)
        shares[:, q, :n] = rng.dirichlet(np.ones(n), 2)
    shares[1, 4] = np.nan
    return make_survey(shares, questions)


@pytest.fixture
def server():
    """An endpoint here: answers with what stands in `replies`, the last again and again; `asked` are the requests."""

    def completion(text):
        return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append((self.path, dict(self.headers), json.loads(body)))
            status, text, *headers = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode() if isinstance(text, str) else text)

        def log_message(self, *about):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.replies, server.completion = [], [completion("roads")], completion
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
