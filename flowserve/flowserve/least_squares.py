"""Least squares with coefficients that are not negative, for a handful of them. Pure.

Costs cannot be negative, and a fit that is free to subtract explains noise with pairs of large opposite terms that
mislead wherever the data had no steps. Method: the active set of Lawson and Hanson, "Solving Least Squares Problems"
(1974), chapter 23, on the normal equations, whose columns are scaled first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

_RIDGE = 1e-10
"""Added to the scaled diagonal: where two columns say the same, both get a share and none becomes infinite."""


def non_negative_fit(rows: Iterable[tuple[Sequence[float], float]], num_columns: int) -> list[float]:
    """Coefficients c >= 0 that minimise the sum of (row · c - value)² over rows of (row, value)."""
    gram = [[0.0] * num_columns for _ in range(num_columns)]
    moments = [0.0] * num_columns
    for row, value in rows:
        for i, x in enumerate(row):
            if x:
                moments[i] += x * value
                line = gram[i]
                for j in range(i, num_columns):
                    line[j] += x * row[j]
    scales = [sqrt(gram[i][i]) or 1.0 for i in range(num_columns)]
    scaled = [
        [gram[min(i, j)][max(i, j)] / (scales[i] * scales[j]) + _RIDGE * (i == j) for j in range(num_columns)]
        for i in range(num_columns)
    ]
    found = _active_set(scaled, [moment / scale for moment, scale in zip(moments, scales, strict=True)])
    return [value / scale for value, scale in zip(found, scales, strict=True)]


def _active_set(gram: list[list[float]], moments: list[float]) -> list[float]:
    size = len(moments)
    tolerance = 1e-12 * max(map(abs, moments), default=0.0)
    found, free = [0.0] * size, list[int]()  # free: columns that are not held at zero
    for _ in range(3 * size):
        slopes = [moments[i] - sum(gram[i][j] * found[j] for j in free) for i in range(size)]
        best = max((i for i in range(size) if i not in free), key=lambda i: slopes[i], default=None)
        if best is None or slopes[best] <= tolerance:
            break
        free.append(best)
        while True:
            solution = _solve([[gram[i][j] for j in free] for i in free], [moments[i] for i in free])
            wanted = dict(zip(free, solution, strict=True))
            blocking = [i for i in free if wanted[i] <= 0.0]
            if not blocking:
                break
            # Go towards the free solution until the first coefficient is zero, and hold that one there.
            step, first = min((found[i] / (found[i] - wanted[i]) if found[i] > 0.0 else 0.0, i) for i in blocking)
            for i in free:
                found[i] = max(0.0, found[i] + step * (wanted[i] - found[i]))
            found[first] = 0.0
            free.remove(first)
        for i in free:
            found[i] = wanted[i]
    return found


def _solve(matrix: list[list[float]], values: list[float]) -> list[float]:
    """A symmetric positive definite system, by Cholesky's decomposition."""
    size = len(values)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = sqrt(max(rest, _RIDGE**2)) if i == j else rest / lower[j][j]
    forward = [0.0] * size
    for i in range(size):
        forward[i] = (values[i] - sum(lower[i][k] * forward[k] for k in range(i))) / lower[i][i]
    result = [0.0] * size
    for i in reversed(range(size)):
        result[i] = (forward[i] - sum(lower[k][i] * result[k] for k in range(i + 1, size))) / lower[i][i]
    return result
