"""What rows cost, before and after, and whether they may be made at all: price table, estimate, licence gate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bare.draws import resampled_counts
from curation.errors import InputError

REPLICATES = 2_000
_KEYS = ("input_per_million", "output_per_million", "per_hour")


@dataclass(frozen=True)
class Price:
    """A model's price: for a million tokens in and out, and for an hour of the machine that it runs on."""

    input_per_million: float = 0.0
    output_per_million: float = 0.0
    per_hour: float = 0.0

    def __post_init__(self) -> None:
        for name in _KEYS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"price: {name} must be a number of 0 or more; got {value!r}")


@dataclass(frozen=True)
class PriceTable:
    """Prices by model, as the generator names it, in one currency."""

    prices: Mapping[str, Price]
    currency: str = "USD"

    def price(self, model: str) -> Price:
        """InputError where the table doesn't know the model: a cost that is left out would read as none."""
        if model not in self.prices:
            raise InputError(
                f"the price table has no price for model {model!r}; it has {', '.join(sorted(self.prices)) or 'none'}. "
                "Add it, with 0 where it costs nothing"
            )
        return self.prices[model]

    def check(self, models: Iterable[str]) -> None:
        """InputError for the first model without a price, before any token is made."""
        for model in sorted(set(models)):
            self.price(model)


def load_prices(path: str) -> PriceTable:
    """A YAML file: `currency: EUR` and `models:`, each with input_per_million, output_per_million, per_hour.

    `machines`, of `betr estimate`, may stand beside them: one file serves both.
    """
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"price table {path} can't be read ({error}); give a YAML file") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"price table {path} is no YAML ({' '.join(str(error).split())}); correct it") from error
    if (
        not isinstance(data, Mapping)
        or set(data) - {"currency", "models", "machines"}
        or not isinstance(data.get("models"), Mapping)
    ):
        raise InputError(
            f"price table {path} must hold `models` and may hold `currency` and `machines`, and nothing else"
        )
    currency = data.get("currency", "USD")
    if not isinstance(currency, str) or not currency.strip():
        raise InputError(f"price table {path}: currency must be a text such as EUR; got {currency!r}")
    return PriceTable(prices_in(data["models"], path), currency)


def prices_in(models: Any, path: str) -> dict[str, Price]:
    """Price by model, as the price table at this path writes them under `models`."""
    if not isinstance(models, Mapping):
        raise InputError(f"price table {path}: models must be names with their prices; got {models!r}")
    return {_name(m, path): _price(m, p, path) for m, p in models.items()}


def _name(model: Any, path: str) -> str:
    if not isinstance(model, str):
        raise InputError(f"price table {path}: a model's name must be a text; got {model!r}. Put quotes around it")
    return model


def _price(model: str, given: Any, path: str) -> Price:
    if not isinstance(given, Mapping) or set(given) - set(_KEYS) or not given:
        raise InputError(f"price table {path}: {model} must have {', '.join(_KEYS)}, at least one; got {given!r}")
    try:
        return Price(**given)
    except InputError as error:
        raise InputError(f"price table {path}: {model}: {error}") from None


Counts = npt.ArrayLike | Sequence[float | None]


def row_costs(price: Price, tokens_in: Counts, tokens_out: Counts, seconds: Counts) -> npt.NDArray[np.float64]:
    """Each row's cost, by tokens and seconds: NaN where a count that costs something isn't known."""
    parts = (
        (tokens_in, price.input_per_million / 1e6),
        (tokens_out, price.output_per_million / 1e6),
        (seconds, price.per_hour / 3600),
    )
    total = np.zeros(np.shape(np.asarray(tokens_in, np.float64)))
    for count, each in parts:
        if each:  # what costs nothing may be unknown
            total = total + np.asarray(count, np.float64) * each
    return total


@dataclass(frozen=True)
class Estimate:
    """What N accepted rows will take: cost (of all calls, the rejected rows' too), drafts, tokens, seconds of machines.

    low and high bound the cost at 95%, high is None where the trial leaves it open; trial, accepted: what it rests on.
    """

    cost: float
    low: float
    high: float | None
    drafts: int
    tokens: int
    seconds: float
    trial: int
    accepted: int


