"""What torch's kernels compute on this machine and how fast: each tried on matrices of a model's shapes.

`python -m flowserve.device.cpu_torch.self_test KIND THREADS NxK...` measures for half a second and prints the choices
as JSON. It is a process of its own because one that has computed in parallel cannot be a template: forks would hang.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping

import torch

from .choice import Choice, Shape
from .matrices import KERNELS, Matrix

SECONDS = 0.5
ROWS = {1: 0.5, 16: 0.25, 128: 0.25}
"""Numbers of rows that are measured, and how much each counts: one stream, a batch, a chunk of a prompt."""

TOLERANCE = {"float32": 1e-4, "int8": 0.06, "int4": 0.2}
"""Largest error, as a fraction of the product's norm, of what is not an overflow or worse."""

_MAX_ELEMENTS = 2 * 2**20  # a longer matrix is measured by its first rows
_CACHE_BYTES = 64 * 2**20  # more than the processor keeps
_HOPELESS = 4.0  # times the best: not measured again


class RandomWeight:
    """A `Weight` of random numbers, with rows that are the worst for 16-bit sums: all at the same end of the range."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.values = torch.empty(num_rows, num_columns).normal_(generator=torch.Generator().manual_seed(1))
        self.values[::7] = self.values[::7].sign()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def load_finite(self, dtype: torch.dtype) -> torch.Tensor:
        return self.values.to(dtype)

    def finite_pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        yield 0, self.values.to(dtype, copy=True)


def candidates(kind: str, weight: RandomWeight) -> Iterator[tuple[Choice, Matrix]]:
    """Each kernel that computes rightly, as little careful as it can be."""
    for name, kernel in KERNELS[kind].items():
        for careful in (False, True) if kind == "int8" else (False,):
            try:
                matrix = kernel(weight, None, careful=careful)
                right = all(_error(matrix, weight, rows) <= TOLERANCE[kind] for rows in (1, 5, 100))
                if kind == "int8" and name != "widened":  # which computes in float32, for want of anything else
                    right = right and _keeps_rows_apart(matrix, weight)
            except (RuntimeError, AttributeError, NotImplementedError):  # not in this build, not for such a matrix
                break
            if right:
                yield Choice(name, careful), matrix
                break


def best(times: Mapping[Choice, Mapping[int, float]]) -> Choice:
    """The choice with the smallest weighted geometric mean; the first of equals. Only those measured everywhere."""
    complete = {choice: by_rows for choice, by_rows in times.items() if set(by_rows) == set(ROWS)}
    return min(complete, key=lambda choice: sum(share * math.log(times[choice][n]) for n, share in ROWS.items()))


def measure(kind: str, shape: Shape, seconds: float) -> Choice:
    """The kernel for matrices [N, K] of this shape, measured for about `seconds`."""
    num_rows, num_columns = shape
    weight = RandomWeight(min(num_rows, max(16, _MAX_ELEMENTS // num_columns // 16 * 16)), num_columns)
    matrices = dict(candidates(kind, weight))
    inputs = {rows: torch.empty(rows, num_columns).normal_() for rows in ROWS}
    times: dict[Choice, dict[int, float]] = {choice: {} for choice in matrices}
    other_data = torch.zeros(_CACHE_BYTES // 4)
    end = time.perf_counter() + seconds
    while True:
        for rows, x in inputs.items():
            fastest = math.inf
            for choice, matrix in matrices.items():
                if rows == 1:  # then a product takes as long as its weights take from memory, not from the cache
                    other_data.add_(1.0)
                taken = _seconds(matrix, x)
                times[choice][rows] = min(taken, times[choice].get(rows, math.inf))
                fastest = min(fastest, times[choice][rows])
            matrices = {c: m for c, m in matrices.items() if times[c][rows] <= _HOPELESS * fastest}
        if len(matrices) < 2 or time.perf_counter() > end:
            return best(times)


def _seconds(matrix: Matrix, x: torch.Tensor) -> float:
    start = time.perf_counter()
    matrix(x)
    return time.perf_counter() - start


def _error(matrix: Matrix, weight: RandomWeight, num_rows: int) -> float:
    """Of the worst row of some, relative to its norm: random rows, and one at the upper end of the range."""
    x = torch.empty(num_rows, weight.shape[1]).normal_(generator=torch.Generator().manual_seed(num_rows))
    x[-1] = 1.0
    expected = x @ weight.values.t()
    return float(((matrix(x) - expected).norm(dim=1) / expected.norm(dim=1)).max())


def _keeps_rows_apart(matrix: Matrix, weight: RandomWeight) -> bool:
    """Whether a row's product is the same alone and among others: oneDNN's is not where it takes AMX for many rows."""
    x = torch.empty(32, weight.shape[1]).normal_(generator=torch.Generator().manual_seed(2))
    together = matrix(x)
    return all(torch.equal(matrix(x[row : row + 1])[0], together[row]) for row in (0, 1, 15, 31))


def main(arguments: list[str]) -> None:
    kind, threads, *names = arguments
    torch.set_num_threads(int(threads))
    choices = {}
    with torch.inference_mode():
        for name in names:
            num_rows, num_columns = map(int, name.split("x"))
            choice = measure(kind, (num_rows, num_columns), SECONDS / len(names))
            choices[name] = [choice.kernel, choice.careful]
    print(json.dumps(choices))


if __name__ == "__main__":
    main(sys.argv[1:])
