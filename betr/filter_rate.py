"""How much of a pool to keep: a share, a number of tokens, or what the paper's laws say for a training compute.

The laws give the best filter rate, the share of the pool's *tokens* to keep: larger models want less filtering. They
were fitted through runs that kept 3, 10, 30 and 100 percent, and are published with one or two digits of each constant:
Nemotron-CC gives 4.0% at 1e20 FLOPs and 22.5% at 1e23, DCLM-RefinedWeb 3.8% and 10.0%.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from curation.errors import InputError

LOWEST_RATE_TRIED = 0.03
FREE_EPOCHS = 4  # repeating data so often costs hardly any loss (Muennighoff et al., arXiv 2305.16264)
FIXED_PARAMETERS = 6.6e9


@dataclass(frozen=True)
class Law:
    """F% = factor * x^exponent, where x is the compute in FLOPs or, for a model of fixed size, its training tokens."""

    name: str
    factor: float
    exponent: float
    parameters: float | None = None

    def share(self, flops: float) -> float:
        """Share of the pool's tokens to keep, in (0, 1]."""
        x = flops if self.parameters is None else flops / (6 * self.parameters)
        return min(1.0, self.factor * x**self.exponent / 100)


LAWS = {
    law.name: law
    for law in (
        Law("nemotron", 4e-5, 0.25),
        Law("refinedweb", 6e-3, 0.14),
        Law("fixed-6.6b", 0.26, 0.13, parameters=FIXED_PARAMETERS),
    )
}


@dataclass(frozen=True)
class FilterRate:
    """What to keep of a pool.

    keep: share of the pool's tokens, in (0, 1]; tokens: the budget that it makes. From a compute also: the model's
    parameters, its training tokens, and epochs, how often training passes over the kept tokens (below 1: not all are
    needed).
    """

    keep: float
    tokens: int
    epochs: float | None = None
    model_parameters: float | None = None
    training_tokens: float | None = None
    law: str | None = None
    warnings: tuple[str, ...] = ()


def filter_rate(
    *,
    pool_tokens: int,
    keep: float | None = None,
    tokens: int | None = None,
    flops: float | None = None,
    law: str = "nemotron",
    tokens_per_parameter: float = 11,
) -> FilterRate:
    """The filter rate from exactly one of keep (share), tokens (number) and flops (training compute)."""
    ways: dict[str, Callable[[], FilterRate]] = {}
    if keep is not None:
        ways["keep"] = lambda: from_share(keep, pool_tokens)
    if tokens is not None:
        ways["tokens"] = lambda: from_tokens(tokens, pool_tokens)
    if flops is not None:
        ways["flops"] = lambda: from_flops(flops, pool_tokens, law=law, tokens_per_parameter=tokens_per_parameter)
    if len(ways) != 1:
        given = " and ".join(ways) or "none"
        raise InputError(f"say how much to keep by exactly one of keep, tokens and flops; got {given}")
    (way,) = ways.values()
    return way()


def from_share(keep: float, pool_tokens: int) -> FilterRate:
    """Keep this share of the pool's tokens."""
    check_keep(keep)
    _check_pool(pool_tokens)
    # Fraction of the digits, not of the double: 0.29 of 100 tokens is 29, where 0.29 * 100 is 28.999999999999996.
    return FilterRate(keep, int(Fraction(repr(float(keep))) * pool_tokens))


def from_tokens(tokens: int, pool_tokens: int) -> FilterRate:
    """Keep so many tokens; where the pool holds fewer, all of it with a warning."""
    check_tokens(tokens)
    _check_pool(pool_tokens)
    if tokens > pool_tokens:
        warning = (
            f"{tokens:,} tokens are asked for and the pool holds {pool_tokens:,}: everything is kept; "
            "import more documents"
        )
        return FilterRate(1.0, pool_tokens, warnings=(warning,))
    return FilterRate(tokens / pool_tokens, tokens)


def from_flops(
    flops: float, pool_tokens: int, *, law: str = "nemotron", tokens_per_parameter: float = 11
) -> FilterRate:
    """Keep the best share for a training compute of C = 6 N D FLOPs (N parameters, D training tokens).

    D = tokens_per_parameter * N, compute-optimal at 10 to 12 in the paper; the law of the fixed model has N = 6.6e9
    instead. Warns where the kept tokens must be repeated to fill D, and where the rate lies below those tried.
    """
    check_flops(flops)
    check_law(law)
    _check_pool(pool_tokens)
    if not (math.isfinite(tokens_per_parameter) and tokens_per_parameter > 0):
        raise InputError(f"tokens per parameter must be a number above 0; got {tokens_per_parameter!r}")
    fixed = LAWS[law].parameters
    parameters = math.sqrt(flops / (6 * tokens_per_parameter)) if fixed is None else fixed
    training_tokens = flops / (6 * parameters)
    keep = LAWS[law].share(flops)
    kept = int(keep * pool_tokens)
    epochs = training_tokens / kept if kept else math.inf
    warnings = []
    if keep < LOWEST_RATE_TRIED:
        warnings.append(
            f"{flops:.2g} FLOPs give a share of {keep:.2%}, below the {LOWEST_RATE_TRIED:.0%} that was the lowest "
            f"rate tried for the law {law!r}"
        )
    if epochs > 1:
        warnings.append(_too_small(training_tokens, pool_tokens, keep, kept, epochs))
    return FilterRate(keep, kept, epochs, parameters, training_tokens, law, tuple(warnings))


def check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise InputError(f"keep must be a share of tokens in (0, 1]; got {keep!r}: for 10 percent say 0.1")


def check_tokens(tokens: int) -> None:
    if tokens < 1:
        raise InputError(f"tokens must be a whole number of at least 1; got {tokens!r}")


def check_flops(flops: float) -> None:
    if not (math.isfinite(flops) and flops > 0):
        raise InputError(f"flops must be a number above 0, such as 1e21; got {flops!r}")


def check_law(law: str) -> None:
    if law not in LAWS:
        raise InputError(f"there is no law {law!r}; choose one of {', '.join(LAWS)}")


def _check_pool(pool_tokens: int) -> None:
    if pool_tokens < 1:
        raise InputError(f"the pool holds {pool_tokens} tokens, so there is nothing to keep; score documents first")


def _too_small(training_tokens: float, pool_tokens: int, keep: float, kept: int, epochs: float) -> str:
    known = ""
    if epochs > FREE_EPOCHS:
        known = f", more than the {FREE_EPOCHS} that cost hardly any loss (arXiv 2305.16264)"
    needed = training_tokens / keep
    text = (
        f"training takes {training_tokens:.3g} tokens and the share of {keep:.2%} holds {kept:.3g}: "
        f"{epochs:.3g} epochs{known}. A pool of {needed:.3g} tokens would make it one"
    )
    if pool_tokens >= training_tokens:
        return f"{text}, and so would keeping {training_tokens / pool_tokens:.2%} of this pool"
    return f"{text}; all of this pool makes {training_tokens / pool_tokens:.3g}"
