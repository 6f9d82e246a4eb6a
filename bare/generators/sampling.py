"""Which token comes next: temperature, top-k, top-p, then the Gumbel maximum over noise that is the row's own.

The largest of logit / temperature + Gumbel noise is a draw from the softmax. The noise of a token is a hash of (row's
seed, step, token), made in whole numbers and float64 on the host: it is the same in any batch, at any place in it and
on any device, and a row that is computed again draws again what it drew.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bare.draws import Words, mix
from bare.generators.protocol import Sampling

NOT_FINITE = -1
# Uniform numbers are (k + 1/2) / 2**32, so noise lies in [-3.2, 22.9]: what is further below the most likely token can
# never win, and gets none. A probability is kept up to 2**-32.
SPREAD = 26.1
# What lies so far below the most likely token is no part of a sum in float64, all of a vocabulary together.
NO_MASS = 50.0


def gumbel(seeds: Words, steps: Words, tokens: Words) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise by hash of (seed, step, token), each of one shape; the result has it too."""
    words = mix(mix(mix(seeds) + steps) + tokens) >> np.uint64(32)
    noise: npt.NDArray[np.float64] = -np.log(-np.log((words.astype(np.float64) + 0.5) / 2.0**32))
    return noise


def choose(
    logits: torch.Tensor, *, seeds: Sequence[int], steps: Sequence[int], samplings: Sequence[Sampling]
) -> list[int]:
    """The next token of each row: logits of shape (rows, vocabulary) -> token ids, NOT_FINITE for a row without any.

    Temperature 0 takes the most likely token, of equals the first. Tokens as likely as the last one that top_k or top_p
    lets in are let in too.
    """
    highest = logits.amax(dim=1).float()
    temperatures = torch.tensor([s.temperature or 1.0 for s in samplings], device=logits.device)
    scaled = logits.float() / temperatures[:, None]
    spreads = torch.tensor([SPREAD if s.temperature else 0.0 for s in samplings], device=logits.device)
    floors = highest / temperatures - spreads
    for i, sampling in enumerate(samplings):
        if sampling.temperature and (sampling.top_k or sampling.top_p < 1):
            floors[i] = torch.maximum(floors[i], _least(scaled[i], sampling))
    rows, tokens = (scaled >= floors[:, None]).nonzero(as_tuple=True)
    values = scaled[rows, tokens].double().cpu().numpy()
    row, token = rows.cpu().numpy(), tokens.cpu().numpy()
    own_seeds, own_steps = np.array(seeds, np.uint64)[row], np.array(steps, np.uint64)[row]
    noisy = np.array([s.temperature > 0 for s in samplings])[row]
    scores = np.where(noisy, values + gumbel(own_seeds, own_steps, token.astype(np.uint64)), values)
    chosen = [NOT_FINITE] * len(samplings)
    is_finite = torch.isfinite(highest).tolist()
    starts = np.searchsorted(row, np.arange(len(samplings) + 1))
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        if is_finite[i] and end > start:
            chosen[i] = int(token[start + int(np.argmax(scores[start:end]))])  # the first of equals
    return chosen


def _least(scaled: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The least scaled logit that top_k and then top_p let in, of one row."""
    if 0 < sampling.top_k < len(scaled):
        values = torch.topk(scaled, sampling.top_k).values
        values = scaled[scaled >= values[-1]]
    else:
        values = scaled[scaled >= scaled.max() - NO_MASS]
    if not len(values):  # no finite logit
        return scaled.max()
    if sampling.top_p < 1:
        values = values.sort(descending=True).values
        mass = torch.softmax(values.double(), dim=0)
        before = mass.cumsum(dim=0) - mass
        values = values[before < sampling.top_p]
    return values.min()
