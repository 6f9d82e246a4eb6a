"""The protocol: rows of prompts in, rows of completions out, a completion depends on its own prompt and seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from curation.errors import InputError

FinishReason = Literal["stop", "length", "refusal", "error"]
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: top_p 1 and top_k 0 leave every token in; stop: texts that end a completion, not kept."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1000
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise InputError(f"sampling: temperature must lie in [0, 2]; got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling: top_p must lie in (0, 1]; got {self.top_p!r} (1 leaves every token in)")
        if self.top_k < 0:
            raise InputError(f"sampling: top_k must be 0 (every token) or more; got {self.top_k!r}")
        if self.max_tokens < 1:
            raise InputError(f"sampling: max_tokens must be at least 1; got {self.max_tokens!r}")
        if not all(self.stop):
            raise InputError(f"sampling: a stop text must not be empty; got {self.stop!r}")


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """A row in: raw text for a base model or messages for an instruct model, exactly one of the two.

    prefix: how many of the raw text's first characters it shares with other rows. A generator may compute them once; it
    is part of how the row is computed, so give it wherever the row is made, or nowhere.
    """

    id: str
    seed: int
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: Sampling = Sampling()
    prefix: int = 0

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise InputError(f"prompt {self.id}: give either raw text or messages, not both and not neither")
        if self.messages is not None and not self.messages:
            raise InputError(f"prompt {self.id}: there are no messages; give at least one")
        if not 0 <= self.prefix <= len(self.prompt or ""):
            raise InputError(
                f"prompt {self.id}: prefix must lie in [0, {len(self.prompt or '')}], the raw text's characters; "
                f"got {self.prefix!r}"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"prompt {self.id}: the seed must lie in [0, 2**63); got {self.seed!r}")

    @property
    def text(self) -> str:
        """All that the model reads, as one text: what a prompt is measured and matched by."""
        return self.prompt if self.prompt is not None else "\n".join(m.content for m in self.messages or ())


@dataclass(frozen=True)
class Completion:
    """A row out: text is None where finish_reason is `error`; a count that the model's server doesn't tell is None.

    seconds: from the row's first attempt to its end, waits between attempts included.
    """

    id: str
    text: str | None
    finish_reason: FinishReason
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        if self.finish_reason not in FINISH_REASONS:
            raise InputError(
                f"completion {self.id}: finish_reason must be one of {', '.join(FINISH_REASONS)}; "
                f"got {self.finish_reason!r}"
            )
        failed = self.finish_reason == "error"
        if failed != (self.error is not None) or failed != (self.text is None):
            raise InputError(f"completion {self.id}: only finish_reason error has an error, and it has no text")


class Generator(Protocol):
    """Rows of prompts in, one completion for each out, in their order."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """A row's completion is the same in any batch; a row that fails is a row with an error, not an exception.

        InputError: what no row can survive, such as a server that is down or a refused key.
        """
        ...
