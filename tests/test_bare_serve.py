"""OpenAIGenerator against a real server, `transformers serve`, with a tiny random model and, where it is fetched, a real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("fastapi")

from bare.generators.load import GeneratorSettings, open_generator  # noqa: E402
from bare.generators.openai import OpenAIGenerator  # noqa: E402
from bare.generators.protocol import Message, Prompt, Sampling  # noqa: E402
from curation.errors import InputError  # noqa: E402
from tests.test_bare_transformers import TEMPLATE, tiny, train_tokenizer  # noqa: E402

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.processes]


REAL = Path(os.environ["BETR_HOME"]) / "demo-models" / "smollm2-135m-instruct"


@pytest.fixture(
    scope="module",
    params=[
        "tiny",
        pytest.param(
            "real", marks=pytest.mark.skipif(not REAL.exists(), reason="`make demo-bare` fetches the real models")
        ),
    ],
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The model's name and the server's address."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    if request.param == "tiny":
        tokenizer = train_tokenizer()
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folder)
        tiny("llama").save_pretrained(folder)
    else:
        folder = REAL
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home / "log"
    command = [
        sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder),
        "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield str(folder), f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server didn't start: {log.read_text(errors='replace')[-3000:]}")


def test_raw_and_chat_rows_come_from_a_real_server(served: tuple[str, str]) -> None:
    folder, url = served
    generator = open_generator(f"openai:{folder}@{url}", GeneratorSettings())
    assert isinstance(generator, OpenAIGenerator)
    sampling = Sampling(temperature=0.9, top_p=0.95, max_tokens=12)
    raw = [Prompt(f"raw{n}", n, f"{n} loaves of bread", sampling=sampling) for n in range(3)]
    chat = [Prompt("chat", 7, messages=(Message("user", "12 loaves"),), sampling=sampling)]
    done = generator.generate([*raw, *chat])
    assert [c.id for c in done] == ["raw0", "raw1", "raw2", "chat"]
    for completion in done:
        assert completion.error is None and completion.text and completion.finish_reason in ("stop", "length")
        assert completion.tokens_in and completion.tokens_out is not None and 0 < completion.tokens_out <= 12
        assert completion.finish_reason == "stop" or completion.tokens_out == 12


def test_greedy_rows_are_those_of_the_same_model_in_process(served: tuple[str, str]) -> None:
    folder, url = served
    sampling = Sampling(temperature=0.0, max_tokens=10)
    prompts = [
        Prompt("raw", 1, "Tom has 3 boxes", sampling=sampling),
        Prompt("chat", 1, messages=(Message("user", "How many pens?"),), sampling=sampling),
    ]
    over_http = OpenAIGenerator(folder, url, key_variable=None).generate(prompts)
    in_process = open_generator(
        f"transformers:{folder}", GeneratorSettings(precision="float32")
    ).generate(prompts)
    assert [(c.text, c.tokens_in, c.tokens_out) for c in over_http] == [
        (c.text, c.tokens_in, c.tokens_out) for c in in_process
    ]
    # A stop text ends both, and neither keeps it.
    text = in_process[0].text or ""
    stop = Sampling(temperature=0.0, max_tokens=10, stop=(text[3:5],))
    (http,) = OpenAIGenerator(folder, url, key_variable=None).generate([Prompt("raw", 1, "Tom has 3 boxes", sampling=stop)])
    assert (http.text, http.finish_reason) == (text[: text.find(text[3:5])], "stop")


def test_a_model_that_the_server_does_not_hold_is_said(served: tuple[str, str]) -> None:
    _, url = served
    generator = OpenAIGenerator("another", url, key_variable=None, retries=0)
    (row,) = generator.generate([Prompt("a", 1, "x", sampling=Sampling(max_tokens=2))])
    assert row.finish_reason == "error" and "another" in str(row.error)
    with pytest.raises(InputError, match="can't be reached"):
        OpenAIGenerator("any", "http://127.0.0.1:9", retries=0).generate([Prompt("a", 1, "x")])
