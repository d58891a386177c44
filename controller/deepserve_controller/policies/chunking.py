"""Chunking: how many inputs of a map a pod gets at once."""

from __future__ import annotations

from deepserve_controller.core.chunk_views import ChunkSize, MapLoad

TARGET_S = 0.002
"""Work in a chunk. Sending one and its results costs some 100 µs; the end of a map waits for the last chunk."""
MAX_INPUTS = 128
SHORTEST_LIMIT_S = 0.1
"""Under a shorter time limit inputs go alone: the controller learns a few milliseconds late that one has begun."""


def by_run_time(load: MapLoad) -> ChunkSize:
    """About 2 ms of work, as runs of this function have taken so far, and no more than a slot's share of what waits.

    (Guided self-scheduling, Polychronopoulos and Kuck 1987: the share shrinks with what is left, so that slots finish
    together. There the cost of a call is unknown; here it is measured, which bounds the first chunks.) Slots of pods
    that are yet to start do not count: a pod takes longer to start than a chunk to run, and what turns out to be long
    is recalled.
    """
    if load.mean_run_s <= 0.0:
        return ChunkSize(1, "no run of it has been measured")
    if 0.0 < load.limit_s < SHORTEST_LIMIT_S:
        return ChunkSize(1, f"a time limit of {load.limit_s:g} s")
    by_time = int(TARGET_S / load.mean_run_s)
    by_share = -(-load.waiting // max(1, load.slots))
    inputs = max(1, min(by_time, by_share, MAX_INPUTS))
    if inputs == by_share:
        return ChunkSize(inputs, f"a share of {load.waiting} inputs for {load.slots} slots")
    return ChunkSize(inputs, f"{TARGET_S * 1e3:g} ms of {load.mean_run_s * 1e6:.0f} µs each, at most {MAX_INPUTS}")


def one_by_one(load: MapLoad) -> ChunkSize:
    """The baseline: every input is a task of its own."""
    return ChunkSize(1, "inputs go alone")
