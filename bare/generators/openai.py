"""OpenAI-compatible servers: /completions for base models, /chat/completions for instruct models, by the stdlib alone.

The key is asked for where a request is made, from an environment variable or a callable (a secret scope), and is kept
nowhere: not in this object, its repr or pickle, not in a completion, an error or a log.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bare.draws import hash64
from bare.generators.protocol import Completion, FinishReason, Prompt
from bare.generators.spec import checked_base_url
from curation.errors import InputError

RETRIED = (408, 409, 429)  # and everything from 500 on
FINISHED: dict[str | None, FinishReason] = {
    None: "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "length": "length", "max_tokens": "length", "content_filter": "refusal",
}  # fmt: skip
MOST_BYTES = 64 * 2**20  # of one answer


class _Transient(Exception):  # noqa: N818 - not an error yet: another attempt may do
    def __init__(self, what: str, *, after: float | None = None, unreachable: bool = False) -> None:
        super().__init__(what)
        self.after, self.unreachable = after, unreachable


class _RowFailed(Exception):  # noqa: N818 - a row's verdict, not a failure of the batch
    def __init__(self, what: str, *, refusal: bool = False) -> None:
        super().__init__(what)
        self.refusal = refusal


@dataclass(frozen=True)
class OpenAIGenerator:
    """A Generator over HTTP. It holds no key and no connection, so it goes to executors as it is.

    key_variable: the environment variable with the key; where it isn't set, requests carry none (an own server).
    key: a callable that gives the key instead, such as a secret scope's getter.
    concurrency: requests under way at once, of one `generate`. timeout: seconds for one attempt, answer included.
    retries: attempts after the first. backoff, longest_backoff: retry k waits up to backoff * 2**(k - 1) seconds, at
    most the longest, by hash of the row (full jitter).
    longest_wait: seconds; a server that asks (Retry-After) for more fails the row.
    extra: further keys of the request's body, such as those that one server alone knows.
    """

    model: str
    base_url: str
    key_variable: str | None = "OPENAI_API_KEY"
    key: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    backoff: float = 0.5
    longest_backoff: float = 30.0
    longest_wait: float = 300.0
    extra: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("openai: the model's name is empty; give the name that the server knows it by")
        object.__setattr__(self, "base_url", checked_base_url(self.base_url))
        if self.concurrency < 1:
            raise InputError(f"openai: concurrency must be at least 1; got {self.concurrency!r}")
        for name in ("retries", "backoff", "longest_backoff", "longest_wait"):
            if getattr(self, name) < 0:
                raise InputError(f"openai: {name} must be 0 or more; got {getattr(self, name)!r}")
        if not self.timeout > 0:
            raise InputError(f"openai: timeout must be above 0 seconds; got {self.timeout!r}")

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion a prompt, in their order; a row whose attempts are spent is a row with an error.

        InputError: the key is refused, model or address are unknown, the server can't be reached; and no row is done.
        Where that happens halfway, the rows that are done are returned and the others have the error.
        """
        batch = _Batch(self, self._secret())
        with ThreadPoolExecutor(max_workers=min(self.concurrency, max(1, len(prompts)))) as pool:
            try:
                completions = list(pool.map(batch.run, prompts))
            except BaseException:  # Ctrl-C: what waits between attempts stops waiting
                batch.stopped.set()
                raise
        if batch.fatal is not None and all(c.finish_reason == "error" for c in completions):
            raise InputError(batch.fatal)
        return completions

    def _secret(self) -> str | None:
        try:
            secret = self.key() if self.key is not None else os.environ.get(self.key_variable or "")
        except Exception as error:
            # The error's own text may hold what it was looking for.
            raise InputError(
                f"openai: the key can't be read ({type(error).__name__}); check the secret scope"
            ) from None
        if secret is not None and not (secret.isascii() and secret.isprintable() and secret.strip() == secret):
            raise InputError("openai: the key holds characters that no HTTP header can; check where it comes from")
        return secret or None

    def _key_source(self) -> str:
        return "the secret scope" if self.key is not None else f"the environment variable {self.key_variable}"

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The request for one row: what the protocol doesn't know (top_k) is sent only where it is set."""
        sampling = prompt.sampling
        asked: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            # The protocol's seed is a 64-bit integer, but some servers take 32 bits and no sign.
            "seed": prompt.seed % 2**31,
        }
        if sampling.top_p < 1:
            asked["top_p"] = sampling.top_p
        if sampling.top_k:
            asked["top_k"] = sampling.top_k
        if sampling.stop:
            asked["stop"] = list(sampling.stop)
        if prompt.messages is not None:
            asked["messages"] = [{"role": m.role, "content": m.content} for m in prompt.messages]
        else:
            asked["prompt"] = prompt.prompt
        return {**asked, **dict(self.extra)}

    def wait_before(self, prompt: Prompt, attempt: int, after: float | None) -> float:
        """Seconds before attempt 1, 2, ...: full jitter by hash of the row, on top of what the server asked for."""
        jitter = hash64("backoff", prompt.id, prompt.seed, attempt) / 2**64
        return (after or 0.0) + jitter * min(self.longest_backoff, self.backoff * 2.0 ** (attempt - 1))


