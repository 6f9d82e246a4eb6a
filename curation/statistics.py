"""Intervals of shares, for both methods' tables and pages."""

from __future__ import annotations

import math
from statistics import NormalDist

from curation.errors import InputError


def wilson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: within [0, 1], and honest for few trials and for shares near 0 or 1."""
    if not 0 <= successes <= trials or trials < 1:
        raise InputError(f"a share needs 0 <= successes <= trials and a trial; got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
