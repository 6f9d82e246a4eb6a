"""Deterministic answers from a script: what stands in for a model wherever something else is tested.

A script is a list of rules, JSON or YAML. The first rule whose `match` (a regular expression) is found in the prompt
answers, with one of its `answers` by hash of the row's seed:

    rules:
      - match: "draft of one more:.*?Q: (?P<question>[^\\n]+)"
        answers: ["Q: ${question}\\nA: ${number:1-99}"]
      - answers: ["Q: How many ${pick:apples|pears} are ${seed}?\\nA: 5"]
        finish_reason: stop

`${seed}` is the row's seed, `${number:1-99}` and `${pick:a|b}` are drawn by hash of it, other names are groups.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from bare.draws import hash64
from bare.generators.protocol import Completion, FinishReason, Prompt
from curation.errors import InputError

_PLACEHOLDER = re.compile(r"\$\{([^{}]*)\}")
_KEYS = ("match", "answers", "finish_reason")


@dataclass(frozen=True)
class Rule:
    """Answers to prompts in which `match` is found (None: all); with finish_reason error it is the message."""

    answers: tuple[str, ...]
    match: str | None = None
    finish_reason: FinishReason = "stop"

    def __post_init__(self) -> None:
        if not self.answers:
            raise InputError("script: a rule has no answers; give at least one")
        if self.finish_reason not in get_args(FinishReason):
            raise InputError(
                f"script: finish_reason must be one of {', '.join(get_args(FinishReason))}; got {self.finish_reason!r}"
            )
        try:
            groups = set(re.compile(self.match or "").groupindex)
        except re.error as error:
            raise InputError(f"script: match {self.match!r} is no regular expression ({error}); correct it") from error
        for answer in self.answers:
            for name in _PLACEHOLDER.findall(answer):
                number = re.fullmatch(r"number:(\d+)-(\d+)", name)
                drawn = re.fullmatch(r"pick:.+", name, re.DOTALL) or (number and int(number[1]) <= int(number[2]))
                if not drawn and name != "seed" and name not in groups:
                    raise InputError(
                        f"script: ${{{name}}} is none of ${{seed}}, ${{number:LOW-HIGH}}, ${{pick:ONE|OTHER}} "
                        f"or a named group of `match`; in the answer {answer[:60]!r}"
                    )


@dataclass(frozen=True)
class ScriptedGenerator:
    """A Generator that says what its rules say; tokens are words, no time passes."""

    rules: tuple[Rule, ...]

    @classmethod
    def from_file(cls, path: str) -> ScriptedGenerator:
        """Rules from a JSON or YAML file: a list of rules, a mapping with `rules`, or a list of answers to anything."""
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"script {path} can't be read ({error}); give a JSON or YAML file in UTF-8") from error
        try:
            data = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"script {path} is malformed ({' '.join(str(error).split())}); correct it") from error
        try:
            return cls.from_data(data)
        except InputError as error:
            raise InputError(f"{error} (in {path})") from None

    @classmethod
    def from_data(cls, data: Any) -> ScriptedGenerator:
        """The same from plain objects."""
        items = data.get("rules") if isinstance(data, Mapping) and set(data) == {"rules"} else data
        if not isinstance(items, list) or not items:
            raise InputError("script: it must be a list of rules or of answers, or a mapping with `rules`; write one")
        if all(isinstance(item, str) for item in items):
            return cls((Rule(tuple(items)),))
        return cls(tuple(_rule(item) for item in items))

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """A row's answer depends on its prompt, seed and sampling; where no rule matches, it is a row with an error."""
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Completion:
        read = prompt.text
        tokens_in = len(read.split())
        for rule in self.rules:
            found = re.search(rule.match or "", read, re.DOTALL)
            if found is None:
                continue
            answer = rule.answers[hash64("answer", prompt.seed) % len(rule.answers)]
            text = _fill(answer, prompt.seed, found)
            if rule.finish_reason == "error":
                return Completion(prompt.id, None, "error", tokens_in, 0, error=text)
            return _limit(Completion(prompt.id, text, rule.finish_reason, tokens_in, 0), prompt)
        return Completion(
            prompt.id, None, "error", tokens_in, 0, error=f"no rule of the script matches the prompt {read[-80:]!r}"
        )


def _rule(item: Any) -> Rule:
    if not isinstance(item, Mapping) or set(item) - set(_KEYS) or not isinstance(item.get("answers"), list):
        raise InputError(f"script: a rule is a mapping of {', '.join(_KEYS)}, where answers is a list; got {item!r}")
    if not all(isinstance(answer, str) for answer in item["answers"]):
        raise InputError(
            f"script: answers must be texts; got {item['answers']!r}. Put quotes around numbers and yes or no"
        )
    if not isinstance(item.get("match"), str | None):
        raise InputError(f"script: match must be a text; got {item['match']!r}")
    return Rule(tuple(item["answers"]), item.get("match"), item.get("finish_reason", "stop"))


def _fill(answer: str, seed: int, found: re.Match[str]) -> str:
    place = 0

    def value(placeholder: re.Match[str]) -> str:
        nonlocal place
        place += 1
        name, drawn = placeholder[1], hash64("placeholder", seed, place)
        if name == "seed":
            return str(seed)
        if name.startswith("number:"):
            low, high = map(int, name.removeprefix("number:").split("-"))
            return str(low + drawn % (high - low + 1))
        if name.startswith("pick:"):
            choices = name.removeprefix("pick:").split("|")
            return choices[drawn % len(choices)]
        return found[name] or ""

    return _PLACEHOLDER.sub(value, answer)


def _limit(completion: Completion, prompt: Prompt) -> Completion:
    """The completion up to its first stop text and its longest length, as a model would have ended it."""
    text = completion.text or ""
    text = text[: min([at for stop in prompt.sampling.stop if (at := text.find(stop)) >= 0], default=len(text))]
    words = list(re.finditer(r"\S+", text))
    if len(words) > prompt.sampling.max_tokens:
        end = words[prompt.sampling.max_tokens - 1].end()
        return replace(completion, text=text[:end], finish_reason="length", tokens_out=prompt.sampling.max_tokens)
    return replace(completion, text=text, tokens_out=len(words))