class _Batch:
    """One call of `generate`: what its threads share."""

    def __init__(self, generator: OpenAIGenerator, secret: str | None) -> None:
        self.generator, self.secret = generator, secret
        self.stopped = threading.Event()
        self.fatal: str | None = None  # what no further row can survive
        self.lock = threading.Lock()
        self.not_before = 0.0  # a server that asked one row to wait means all of them
        self.opener = urllib.request.build_opener(_NoRedirect)

    def run(self, prompt: Prompt) -> Completion:
        start = time.monotonic()
        try:
            completion = self._attempts(prompt, start)
        except _RowFailed as failure:
            seconds = time.monotonic() - start
            if failure.refusal:
                return Completion(prompt.id, "", "refusal", seconds=seconds)
            completion = Completion(prompt.id, None, "error", seconds=seconds, error=self._clean(str(failure)))
        return completion

    def _attempts(self, prompt: Prompt, start: float) -> Completion:
        unreachable = True
        for attempt in range(self.generator.retries + 1):
            self._pause(max(0.0, self.not_before - time.monotonic()))
            try:
                return self._once(prompt, start)
            except _Transient as failure:
                unreachable = unreachable and failure.unreachable
                if attempt == self.generator.retries:
                    self._spent(str(failure), unreachable)
                if failure.after is not None and failure.after > self.generator.longest_wait:
                    most = self.generator.longest_wait
                    raise _RowFailed(
                        f"{self._server()} asks to wait {failure.after:.0f} s, over {most:.0f} s"
                    ) from None
                if failure.after is not None:
                    with self.lock:
                        self.not_before = max(self.not_before, time.monotonic() + failure.after)
                self._pause(self.generator.wait_before(prompt, attempt + 1, failure.after))
        raise AssertionError("the last attempt returns or raises")

    def _spent(self, what: str, unreachable: bool) -> NoReturn:
        tried = f"{self.generator.retries + 1} attempts"
        if unreachable:
            self._stop(f"{self._server()} can't be reached after {tried} ({what}); start it, or check the address")
        raise _RowFailed(f"{self._server()} failed in {tried}; the last one: {what}")

    def _stop(self, why: str) -> None:
        """No row is sent any more; those that wait fail with the reason."""
        self.fatal = self._clean(why)
        self.stopped.set()

    def _pause(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise _RowFailed(self.fatal or "the batch was stopped")

    def _server(self) -> str:
        return f"the server {self.generator.base_url}"

    def _clean(self, text: str) -> str:
        """Servers repeat the key that they refuse."""
        return text.replace(self.secret, "[key]") if self.secret else text

    def _once(self, prompt: Prompt, start: float) -> Completion:
        path = "/completions" if prompt.messages is None else "/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "betr-bare"}
        if self.secret:
            headers["Authorization"] = f"Bearer {self.secret}"
        data = json.dumps(self.generator.body(prompt)).encode()
        request = urllib.request.Request(self.generator.base_url + path, data, headers, method="POST")
        deadline = time.monotonic() + self.generator.timeout
        try:
            with self.opener.open(request, timeout=self.generator.timeout) as response:
                content = _read(response, deadline)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(_why(error), unreachable=_is_unreachable(error)) from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise _Transient("its answer is no JSON") from None
        return _completion(prompt, answer, time.monotonic() - start)

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        """Retry, fail the row, or stop the batch, by the status."""
        with error:
            words, kind = _message(error)
        # The key is taken out before the text is cut, or half of it might stay.
        words = " ".join(self._clean(words).split())[:200]
        said = f"HTTP {error.code}" + (f": {words}" if words else "")
        if error.code in RETRIED or error.code >= 500:
            raise _Transient(said, after=_retry_after(error.headers.get("Retry-After"))) from None
        if kind == "content_filter":
            raise _RowFailed(said, refusal=True) from None
        generator, server = self.generator, self._server()
        key = generator._key_source()
        fatal = {
            401: f"{server} refuses the key from {key} ({said}); set a valid one",
            403: f"{server} forbids model {generator.model} to the key from {key} ({said}); ask for access",
            404: f"{server} knows no model {generator.model} or no such address ({said}); check both",
        }
        if 300 <= error.code < 400:
            # Not followed: the key would go along to wherever it points.
            fatal[error.code] = f"{server} sends requests elsewhere ({said}); give the address that answers"
        if error.code in fatal:
            self._stop(fatal[error.code])
        raise _RowFailed(said) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _read(response: Any, deadline: float) -> bytes:
    """The whole answer before the deadline: a socket's own time-out begins anew with every byte."""
    parts, size = [], 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        if size > MOST_BYTES:
            raise http.client.HTTPException(f"its answer is longer than {MOST_BYTES:,} bytes")
    return b"".join(parts)


def _completion(prompt: Prompt, answer: Any, seconds: float) -> Completion:
    try:
        choice = answer["choices"][0]
        reason = choice.get("finish_reason")
        if prompt.messages is None:
            text, refusal = choice["text"], None
        else:
            text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        usage = answer.get("usage") or {}
        tokens_in, tokens_out = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _Transient("its answer has no completion in it") from None
    if not isinstance(text, str | None) or not isinstance(refusal, str | None) or not isinstance(reason, str | None):
        raise _Transient("its answer has no completion in it")
    if reason not in FINISHED:
        raise _RowFailed(f"the model ended with the finish reason {reason!r}, which is none of text's")
    if refusal:
        return Completion(prompt.id, refusal, "refusal", tokens_in, tokens_out, seconds)
    text = text or ""
    # Some servers keep the stop text in the answer, or don't stop at it.
    found = [at for stop in prompt.sampling.stop if (at := text.find(stop)) >= 0]
    if found and reason != "content_filter":
        return Completion(prompt.id, text[: min(found)], "stop", tokens_in, tokens_out, seconds)
    return Completion(prompt.id, text, FINISHED[reason], tokens_in, tokens_out, seconds)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(error: urllib.error.HTTPError) -> tuple[str, str | None]:
    """What the server says of an error, and its code."""
    try:
        text = error.read(1 << 16).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return "", None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text, None
    inner = said.get("error", said.get("message", said)) if isinstance(said, dict) else said
    code = inner.get("code") if isinstance(inner, dict) else None
    words = inner.get("message", inner) if isinstance(inner, dict) else inner
    return str(words), code if isinstance(code, str) else None


def _retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After in seconds or as an HTTP date, None where there is none to read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) if header.strip().replace(".", "", 1).isdigit() else _until(header)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def _is_unreachable(error: Exception) -> bool:
    """Whether nothing was there, unlike a server that is there and slow or cuts the line.

    urllib wraps what fails while it connects and sends; what fails afterwards comes as it is.
    """
    cut = isinstance(getattr(error, "reason", None), ConnectionResetError | BrokenPipeError)
    return isinstance(error, urllib.error.URLError) and not cut
