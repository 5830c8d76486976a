"""An endpoint on this machine: what it is asked, what it may answer, and what is done about it."""

import json

import pytest

from opinion_sae.use import endpoint as module
from opinion_sae.use.endpoint import PLACEHOLDER, SHOWN, TRIES, Endpoint, one_line


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


@pytest.fixture
def made(server, tmp_path):
    def make(**changes):
        about = {
            "url": server.url,
            "model": "some",
            "kept": tmp_path,
            "count": len,
            "key": "k3y",
            "key_name": "THE_KEY",
        }
        return Endpoint(**about | {"sends": True} | changes)

    return make


def test_a_request_has_model_prompt_and_key_and_its_reply_is_kept(made, server, tmp_path):
    assert made().write("what?", 7) == "roads"
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer k3y"
    assert body["model"] == "some" and body["max_tokens"] == 7 and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "what?"}]
    (kept,) = tmp_path.iterdir()
    assert "k3y" not in kept.read_text() and json.loads(kept.read_text())["reply"] == "roads"


def test_a_rerun_sends_nothing_with_the_server_down(made, server):
    first = made()
    first.write("what?", 7)
    server.shutdown()
    server.server_close()
    assert made().write("what?", 7) == "roads" and len(server.asked) == 1
    assert made(sends=False).write("what?", 7) == "roads"
    with pytest.raises(OSError, match="no answer: .*refused"):
        made().write("what else?", 7)


def test_before_it_sends_requests_are_counted_once_each(made, server):
    one = made(sends=False)
    assert [one.write(prompt, 5) for prompt in ("abc", "abc", "abcd")] == [PLACEHOLDER] * 3
    assert sorted(one.unsent.values()) == [(3, 5), (4, 5)] and not server.asked


def test_told_to_wait_it_waits_and_asks_again(made, server, waits):
    server.replies = [(429, "slow down", ("Retry-After", "3")), (503, "busy"), server.completion("roads")]
    assert made().write("what?", 7) == "roads"
    assert waits == [3.0, 2.0] and len(server.asked) == 3


def test_it_gives_up(made, server, waits):
    server.replies = [(429, "slow down", ("Retry-After", "9999999"))]
    with pytest.raises(OSError, match=rf"given up after {TRIES} attempts; the last: 429 slow down"):
        made().write("what?", 7)
    assert len(server.asked) == TRIES and waits == [60.0] * (TRIES - 1)


def test_a_server_that_takes_too_long_is_given_up(made, monkeypatch, waits):
    def late(*about, **more):
        raise TimeoutError("timed out")

    monkeypatch.setattr(module.urllib.request.OpenerDirector, "open", late)
    with pytest.raises(OSError, match="the last: no answer within 60 seconds"):
        made().write("what?", 7)
    assert waits == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, "<html>no"), r"its reply: not valid JSON: line 1"),
        ((200, b"\xff\x00"), r"its reply: not valid JSON"),
        ((200, "[" * 100_000), r"its reply: not valid JSON"),
        ((200, '{"choices": []}'), r"no chat completion \(choices\[0\].message.content holds no text\)"),
        ((200, '{"choices": [{"message": {"content": null}}]}'), r"no chat completion"),
        ((200, '{"error": "k3y is out of money"}'), r"no chat completion .*\*\*\* is out of money"),
        ((200, "[3]"), r"no chat completion"),
        ((200, "x" * 1_000_001), r"a reply of more than 1000000 bytes"),
        ((401, "who are you, k3y?"), r"the key in THE_KEY is not taken: 401 who are you, \*\*\*\?"),
        ((404, "no\n\x1b[31msuch model"), r"refuses the request: 404 no \[31msuch model"),
        ((302, "", ("Location", "http://127.0.0.1:9/")), r"refuses the request: 302"),
    ],
)
def test_what_is_no_answer_is_one_clear_error(made, server, tmp_path, reply, message):
    server.replies = [reply]
    with pytest.raises(ValueError, match=message) as raised:
        made().write("what?", 7)
    assert "k3y" not in str(raised.value) and "\n" not in str(raised.value)
    assert len(server.asked) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "https://example.org/v1", "key": ""}, "no key; put it into the environment variable THE_KEY"),
        ({"url": "http://example.org/v1"}, "would travel unencrypted"),
        ({"url": "file:///etc/passwd"}, "expected a base URL"),
        ({"url": "http://[::1/v1"}, "expected a base URL"),
        ({"url": "http://localhost:99999/v1"}, "expected a base URL"),
        ({"url": "http://me:secret@localhost/v1"}, "expected a base URL"),
        ({"model": ""}, "say which model"),
        ({"key": "a\r\nHost: b"}, "THE_KEY holds characters that no key has"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_sent(made, changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_here_no_key_is_needed(made, server):
    assert made(key="").write("what?", 7) == "roads" and "Authorization" not in server.asked[0][1]


def test_a_kept_reply_that_is_none_is_named(made, tmp_path):
    made().write("what?", 7)
    (kept,) = tmp_path.iterdir()
    kept.write_text("{}")
    with pytest.raises(ValueError, match=f"{kept.name}: delete it to ask anew: fields"):
        made().write("what?", 7)


def test_yes_and_no_are_read_a_few_at_a_time(made, server):
    server.replies = [server.completion("Sure: [1, 0,1,0, 1]"), server.completion("[0]")]
    texts = [f"text {n}" for n in range(SHOWN + 1)]
    assert made().judge("so?", texts) == [True, False, True, False, True, False]
    prompts = [body["messages"][0]["content"] for _, _, body in server.asked]
    assert "5. text 4\n" in prompts[0] and "1. text 5\n" in prompts[1]


@pytest.mark.parametrize("reply", ["[1]", "yes, no", "[1, 2]", "", "__import__('os')", "[1, 0, 1]"])
def test_an_answer_that_cannot_be_read_counts_for_nothing(made, server, reply):
    server.replies = [server.completion(reply)]
    assert made().judge("so?", ["a", "b"]) == [None, None]


def test_text_from_outside_is_one_line():
    assert one_line(" a\nb\x1b[0m\u202ec\t ") == "a b[0mc"
