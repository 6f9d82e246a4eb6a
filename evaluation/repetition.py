"""How many tokens of training a selection can serve, when it is read again and again.

Muennighoff et al. 2023 (arXiv 2305.16264, section 3): D tokens of which U are unique, R = D / U - 1 repetitions, are
worth D' = U + U R* (1 - exp(-R / R*)) new ones, R* = 15.387756. What is assumed: models
of 7 million to 9 billion parameters and 1 to 500 epochs (182 runs on C4 and OSCAR) gave R*, by loss on text of the same
kind. Nobody has fitted it for a filtered selection, whose text is more alike and may wear out sooner, and what is
read by a model large for it wears out sooner too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from betr.filter_rate import FREE_EPOCHS
from curation.errors import InputError

R_STAR = 15.387756
ASSUMED = (
    "the law was fitted on unfiltered C4 and OSCAR, and nobody knows its constant for a selection, whose text is more "
    "alike",
    "it holds where the model fits its tokens; one that is large for them gains less from every repetition",
    "it speaks of the loss on text of the same kind, not of tasks",
)


@dataclass(frozen=True)
class Repetition:
    """What a selection of `unique` tokens can serve.

    free: tokens up to which repetition costs hardly any loss (4 epochs), worth there: the share of new tokens' value.
    half: tokens from which a further one is worth half a new one; most: new tokens that no repetition can exceed.
    """

    unique: float
    free: float
    worth: float
    half: float
    most: float


def effective_tokens(unique: float, trained: float, *, r_star: float = R_STAR) -> float:
    """How many new tokens training on `trained` tokens out of `unique` ones is worth: all of them up to an epoch."""
    _check(unique, r_star)
    if not (math.isfinite(trained) and trained >= 0):
        raise InputError(f"the tokens trained on must be a number of at least 0; got {trained!r}")
    if trained <= unique:
        return float(trained)
    again = trained / unique - 1
    return unique * (1 - r_star * math.expm1(-again / r_star))


def worth_of_next(unique: float, trained: float, *, r_star: float = R_STAR) -> float:
    """What a further token is worth of a new one, dD'/dD: 1 within the first epoch, then exp(-R / R*)."""
    _check(unique, r_star)
    return math.exp(-max(0.0, trained / unique - 1) / r_star)


def repetition(unique: float, *, epochs: float = FREE_EPOCHS, r_star: float = R_STAR) -> Repetition:
    """How far a selection reaches. epochs: how often reading it all counts as free."""
    _check(unique, r_star)
    if not (math.isfinite(epochs) and epochs >= 1):
        raise InputError(f"the epochs that count as free must be at least 1; got {epochs!r}")
    free = epochs * unique
    worth = effective_tokens(unique, free, r_star=r_star) / free
    return Repetition(unique, free, worth, unique * (1 + r_star * math.log(2)), unique * (1 + r_star))


def tokens_worth(unique: float, effective: float, *, r_star: float = R_STAR) -> float | None:
    """How many tokens must be trained on to be worth so many new ones; None where no repetition is."""
    _check(unique, r_star)
    if effective <= unique:
        return float(effective)
    left = 1 - (effective / unique - 1) / r_star
    return unique * (1 - r_star * math.log(left)) if left > 0 else None


def _check(unique: float, r_star: float) -> None:
    if not (math.isfinite(unique) and unique > 0):
        raise InputError(f"a selection's unique tokens must be a number above 0; got {unique!r}")
    if not (math.isfinite(r_star) and r_star > 0):
        raise InputError(f"R* must be a number above 0; got {r_star!r}")
