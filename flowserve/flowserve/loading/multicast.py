"""Multicast: in which order blocks of weights go from hosts that have them to those that do not. Pure.

The binomial pipeline on a hypercube, and its k-way form with rotated block orders (lambdaScale, arXiv 2502.09922, built
on Derecho's RDMC): in every tick each node sends one block at most and receives one at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Transfer(NamedTuple):
    source: int
    target: int
    block: int


Schedule = list[list[Transfer]]
"""The transfers of each tick; a tick begins when those of the one before are done."""


def binomial_pipeline(nodes: Sequence[int], blocks: Sequence[int]) -> Schedule:
    """From nodes[0], which has all `blocks`, to the others, in that order as far as they can tell.

    With 2**l nodes it takes l + len(blocks) - 1 ticks, which is the least; with numbers between two powers less than
    twice as many, as pairs of nodes hand blocks on to each other. nodes, blocks: their names, each once.
    """
    hypercube = _Hypercube(nodes, len(blocks))
    schedule: Schedule = []
    while not hypercube.is_done:
        places = hypercube.tick(len(schedule))
        schedule.append([Transfer(source, target, blocks[block]) for source, target, block in places])
    return schedule


def k_way(nodes: Sequence[int], blocks: Sequence[int], num_sources: int) -> Schedule:
    """From nodes[:num_sources], which have all blocks, to the others: each source serves a group of its own.

    Group j's blocks come rotated, its own share first (j, j + k, j + 2k, ...), so that after about a k-th of the time
    one member of each group together hold all blocks, and can serve as a pipeline.
    """
    schedules = [
        binomial_pipeline(group, rotated(blocks, index, num_sources))
        for index, group in enumerate(groups_of(nodes, num_sources))
    ]
    num_ticks = max(map(len, schedules), default=0)
    return [[move for each in schedules if tick < len(each) for move in each[tick]] for tick in range(num_ticks)]


def groups_of(nodes: Sequence[int], num_sources: int) -> list[list[int]]:
    """Each source with its receivers; sizes differ by one at most."""
    return [[nodes[index], *nodes[num_sources + index :: num_sources]] for index in range(num_sources)]


def rotated(blocks: Sequence[int], first: int, num_shares: int) -> list[int]:
    """Interleaved shares of the blocks, from share `first` on and around."""
    shares = [blocks[share::num_shares] for share in range(num_shares)]
    return [block for share in (*shares[first:], *shares[:first]) for block in share]


class _Hypercube:
    """Corners are nodes, or pairs of nodes where the number of nodes is no power of two: node x and node x + 2**l - 1
    share corner x. Of a pair one receives from outside and hands on inside, the other sends outside, in turns.
    """

    def __init__(self, nodes: Sequence[int], num_blocks: int) -> None:
        self._dimensions = len(nodes).bit_length() - 1
        size = 1 << self._dimensions
        self._corners = [[node] for node in nodes[:size]]
        for corner, node in enumerate(nodes[size:], start=1):
            self._corners[corner].append(node)
        self._num_blocks = num_blocks
        self._held = {node: set[int]() for node in nodes}
        self._held[nodes[0]] = set(range(num_blocks))

    @property
    def is_done(self) -> bool:
        return all(len(held) == self._num_blocks for held in self._held.values())

    def tick(self, number: int) -> list[tuple[int, int, int]]:
        """Source, target and place in the order of blocks, of all that move now."""
        moves: list[tuple[int, int, int]] = []
        bit = 1 << number % self._dimensions
        for corner in range(len(self._corners)):
            peer = corner ^ bit
            if bit and peer != 0:
                sender, receiver = self._sender(corner, number), self._receiver(peer, number)
                if (block := self._choose(sender, peer, number if corner == 0 else None)) is not None:
                    moves.append((sender, receiver, block))
            if len(self._corners[corner]) == 2:
                giver, taker = self._receiver(corner, number), self._sender(corner, number)
                if (block := max(self._held[giver] - self._held[taker], default=None)) is not None:
                    moves.append((giver, taker, block))
        for _, target, block in moves:
            self._held[target].add(block)
        return moves

    def _sender(self, corner: int, tick: int) -> int:
        nodes = self._corners[corner]
        return nodes[(tick + 1) % len(nodes)]

    def _receiver(self, corner: int, tick: int) -> int:
        nodes = self._corners[corner]
        return nodes[tick % len(nodes)]

    def _choose(self, sender: int, peer: int, tick: int | None) -> int | None:
        """Of the source (with a `tick`) the next in order, of others the last that they have and the peer lacks."""
        lacking = self._held[sender] - set().union(*(self._held[node] for node in self._corners[peer]))
        if tick is not None and tick in lacking:
            return tick
        return max(lacking, default=None)
