"""An OpenAI-compatible endpoint: asked over HTTP with what the standard library has, each reply kept on disk.

Replies are text and stay text: nothing in them is run, and what is shown of them is one line of printable characters.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opinion_sae.artifacts import check_fields, parse_json, read_json, write_json

TRIES = 5  # of a request that is told to wait, that the server fails at, or that takes too long
TIMEOUT = 60.0  # seconds without an answer
LONGEST_WAIT = 60.0  # seconds that a server may ask for
LARGEST = 1_000_000  # bytes of a reply
SHOWN = 5  # texts judged at once, as in Paulo et al. 2024's code: more leak, and make models miscount
PLACEHOLDER = "what a label of about ten words would say, not yet written"
HERE = ("localhost", "127.0.0.1", "::1")
LIST = re.compile(r"\[([01\s,]*)\]")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *about: Any) -> None:
        """Another place is not sent the key."""


@dataclass
class Endpoint:
    """A model behind `<url>/chat/completions`, at temperature 0.

    Until `sends` is set, requests without a kept reply are only counted in `unsent` (their tokens by `count`, and the
    most that may come back), and answered with a placeholder. Raises ValueError for a URL that is none, and for a key
    (`key_name` says where it is from) that would travel unencrypted.
    """

    url: str
    model: str
    kept: Path  # the folder of replies
    count: Callable[[str], int]
    key: str = ""
    key_name: str = ""
    sends: bool = False
    unsent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self):
        try:
            parts = urlsplit(self.url)
            host, wrong = parts.hostname or "", parts.scheme not in ("http", "https") or parts.port == 0
        except ValueError:
            host, wrong = "", True
        if wrong or not host or parts.query or parts.fragment or parts.username or not self.url.isprintable():
            raise ValueError(f"endpoint {self.url!r}: expected a base URL such as http://localhost:8080/v1")
        if not self.model:
            raise ValueError(f"endpoint {self.url}: say which model is to be asked (--model)")
        if host not in HERE and not self.key:
            raise ValueError(f"endpoint {self.url}: no key; put it into the environment variable {self.key_name}")
        if host not in HERE and parts.scheme == "http":
            raise ValueError(f"endpoint {self.url}: the key would travel unencrypted; use https")
        self.key = self.key.strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError(f"endpoint {self.url}: {self.key_name} holds characters that no key has")
        self.name = f"{self.model} at {parts.netloc}"

    def write(self, prompt: str, tokens: int) -> str:
        """What the model answers, in at most so many tokens."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"temperature": 0, "max_tokens": tokens}
        key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        path = self.kept / f"{key}.json"
        if path.exists():
            found = read_json(path)
            check_fields(found, {"reply": str}, f"{path}: delete it to ask anew", more=True)
            return found["reply"]
        if not self.sends:
            self.unsent[key] = self.count(prompt), tokens
            return PLACEHOLDER
        reply = self._answer(self._send(json.dumps(body).encode()))
        write_json(path, {"url": self.url, "request": body, "reply": reply})
        return reply

    def judge(self, question: str, texts: Sequence[str]) -> list[bool | None]:
        """Yes or no for each text, a few in one request; None where the reply is no list of as many 0 and 1."""
        said: list[bool | None] = []
        for start in range(0, len(texts), SHOWN):
            some = texts[start : start + SHOWN]
            listed = "\n".join(f"{number}. {text}" for number, text in enumerate(some, 1))
            prompt = (
                f"{question}\n\n{listed}\n\nAnswer for each of the {len(some)} texts, in order, with a list such as "
            )
            prompt += f"[{', '.join('01'[n % 2] for n in range(len(some)))}]: 1 for yes, 0 for no, and nothing else."
            found = LIST.findall(self.write(prompt, 8 * len(some)))
            marks = re.findall("[01]", found[-1]) if found else []
            said += [mark == "1" for mark in marks] if len(marks) == len(some) else [None] * len(some)
        return said

    def _send(self, body: bytes) -> str:
        """The reply's text. OSError after `TRIES`, or at once if nothing answers there; ValueError if it is refused."""
        straight = [urllib.request.ProxyHandler({})] if urlsplit(self.url).hostname in HERE else []
        opener = urllib.request.build_opener(_NoRedirect, *straight)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        url, said = f"{self.url.rstrip('/')}/chat/completions", ""
        for attempt in range(TRIES):
            wait = 2.0**attempt
            try:
                with opener.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT) as reply:
                    raw = reply.read(LARGEST + 1)
                if len(raw) > LARGEST:
                    raise ValueError(f"endpoint {url}: a reply of more than {LARGEST} bytes")
                return raw.decode(errors="replace")
            except urllib.error.HTTPError as error:
                with error:
                    said = f"{error.code} {self._shown(error.read(LARGEST).decode(errors='replace'))}"
                    asked = error.headers.get("Retry-After") or ""
                if error.code in (401, 403):
                    raise ValueError(f"endpoint {url}: the key in {self.key_name} is not taken: {said}") from None
                if error.code != 429 and error.code < 500:
                    raise ValueError(f"endpoint {url}: it refuses the request: {said}") from None
                wait = min(float(asked), LONGEST_WAIT) if asked.isdecimal() else wait
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if not isinstance(reason, TimeoutError):
                    raise OSError(f"endpoint {url}: no answer: {self._shown(str(reason))}") from None
                said = f"no answer within {TIMEOUT:.0f} seconds"
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise OSError(f"endpoint {url}: given up after {TRIES} attempts; the last: {said}")

    def _answer(self, text: str) -> str:
        found = parse_json(text, f"endpoint {self.url}: its reply")
        try:
            reply = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            reply = None
        if not isinstance(reply, str):
            raise ValueError(
                f"endpoint {self.url}: its reply is no chat completion (choices[0].message.content holds no text): "
                f"{self._shown(text)}"
            )
        return reply

    def _shown(self, text: str) -> str:
        """The beginning of what a server says, on one line and without the key."""
        return one_line(text.replace(self.key, "***") if self.key else text)[:200]


def one_line(text: str) -> str:
    """Text from outside with what does not print left out, and single spaces."""
    flat = " ".join(text.split())
    return "".join(character for character in flat if character.isprintable())
