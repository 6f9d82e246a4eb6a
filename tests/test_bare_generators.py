"""Generators: names, the script, and the HTTP client against a server that fails on purpose."""

from __future__ import annotations

import email.utils
import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Completion, Message, Prompt, Sampling
from bare.generators.scripted import ScriptedGenerator
from bare.generators.spec import OpenAISpec, ScriptedSpec, TransformersSpec, VllmSpec, parse_generator
from curation.errors import InputError

SECRET = "sk-not-for-anyones-eyes"  # made up

# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("transformers:/models/base", TransformersSpec("/models/base")),
        ("transformers:org/base@v1.2", TransformersSpec("org/base", "v1.2")),
        ("vllm:org/base", VllmSpec("org/base")),
        ("openai:small@http://localhost:8000", OpenAISpec("small", "http://localhost:8000/v1")),
        ("openai:small@http://localhost:8000/v1/", OpenAISpec("small", "http://localhost:8000/v1")),
        ("openai:org/small@main@https://host.example/serving-endpoints", OpenAISpec("org/small@main", "https://host.example/serving-endpoints")),
        ("scripted:answers.json", ScriptedSpec("answers.json")),
    ],
)
def test_a_generators_name_is_read_and_written_alike(text: str, spec: object) -> None:
    assert parse_generator(text) == spec
    assert parse_generator(str(spec)) == spec


