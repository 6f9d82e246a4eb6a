"""Which token comes next: temperature, top-k, top-p, then the Gumbel maximum over noise that is the row's own.

The largest of logit / temperature + Gumbel noise is a draw from the softmax. The noise of a token is a hash of (row's
seed, step, token), made in whole numbers and float64 on the host: it is the same in any batch, at any place in it and
on any device, and a row that is computed again draws again what it drew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bare.draws import Words
from bare.generators.protocol import Sampling
from curation.hashing import mix

NOT_FINITE = -1
# Uniform numbers are (k + 1/2) / 2**32, so noise is at most 22.88: a token that needs more to win can't, and gets none.
# Probabilities are kept up to 2**-32.
MOST_NOISE = 22.89
# Tokens so near the most likely one get their noise first: what the others need is known then, and few have it.
NEAR = 6.0
# What lies so far below the most likely token is no part of a sum in float64, all of a vocabulary together.
NO_MASS = 50.0


def gumbel(seeds: Words, steps: Words, tokens: Words) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise by hash of (seed, step, token), each of one shape; the result has it too."""
    return _noise(_words(mix(mix(seeds) + steps), tokens))


def _words(keys: Words, tokens: Words) -> Words:
    return mix(keys + tokens) >> np.uint64(32)


def _noise(words: Words) -> npt.NDArray[np.float64]:
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
    tops = highest / temperatures
    floors = torch.full_like(tops, -torch.inf)
    for i, sampling in enumerate(samplings):
        if not sampling.temperature:
            floors[i] = tops[i]
        elif sampling.top_k or sampling.top_p < 1:
            floors[i] = _least(scaled[i], sampling)
    near = torch.maximum(floors, tops - NEAR)
    noisy = np.array([s.temperature > 0 for s in samplings])
    keys = mix(mix(np.array(seeds, np.uint64)) + np.array(steps, np.uint64))

    row, token, values = _where(scaled, scaled >= near[:, None])
    scores = np.where(noisy[row], values + _noise(_words(keys[row], token)), values)
    best = np.full(len(samplings), -np.inf)
    np.maximum.at(best, row, scores)

    # The rest: noise g of at least x = best - value means that 1 - u <= 1 - exp(-exp(-x)) <= exp(-x).
    reach = torch.tensor(best - MOST_NOISE, dtype=torch.float64, device=logits.device)
    low = torch.maximum(floors, reach.float() - 1e-3)
    others, their_tokens, their_values = _where(scaled, (scaled >= low[:, None]) & (scaled < near[:, None]))
    words = _words(keys[others], their_tokens)
    missing = (np.float64(2**32) - 0.5 - words.astype(np.float64)) / 2.0**32
    may = missing <= np.exp(np.minimum(their_values - best[others], 0.0)) * (1 + 1e-9)
    row, token = np.concatenate([row, others[may]]), np.concatenate([token, their_tokens[may]])
    scores = np.concatenate([scores, their_values[may] + _noise(words[may])])

    chosen = [NOT_FINITE] * len(samplings)
    is_finite = torch.isfinite(highest).tolist()
    # The highest score first, of equals the first token; then each row's first.
    order = np.lexsort((token, -scores, row))
    for i, at in zip(*np.unique(row[order], return_index=True), strict=True):
        if is_finite[i]:
            chosen[i] = int(token[order[at]])
    return chosen


def _where(scaled: torch.Tensor, mask: torch.Tensor) -> tuple[npt.NDArray[np.int64], Words, npt.NDArray[np.float64]]:
    """Row, token and value of what the mask marks, on the host."""
    rows, tokens = mask.nonzero(as_tuple=True)
    values = scaled[rows, tokens].double().cpu().numpy()
    return rows.cpu().numpy(), tokens.cpu().numpy().astype(np.uint64), values


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
