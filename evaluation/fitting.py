"""Small fits made many times over: BFGS, compiled, from many starts, where each run weighs as often as it was drawn.

Two models share it. LOSS: log L = log(exp(a - alpha n) + exp(b - beta d) + exp(e)), n and d the centred logs of
parameters and tokens. ACCURACY: y = c + (1 - c) s(x) / s(0), s falling from 1 to 0, so that y(0) = 1 whatever the rest.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.compiled import jit

Floats = npt.NDArray[np.float64]
LOSS, ACCURACY = 0, 1
SIZES = {LOSS: 5, ACCURACY: 3}


@jit()
def objective(
    kind: Any, theta: Any, x: Any, y: Any, weights: Any, delta: Any, floor: Any, gradient: Any
) -> Any:  # fmt: skip
    """The weighted mean of Huber(residual) / delta (LOSS), of squared residuals (ACCURACY); fills in the gradient.

    theta: (a, b, e, alpha, beta), or (logit of c, log of the steepness, middle). floor: what c is held at, NaN: fitted.
    """
    total, mass = 0.0, 0.0
    for p in range(len(theta)):
        gradient[p] = 0.0
    for i in range(len(y)):
        w = weights[i]
        if w == 0.0:
            continue
        mass += w
        if kind == 0:
            u = theta[0] - theta[3] * x[i, 0]
            v = theta[1] - theta[4] * x[i, 1]
            top = max(u, v, theta[2])
            pu, pv, pe = math.exp(u - top), math.exp(v - top), math.exp(theta[2] - top)
            whole = pu + pv + pe
            residual = top + math.log(whole) - y[i]
            size = abs(residual)
            if size <= delta:
                total += w * 0.5 * residual * residual / delta
                slope = w * residual / delta
            else:
                total += w * (size - 0.5 * delta)
                slope = w if residual > 0 else -w
            slope /= whole
            gradient[0] += slope * pu
            gradient[1] += slope * pv
            gradient[2] += slope * pe
            gradient[3] -= slope * pu * x[i, 0]
            gradient[4] -= slope * pv * x[i, 1]
        else:
            steep, middle = math.exp(min(theta[1], 50.0)), theta[2]
            c = floor if floor == floor else 1.0 / (1.0 + math.exp(-theta[0]))
            at, zero = steep * (x[i, 0] - middle), -steep * middle
            falls, there = _softplus(at), _softplus(zero)
            q = math.exp(min(there - falls, 50.0))
            residual = c + (1.0 - c) * q - y[i]
            total += w * residual * residual
            slope = 2.0 * w * residual
            s_at, s_zero = _sigmoid(at), _sigmoid(zero)
            if floor != floor:
                gradient[0] += slope * (1.0 - q) * c * (1.0 - c)
            gradient[1] += slope * (1.0 - c) * q * (zero * s_zero - at * s_at)
            gradient[2] += slope * (1.0 - c) * q * steep * (s_at - s_zero)
    for p in range(len(theta)):
        gradient[p] /= mass
    return total / mass


@jit(inline="always")
def _softplus(z: Any) -> Any:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


@jit(inline="always")
def _sigmoid(z: Any) -> Any:
    e = math.exp(-abs(z))
    return 1.0 / (1.0 + e) if z >= 0 else e / (1.0 + e)


@jit()
def _reset(inverse: Any, scale: Any) -> None:
    for i in range(len(inverse)):
        for j in range(len(inverse)):
            inverse[i, j] = scale if i == j else 0.0


@jit()
def minimise(kind: Any, theta: Any, x: Any, y: Any, weights: Any, delta: Any, floor: Any, iterations: Any) -> Any:
    """BFGS from theta, which becomes the minimum; its value. The line search is by weak Wolfe conditions.

    Bisection needs no second derivative, so that it also ends at the near-kinks of Huber with a small delta (Lewis and
    Overton 2013).
    """
    n = len(theta)
    g, new_g, new, step = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    moved, turned, image = np.empty(n), np.empty(n), np.empty(n)
    inverse = np.empty((n, n))
    _reset(inverse, 1.0)
    value = objective(kind, theta, x, y, weights, delta, floor, g)
    first, still = True, 0
    for _ in range(iterations):
        down, norm = 0.0, 0.0
        for i in range(n):
            step[i] = 0.0
            for j in range(n):
                step[i] -= inverse[i, j] * g[j]
            down += step[i] * g[i]
            norm = max(norm, abs(g[i]))
        if norm < 1e-10:
            break
        if not down < 0.0:  # rounding has spoilt the curvature: steepest descent again
            _reset(inverse, 1.0)
            down = 0.0
            for i in range(n):
                step[i] = -g[i]
                down -= g[i] * g[i]
        low, high, t = 0.0, math.inf, 1.0
        if first:
            size = 0.0
            for i in range(n):
                size += step[i] * step[i]
            t = min(1.0, 0.5 / math.sqrt(size))
        new_value = math.inf
        for _ in range(50):
            for i in range(n):
                new[i] = theta[i] + t * step[i]
            new_value = objective(kind, new, x, y, weights, delta, floor, new_g)
            if not new_value <= value + 1e-4 * t * down:
                high = t
            else:
                along = 0.0
                for i in range(n):
                    along += new_g[i] * step[i]
                if along >= 0.9 * down:
                    break
                low = t
            t = 0.5 * (low + high) if high < math.inf else 2.0 * low
        if not new_value < value:
            break
        curved, form = 0.0, 0.0
        for i in range(n):
            moved[i], turned[i] = new[i] - theta[i], new_g[i] - g[i]
            curved += moved[i] * turned[i]
        if first and curved > 0.0:
            size = 0.0
            for i in range(n):
                size += turned[i] * turned[i]
            _reset(inverse, curved / size)
        if curved > 1e-300:
            for i in range(n):
                image[i] = 0.0
                for j in range(n):
                    image[i] += inverse[i, j] * turned[j]
                form += image[i] * turned[i]
            for i in range(n):
                for j in range(n):
                    inverse[i, j] += (1.0 + form / curved) * moved[i] * moved[j] / curved
                    inverse[i, j] -= (image[i] * moved[j] + moved[i] * image[j]) / curved
        still = still + 1 if value - new_value <= 1e-12 * abs(value) else 0
        first = False
        for i in range(n):
            theta[i], g[i] = new[i], new_g[i]
        value = new_value
        if still >= 5:
            break
    return value


@jit()
def fit_all(
    kind: Any, starts: Any, x: Any, y: Any, weights: Any, delta: Any, floor: Any, iterations: Any
) -> Any:  # fmt: skip
    """The lowest minimum that any of the starts leads to: (theta, value); of equal ones the first."""
    best, lowest = starts[0].copy(), math.inf
    for k in range(len(starts)):
        theta = starts[k].copy()
        value = minimise(kind, theta, x, y, weights, delta, floor, iterations)
        if value < lowest:
            lowest = value
            for i in range(len(theta)):
                best[i] = theta[i]
    return best, lowest


@jit()
def fit_replicates(
    kind: Any, optimum: Any, starts: Any, x: Any, y: Any, weights: Any, delta: Any, floor: Any, iterations: Any
) -> Any:  # fmt: skip
    """A fit for each row of weights, from the optimum of all data and the three best starts: (rows, parameters)."""
    found = np.empty((len(weights), len(optimum)))
    nothing, at = np.empty(len(optimum)), np.empty(len(starts))
    few = np.empty((1 + min(3, len(starts)), len(optimum)))
    for r in range(len(weights)):
        for k in range(len(starts)):
            at[k] = objective(kind, starts[k], x, y, weights[r], delta, floor, nothing)
        for i in range(len(optimum)):
            few[0, i] = optimum[i]
        for k in range(1, len(few)):
            least = 0
            for j in range(1, len(starts)):
                if at[j] < at[least]:
                    least = j
            for i in range(len(optimum)):
                few[k, i] = starts[least, i]
            at[least] = math.inf
        best, _ = fit_all(kind, few, x, y, weights[r], delta, floor, iterations)
        for i in range(len(optimum)):
            found[r, i] = best[i]
    return found