def test_a_folder_may_hold_an_at_sign(tmp_path: Path) -> None:
    (tmp_path / "base@2").mkdir()
    assert parse_generator(f"transformers:{tmp_path}/base@2") == TransformersSpec(f"{tmp_path}/base@2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt", "of no known kind; write one of transformers:PATH_OR_NAME"),
        ("anthropic:x", "of no known kind"),
        ("transformers:", "names nothing after transformers:"),
        ("transformers:base@", "an @ without a model before it or a revision after it"),
        ("openai:small", "must be openai:MODEL@BASE_URL"),
        ("openai:small@localhost:8000", "must be openai:MODEL@BASE_URL"),
        ("openai:small@http://", "must be openai:MODEL@BASE_URL"),
        ("openai:small@http://:80", "must be http://host"),
        ("openai:small@http://host:port", "malformed"),
        (f"openai:small@https://{SECRET}@host.example/v1", "holds a user, a query or a fragment"),
        (f"openai:small@https://host.example/v1?key={SECRET}", "holds a user, a query or a fragment"),
        (f"openai:small@{SECRET}", "must be openai:MODEL@BASE_URL"),
    ],
)  # fmt: skip
def test_a_name_that_is_none_is_refused_and_a_secret_in_it_not_repeated(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_generator(text)
    assert SECRET not in str(caught.value)


# -- protocol ----------------------------------------------------------------------------------------------------------


def test_rows_are_checked_at_birth() -> None:
    with pytest.raises(InputError, match="either raw text or messages"):
        Prompt("a", 0)
    with pytest.raises(InputError, match="either raw text or messages"):
        Prompt("a", 0, "text", (Message("user", "text"),))
    with pytest.raises(InputError, match="seed must lie in"):
        Prompt("a", -1, "text")
    with pytest.raises(InputError, match="only finish_reason error has an error"):
        Completion("a", "text", "error", error="why")
    with pytest.raises(InputError, match="only finish_reason error has an error"):
        Completion("a", None, "stop")
    with pytest.raises(InputError, match="max_tokens must be at least 1"):
        Sampling(max_tokens=0)


# -- the script --------------------------------------------------------------------------------------------------------

SCRIPT = r"""
rules:
  - match: 'refine: (?P<what>[^\n]+)'
    answers: ['better ${what} [end] and more']
  - match: 'forbidden'
    answers: ["I can't."]
    finish_reason: refusal
  - match: 'broken'
    answers: ['the pipe burst']
    finish_reason: error
  - match: '^draft'
    answers: ['one ${seed}', 'two ${number:3-5} ${pick:a|b}', 'three ${number:0-9} ${number:0-9}']
"""


def scripted(tmp_path: Path, script: str = SCRIPT) -> ScriptedGenerator:
    path = tmp_path / "script.yaml"
    path.write_text(script, encoding="utf-8")
    return ScriptedGenerator.from_file(str(path))


def prompt(number: int, text: str, **sampling: Any) -> Prompt:
    return Prompt(f"row{number}", number, text, sampling=Sampling(**sampling))


def test_the_first_rule_that_matches_answers(tmp_path: Path) -> None:
    generator = scripted(tmp_path)
    rows = [prompt(1, "refine: it"), prompt(2, "forbidden"), prompt(3, "broken"), prompt(4, "something else")]
    refined, refused, failed, unknown = generator.generate(rows)
    assert refined == Completion("row1", "better it [end] and more", "stop", 2, 5)
    assert (refused.finish_reason, refused.text) == ("refusal", "I can't.")
    assert (failed.finish_reason, failed.text, failed.error) == ("error", None, "the pipe burst")
    assert unknown.finish_reason == "error" and "no rule of the script matches" in str(unknown.error)
    chat = Prompt("chat", 1, messages=(Message("system", "be kind"), Message("user", "refine: it")))
    assert generator.generate([chat])[0].text == refined.text


def test_an_answer_ends_at_its_stop_text_or_its_length(tmp_path: Path) -> None:
    generator = scripted(tmp_path)
    assert generator.generate([prompt(1, "refine: it", stop=("[end]",))])[0].text == "better it "
    cut = generator.generate([prompt(1, "refine: it", max_tokens=2)])[0]
    assert (cut.text, cut.finish_reason, cut.tokens_out) == ("better it", "length", 2)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_an_answer_depends_on_its_own_seed_alone(seeds: list[int]) -> None:
    generator = ScriptedGenerator.from_data(["one ${seed}", "two ${number:3-5} ${pick:a|b}"])
    rows = [Prompt(str(n), seed, "draft") for n, seed in enumerate(seeds)]
    whole = generator.generate(rows)
    assert [generator.generate([row])[0] for row in rows] == whole
    assert pickle.loads(pickle.dumps(generator)).generate(rows[::-1]) == whole[::-1]


def test_all_answers_and_draws_come_up() -> None:
    generator = ScriptedGenerator.from_data(["one", "two ${number:3-5} ${pick:a|b}"])
    texts = {c.text for c in generator.generate([prompt(n, "x") for n in range(200)])}
    assert texts == {"one"} | {f"two {n} {p}" for n in (3, 4, 5) for p in "ab"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("[]", "must be a list of rules or of answers"),
        ("rules: {}", "must be a list of rules or of answers"),
        ("[{answers: []}]", "has no answers"),
        ("[{answers: [yes]}]", "answers must be texts"),
        ("[{answer: [a]}]", "a rule is a mapping of match, answers, finish_reason"),
        ("[{answers: [a], match: '('}]", "is no regular expression"),
        ("[{answers: [a], match: 3}]", "match must be a text"),
        ("[{answers: [a], finish_reason: done}]", "finish_reason must be one of stop, length, refusal, error"),
        ("[{answers: ['${what}']}]", "is none of"),
        ("[{answers: ['${number:5-3}']}]", "is none of"),
        ("[", "is malformed"),
    ],
)
def test_a_script_that_breaks_a_rule_is_refused_with_its_path(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        scripted(tmp_path, script)
    assert "script.yaml" in str(caught.value)


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        ScriptedGenerator.from_file(str(tmp_path / "none.json"))


# -- HTTP --------------------------------------------------------------------------------------------------------------

Answer = Callable[["Handler", dict[str, Any], int], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answer`, which is told how often this row has asked before."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        with self.server.lock:
            before = sum(asked["words"] == words for asked in self.server.asked)
            self.server.asked.append(
                {"path": self.path, "words": words, "body": body, "at": time.monotonic(), "key": self.headers["Authorization"]}
            )
            self.server.open_now += 1
            self.server.open_most = max(self.server.open_most, self.server.open_now)
            self.is_open = True
        try:
            self.server.answer(self, body, before)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up
        finally:
            self.ends()

    def ends(self) -> None:
        """Before the answer's first byte: the client may ask again before this thread comes to count."""
        with self.server.lock:
            self.server.open_now -= self.is_open
            self.is_open = False

    def send(self, status: int, content: Any, **headers: str) -> None:
        self.ends()
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.open_now = self.open_most = 0
        self.answer: Answer = good

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def good(handler: Handler, body: dict[str, Any], before: int) -> None:
    words = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    choice: dict[str, Any] = {"finish_reason": "stop"}
    if "prompt" in body:
        choice["text"] = f"echo {words} {body['seed']}"
    else:
        choice["message"] = {"role": "assistant", "content": f"chat {words}"}
    handler.send(200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 7}})


def then_good(first: Answer, times: int = 1) -> Answer:
    def answer(handler: Handler, body: dict[str, Any], before: int) -> None:
        (first if before < times else good)(handler, body, before)

    return answer


def status(code: int, content: Any = b"", **headers: str) -> Answer:
    return lambda handler, body, before: handler.send(code, content, **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def client(server: Server, **settings: Any) -> OpenAIGenerator:
    return OpenAIGenerator("small", server.url, **{"backoff": 0.002, "timeout": 5.0, "retries": 3, "key": lambda: SECRET, **settings})


def rows(count: int) -> list[Prompt]:
    return [prompt(n, f"row {n}") for n in range(count)]


def test_base_models_are_asked_for_completions_and_instruct_models_for_chat(server: Server) -> None:
    chat = Prompt("c", 2**40 + 5, messages=(Message("system", "be kind"), Message("user", "hello")), sampling=Sampling(temperature=0.0))
    raw = prompt(4, "once", top_p=0.9, top_k=40, max_tokens=12, stop=("[/x]",))
    first, second = client(server, concurrency=1, extra=(("min_p", 0.1),)).generate([raw, chat])
    assert first == Completion("row4", "echo once 4", "stop", 3, 7, first.seconds) and first.seconds > 0
    assert second.text == "chat hello"
    asked = {a["path"]: a["body"] for a in server.asked}
    assert asked["/v1/completions"] == {
        "model": "small", "prompt": "once", "temperature": 0.7, "max_tokens": 12, "seed": 4, "top_p": 0.9, "top_k": 40,
        "stop": ["[/x]"], "min_p": 0.1,
    }  # fmt: skip
    assert asked["/v1/chat/completions"] == {
        "model": "small", "temperature": 0.0, "max_tokens": 1000, "seed": (2**40 + 5) % 2**31, "min_p": 0.1,
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}],
    }  # fmt: skip
    assert {a["key"] for a in server.asked} == {f"Bearer {SECRET}"}


def test_completions_come_in_the_order_of_prompts_with_no_more_at_once_than_allowed(server: Server) -> None:
    def slow(handler: Handler, body: dict[str, Any], before: int) -> None:
        time.sleep(0.01 * (body["seed"] % 3))
        good(handler, body, before)

    server.answer = slow
    completions = client(server, concurrency=3).generate(rows(12))
    assert [c.text for c in completions] == [f"echo row {n} {n}" for n in range(12)]
    assert 1 < server.open_most <= 3


def cut_line(handler: Handler, body: dict[str, Any], before: int) -> None:
    handler.connection.close()


def cut_in_the_middle(handler: Handler, body: dict[str, Any], before: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"te')
    handler.wfile.flush()
    handler.connection.close()


@pytest.mark.parametrize(
    "failure",
    [status(500, b"oops"), status(503), status(429), status(408), status(409), cut_line, cut_in_the_middle,
     status(200, b"<html>a proxy speaks</html>"), status(200, {"choices": []}), status(200, {"choices": [{"text": 5}]}),
     status(200, [1, 2]), status(200, b"[" * 100_000)],
    ids=["500", "503", "429", "408", "409", "cut", "cut_in_the_middle", "html", "no_choice", "no_text", "list", "nested"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server: Server, failure: Answer) -> None:
    server.answer = then_good(failure, times=2)
    assert [c.text for c in client(server).generate(rows(2))] == ["echo row 0 0", "echo row 1 1"]
    assert len(server.asked) == 6


def test_a_row_whose_attempts_are_spent_is_a_row_with_an_error(server: Server) -> None:
    def bad_row(handler: Handler, body: dict[str, Any], before: int) -> None:
        (status(500, b"oops") if body["prompt"] == "row 1" else good)(handler, body, before)

    server.answer = bad_row
    first, second, third = client(server).generate(rows(3))
    assert (first.text, third.text) == ("echo row 0 0", "echo row 2 2")
    assert (second.finish_reason, second.text) == ("error", None)
    assert "failed in 4 attempts; the last one: HTTP 500: oops" in str(second.error)


def test_a_slow_answer_is_cut_at_the_time_out_and_tried_again(server: Server) -> None:
    def trickle(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(40):  # every byte comes before a socket's time-out, the whole does not
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    def silent(handler: Handler, body: dict[str, Any], before: int) -> None:
        time.sleep(0.4)

    for failure in (trickle, silent):
        server.asked.clear()
        server.answer = then_good(failure)
        start = time.monotonic()
        assert client(server, timeout=0.15).generate(rows(1))[0].text == "echo row 0 0"
        assert time.monotonic() - start < 0.7 and len(server.asked) == 2


def test_a_servers_retry_after_in_seconds_is_waited_for_by_all_rows(server: Server) -> None:
    def busy(handler: Handler, body: dict[str, Any], before: int) -> None:
        first = len(server.asked) == 1
        (status(429, {"error": {"message": "slow down"}}, Retry_After="0.3") if first else good)(handler, body, before)

    server.answer = busy
    completions = client(server, concurrency=1).generate(rows(3))
    assert [c.finish_reason for c in completions] == ["stop"] * 3
    at = [a["at"] for a in server.asked]
    assert at[1] - at[0] >= 0.29 and at[3] - at[1] < 0.25


def test_a_retry_after_may_be_a_date(server: Server) -> None:
    def busy(handler: Handler, body: dict[str, Any], before: int) -> None:
        date = email.utils.formatdate(time.time() + 1.5, usegmt=True)  # whole seconds: 0.5 to 1.5 from now
        handler.send(503, b"", Retry_After=date)

    server.answer = then_good(busy)
    client(server).generate(rows(1))
    assert 0.4 < server.asked[1]["at"] - server.asked[0]["at"] < 2


@pytest.mark.parametrize("header", ["soon", "-5", "", "99999999999999999999 GMT"])
def test_a_retry_after_that_says_nothing_is_passed_over(server: Server, header: str) -> None:
    server.answer = then_good(status(429, b"", Retry_After=header))
    assert client(server).generate(rows(1))[0].finish_reason == "stop"


def test_a_server_that_asks_for_too_long_a_wait_fails_the_row_at_once(server: Server) -> None:
    server.answer = status(429, b"", Retry_After="3600")
    completion = client(server).generate(rows(1))[0]
    assert "asks to wait 3600 s, over 300 s" in str(completion.error) and len(server.asked) == 1


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_row_that_the_server_rejects_is_not_sent_again(server: Server, code: int) -> None:
    def reject(handler: Handler, body: dict[str, Any], before: int) -> None:
        wrong = body["prompt"] == "row 0"
        (status(code, {"error": {"message": "too long", "code": None}}) if wrong else good)(handler, body, before)

    server.answer = reject
    first, second = client(server).generate(rows(2))
    assert f"HTTP {code}: too long" in str(first.error) and second.finish_reason == "stop"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [(401, "refuses the key from the environment variable BARE_TEST_KEY"), (403, "forbids model small"),
     (404, "knows no model small or no such address"), (307, "sends requests elsewhere")],
)  # fmt: skip
def test_what_no_row_can_survive_is_one_error_without_the_key(
    server: Server, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARE_TEST_KEY", SECRET)
    headers = {"Location": server.url + "/completions"} if code == 307 else {}
    server.answer = status(code, {"error": {"message": f"Incorrect API key provided: {SECRET}"}}, **headers)
    with pytest.raises(InputError, match=message) as caught:
        client(server, key=None, key_variable="BARE_TEST_KEY", concurrency=2).generate(rows(20))
    assert SECRET not in str(caught.value) and "[key]" in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.asked) <= 4  # the rest of the batch isn't sent


def test_a_server_that_is_down_is_one_error_after_the_retries() -> None:
    gone = Server()
    url = gone.url
    gone.server_close()
    generator = OpenAIGenerator("small", url, retries=2, backoff=0.002, key=lambda: SECRET)
    with pytest.raises(InputError, match=r"can't be reached after 3 attempts \(.*refused.*\); start it, or check the address$") as caught:
        generator.generate(rows(5))
    assert SECRET not in str(caught.value)


def test_a_server_that_goes_down_halfway_keeps_what_is_done(server: Server) -> None:
    def last_word(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["prompt"] == "row 1":
            server.socket.shutdown(socket.SHUT_RDWR)  # nothing listens any more
        good(handler, body, before)

    server.answer = last_word
    completions = client(server, concurrency=1, retries=1).generate(rows(4))
    assert [c.finish_reason for c in completions] == ["stop", "stop", "error", "error"]
    assert "can't be reached after 2 attempts" in str(completions[3].error)


def test_a_key_that_is_revoked_halfway_keeps_what_is_done(server: Server) -> None:
    def revoke(handler: Handler, body: dict[str, Any], before: int) -> None:
        (good if body["prompt"] in ("row 0", "row 1") else status(401))(handler, body, before)

    server.answer = revoke
    completions = client(server, concurrency=1).generate(rows(5))
    assert [c.finish_reason for c in completions] == ["stop", "stop", "error", "error", "error"]
    assert "refuses the key" in str(completions[4].error) and len(server.asked) == 3


@pytest.mark.parametrize(
    ("choice", "text", "finish"),
    [
        ({"message": {"content": "ab"}, "finish_reason": "length"}, "ab", "length"),
        ({"message": {"content": "ab"}, "finish_reason": "content_filter"}, "ab", "refusal"),
        ({"message": {"content": None, "refusal": "I can't."}, "finish_reason": "stop"}, "I can't.", "refusal"),
        ({"message": {"content": None}, "finish_reason": "stop"}, "", "stop"),
        ({"message": {"content": "ab"}}, "ab", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons_are_those_of_the_protocol(server: Server, choice: dict[str, Any], text: str, finish: str) -> None:
    server.answer = status(200, {"choices": [choice], "usage": {"prompt_tokens": "many"}})
    (completion,) = client(server).generate([Prompt("a", 0, messages=(Message("user", "hi"),))])
    assert (completion.text, completion.finish_reason, completion.tokens_in) == (text, finish, None)


def test_a_stop_text_that_a_server_keeps_is_cut(server: Server) -> None:
    server.answer = status(200, {"choices": [{"text": "one [/x] two [/y]", "finish_reason": "length"}]})
    (cut,) = client(server).generate([prompt(0, "row", stop=("[/y]", "[/x]"))])
    assert (cut.text, cut.finish_reason) == ("one ", "stop")
    (kept,) = client(server).generate([prompt(0, "row", stop=("[/z]",))])
    assert (kept.text, kept.finish_reason) == ("one [/x] two [/y]", "length")


def test_unknown_finish_reasons_and_filtered_prompts_are_rows_with_a_reason(server: Server) -> None:
    server.answer = status(200, {"choices": [{"text": "x", "finish_reason": "tool_calls"}]})
    assert "'tool_calls'" in str(client(server).generate(rows(1))[0].error)
    server.answer = status(400, {"error": {"message": "filtered", "code": "content_filter"}})
    assert client(server).generate(rows(1))[0].finish_reason == "refusal"


def test_the_key_is_nowhere_but_in_the_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARE_TEST_KEY", SECRET)
    generator = client(server, key=None, key_variable="BARE_TEST_KEY")
    server.answer = status(500, f"{'x' * 180} your key {SECRET} is fine, we are not".encode())
    (completion,) = generator.generate(rows(1))
    assert server.asked[0]["key"] == f"Bearer {SECRET}"
    for shown in (repr(generator), repr(completion), str(completion.error)):
        assert SECRET[:4] not in shown  # nor the half of it that is left where a long text is cut
    assert SECRET.encode() not in pickle.dumps(generator)
    assert SECRET not in repr(client(server)) and "lambda" not in repr(client(server))
    monkeypatch.delenv("BARE_TEST_KEY")
    server.asked.clear()
    generator.generate(rows(1))
    assert server.asked[0]["key"] is None  # a server of one's own needs none


def test_a_secret_scope_that_fails_is_one_error_that_repeats_nothing(server: Server) -> None:
    def broken() -> str:
        raise RuntimeError(f"no scope for {SECRET}")

    with pytest.raises(InputError, match=r"the key can't be read \(RuntimeError\)") as caught:
        client(server, key=broken).generate(rows(1))
    assert SECRET not in str(caught.value)
    with pytest.raises(InputError, match="characters that no HTTP header can"):
        client(server, key=lambda: SECRET + "\n").generate(rows(1))


@given(st.text(max_size=5), st.integers(0, 2**63 - 1), st.integers(1, 40))
@settings(deadline=None)
def test_backoff_is_the_rows_own_and_bounded(name: str, seed: int, attempt: int) -> None:
    generator = OpenAIGenerator("small", "http://host.example", backoff=0.5, longest_backoff=30)
    row = Prompt(name, seed, "x")
    wait = generator.wait_before(row, attempt, None)
    assert 0 <= wait <= min(30, 0.5 * 2 ** (attempt - 1))
    assert wait == generator.wait_before(row, attempt, None)
    assert generator.wait_before(row, attempt, 31.0) == 31.0 + wait


def test_settings_are_checked_at_birth() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": " "}, "name is empty"), ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"timeout": 0}, "timeout must be above 0"), ({"retries": -1}, "retries must be 0 or more"),
        ({"base_url": "ftp://host"}, "must be http://host"),
    ]  # fmt: skip
    for setting, message in wrong:
        with pytest.raises(InputError, match=message):
            OpenAIGenerator(**{"model": "small", "base_url": "http://host", **setting})


def test_an_empty_batch_asks_nothing(server: Server) -> None:
    assert client(server).generate([]) == [] and server.asked == []
