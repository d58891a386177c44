"""How many keys queries look at together, which is what attention costs. Pure."""

from __future__ import annotations


def num_pairs(start: int, num_tokens: int, window: int = 0) -> int:
    """Keys that the queries [start, start + num_tokens) of one sequence see together, each also its own.

    window: keys that a query sees at most; 0 = all.
    """
    end = start + num_tokens
    if not window or end <= window:
        return _triangle(end) - _triangle(start)
    if start >= window:
        return num_tokens * window
    return _triangle(window) - _triangle(start) + (end - window) * window


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