def estimate(
    costs: npt.ArrayLike, accepted: Sequence[bool] | npt.NDArray[np.bool_], *, wanted: int,
    tokens: npt.ArrayLike | None = None, seconds: npt.ArrayLike | None = None, seed: int = 0,
) -> Estimate:  # fmt: skip
    """From a trial wave, an entry for each draft with all its calls: cost of the `wanted` accepted rows.

    Cost per accepted row is cost per draft over the share accepted; its interval is a bootstrap over drafts, in which
    both vary together. A wave that accepted none raises InputError: it says nothing of how many drafts a row takes.
    """
    cost, kept = np.asarray(costs, np.float64), np.asarray(accepted, bool)
    if wanted < 1:
        raise InputError(f"the estimate needs a number of rows of at least 1; got {wanted}")
    if cost.shape != kept.shape or cost.ndim != 1:
        raise InputError(f"the estimate needs a cost and a verdict for each draft; got {cost.shape} and {kept.shape}")
    if np.isnan(cost).any():
        unknown = int(np.isnan(cost).sum())
        raise InputError(
            f"the cost of {unknown} of {len(cost)} trial rows isn't known, because the server told no token counts; "
            "price the model by the hour, or ask a server that counts"
        )
    if not kept.any():
        raise InputError(
            f"the trial wave accepted none of its {len(cost)} rows, so nothing can be estimated; look at the "
            "reasons with `bare show`, then try again"
        )
    value, low, high = per_accepted(cost, kept, seed=seed)
    per_row = wanted / kept.sum()
    return Estimate(
        cost=value * wanted,
        low=low * wanted,
        high=None if high is None else high * wanted,
        drafts=math.ceil(len(cost) * per_row),
        tokens=0 if tokens is None else math.ceil(float(np.sum(np.asarray(tokens, np.float64))) * per_row),
        seconds=0.0 if seconds is None else float(np.sum(np.asarray(seconds, np.float64)) * per_row),
        trial=len(cost),
        accepted=int(kept.sum()),
    )


def per_accepted(
    spent: npt.ArrayLike, accepted: npt.ArrayLike, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float, float | None]:
    """What one accepted row takes, the rejected rows' share in it, with its 95% interval: (value, low, high).

    An entry for each draft, of which one at least is accepted and all are known. The interval is a bootstrap over
    drafts, in which spending and acceptance vary together; high is None where too many replicates accept no row.
    """
    cost, kept = np.asarray(spent, np.float64), np.asarray(accepted, bool)
    counts = resampled_counts(len(cost), replicates, seed=seed).astype(float)
    accepted_then = counts @ kept
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(accepted_then > 0, counts @ cost / accepted_then, np.inf)
    value = float(cost.sum() / kept.sum())
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return value, min(float(low), value), max(float(high), value) if np.isfinite(high) else None


# -- licences ----------------------------------------------------------------------------------------------------------


def check_licenses(licenses: Mapping[str, str | None], *, allowed: Sequence[str]) -> None:
    """The gate before any token: each model's and seed source's licence must be one of `allowed`.

    licenses: what it is (`base model org/name`, `seeds`) -> its licence. Letter case, spaces, `_` and `-` are nothing;
    there is no guessing: an unknown licence is refused unless `unknown` is allowed. An empty list allows nothing.
    """
    known = {_license_key(name) for name in allowed}
    refused = [
        f"{what} ({given.strip() if given and given.strip() else 'unknown'})"
        for what, given in sorted(licenses.items())
        if _license_key(given or "") not in known
    ]
    if refused:
        raise InputError(
            f"licences: {'; '.join(refused)} {'is' if len(refused) == 1 else 'are'} not among those allowed "
            f"({', '.join(allowed) or 'none'}); use others, or read the licence and add it to --allow-licenses"
        )


def _license_key(name: str) -> str:
    return "-".join(name.casefold().replace("_", " ").replace("-", " ").split()) or "unknown"
