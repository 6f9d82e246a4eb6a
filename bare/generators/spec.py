"""How a person names a generator: transformers:MODEL[@revision], vllm:MODEL, openai:MODEL@BASE_URL, scripted:FILE."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from curation.errors import InputError

FORMS = "transformers:PATH_OR_NAME[@revision], vllm:NAME, openai:MODEL@BASE_URL, scripted:FILE"


@dataclass(frozen=True)
class TransformersSpec:
    """A model that transformers loads: a folder, or a name on the hub with its branch, tag or commit."""

    model: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"transformers:{self.model}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class VllmSpec:
    """A model that vLLM loads: a folder or a name on the hub."""

    model: str

    def __str__(self) -> str:
        return f"vllm:{self.model}"


@dataclass(frozen=True)
class OpenAISpec:
    """A model behind an OpenAI-compatible server; base_url ends where `/completions` and `/chat/completions` begin."""

    model: str
    base_url: str

    def __str__(self) -> str:
        return f"openai:{self.model}@{self.base_url}"


@dataclass(frozen=True)
class ScriptedSpec:
    """Answers from a script file (JSON or YAML), for tests and dry runs."""

    path: str

    def __str__(self) -> str:
        return f"scripted:{self.path}"


GeneratorSpec = TransformersSpec | VllmSpec | OpenAISpec | ScriptedSpec


def parse_generator(text: str) -> GeneratorSpec:
    """A GENERATOR of the command line; str() of the result names the same generator again. No file is opened."""
    kind, colon, rest = text.strip().partition(":")
    if not colon or kind not in ("transformers", "vllm", "openai", "scripted"):
        raise InputError(f"generator {text!r} is of no known kind; write one of {FORMS}")
    if not rest.strip():
        raise InputError(f"generator {text!r} names nothing after {kind}:; write one of {FORMS}")
    if kind == "openai":
        return _openai(text, rest)
    if kind == "scripted":
        return ScriptedSpec(rest)
    if kind == "vllm":
        return VllmSpec(rest)
    if "@" not in rest or os.path.isdir(rest):  # a folder's own name may hold an @
        return TransformersSpec(rest)
    model, _, revision = rest.rpartition("@")
    if not model or not revision:
        raise InputError(f"generator {text!r} has an @ without a model before it or a revision after it; complete it")
    return TransformersSpec(model, revision)


def priced_as(spec: GeneratorSpec) -> str:
    """What a price table calls it: its model, or a script's path."""
    return spec.path if isinstance(spec, ScriptedSpec) else spec.model


def _openai(text: str, rest: str) -> OpenAISpec:
    found = re.fullmatch(r"(?P<model>.+?)@(?P<url>https?://.+)", rest)
    if found is None:
        # The text isn't repeated: what stands where the address should be may be a key.
        raise InputError("generator openai:... must be openai:MODEL@BASE_URL with an http:// or https:// address")
    return OpenAISpec(found["model"], checked_base_url(found["url"]))


def checked_base_url(url: str) -> str:
    """The address without a slash at its end, `/v1` added to a server alone; one with a secret is refused."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError("the base URL is malformed; write it as https://host:port/v1") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("the base URL must be http://host or https://host, with a port and a path where needed")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"the base URL of {host} holds a user, a query or a fragment, and addresses are logged; "
            "give the address alone, and the key in an environment variable"
        )
    if re.search(r"\s", url):
        raise InputError(f"the base URL of {host} holds a space; remove it")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
