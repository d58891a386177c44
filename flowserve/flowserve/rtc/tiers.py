"""LowerTiers: what the tiers below the device hold, and the moves between all of them. Pure.

A block that leaves the device is copied to the host's memory, from there to the file before its place is needed; what
finds no place is forgotten. Copies are kept when a block comes back to the device, so that leaving again costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .blocks import BlockPool
from .index import Node
from .moves import Move, Tier

MAX_SPILLS = 4
"""Blocks on their way to the file at once: it is slow, and whoever waits for a block from it must not wait for more."""


class SlotTier:
    """Slots of one lower tier, each with the node that lies in it, least recently used first.

    A slot has one reference for its node and one for each move that reads or writes it.
    """

    def __init__(self, tier: Tier, num_slots: int) -> None:
        self.tier = tier
        self.num_slots = num_slots
        self._pool = BlockPool(num_slots) if num_slots else None
        self._nodes: OrderedDict[int, Node] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def pool(self) -> BlockPool:
        assert self._pool is not None, f"there is no {self.tier.name} tier"
        return self._pool

    @property
    def num_free(self) -> int:
        return self._pool.num_free if self._pool else 0

    def put(self, node: Node) -> int:
        """A free slot for the node; the caller has checked `num_free`."""
        slot = self.pool.take()
        self._nodes[slot] = node
        return slot

    def remove(self, slot: int) -> None:
        """The node lies there no more. The slot is free once no move needs it."""
        del self._nodes[slot]
        self.pool.release(slot)

    def touch(self, slot: int) -> None:
        self._nodes.move_to_end(slot)

    def is_moving(self, slot: int) -> bool:
        return self.pool.references(slot) > 1

    def __iter__(self) -> Iterator[Node]:
        """Least recently used first."""
        return iter(self._nodes.values())

    def check_invariants(self, in_moves: Sequence[int]) -> None:
        if self._pool is None:
            assert not self._nodes and not in_moves
            return
        self._pool.check_invariants()
        for slot in range(self._pool.num_used):
            expected = (slot in self._nodes) + in_moves.count(slot)
            assert self._pool.references(slot) == expected, f"slot {slot} of {self.tier.name} is miscounted"


@dataclass(slots=True)
class _InFlight:
    move: Move
    node: Node


class LowerTiers:
    """`forget(node)` is called for a node that lost its last copy: it takes it out of the index, with all below it."""

    def __init__(self, num_host: int, num_file: int, forget: Callable[[Node], None]) -> None:
        self.host = SlotTier(Tier.HOST, num_host)
        self.file = SlotTier(Tier.FILE, num_file)
        self._forget = forget
        self._planned: list[Move] = []
        self._in_flight: dict[int, _InFlight] = {}
        self._num_moves = 0
        self._num_spills = 0
        self._num_clean = 0  # host slots whose node lies in the file too

    @property
    def exist(self) -> bool:
        return self.host.num_slots > 0

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    def take_moves(self) -> list[Move]:
        """Moves planned since the last call, in order, for an executor; each comes back through `finish`."""
        planned, self._planned = self._planned, []
        return planned

    def keep(self, node: Node) -> bool:
        """A node is about to leave the device: see that a lower tier has it. False: it has no place there."""
        is_enough = node.host is not None or (node.file is not None and not _has_child_in_host(node))
        if not is_enough and not self.copy_to_host(node):
            return False
        if node.host is not None:
            self.host.touch(node.host)
        with self.kept_where_they_are([node]):  # it counts as on the device yet, so that its copy could make way
            self._spill()
        return True

    def copy_to_host(self, node: Node) -> bool:
        """Plan a copy from the device to the host's memory; False when there is no place for it."""
        assert node.is_ready and node.host is None
        if not self._free_host_slot():
            return False
        node.host = self.host.put(node)
        self._num_clean += node.file is not None
        assert node.block is not None
        self._plan(node, Tier.DEVICE, node.block, Tier.HOST, node.host)
        return True

    def fetch(self, node: Node, block: int) -> None:
        """Plan to fill a device block from the fastest tier that has the node."""
        if node.host is not None:
            self._plan(node, Tier.HOST, node.host, Tier.DEVICE, block)
        else:
            assert node.file is not None
            self._plan(node, Tier.FILE, node.file, Tier.DEVICE, block)

    @contextmanager
    def kept_where_they_are(self, nodes: Sequence[Node]) -> Iterator[None]:
        """Nodes below the device do not leave their fastest tier meanwhile."""
        slots = [(self.host, node.host) if node.host is not None else (self.file, node.file) for node in nodes]
        for tier, slot in slots:
            assert slot is not None
            tier.pool.share(slot)
        yield
        for tier, slot in slots:
            assert slot is not None
            tier.pool.release(slot)

    def touch(self, nodes: Sequence[Node]) -> None:
        """A path, root first, was asked for: what is nearest to the root leaves last."""
        for node in reversed(nodes):
            if node.host is not None:
                self.host.touch(node.host)
            if node.file is not None:
                self.file.touch(node.file)

    def finish(self, move: Move, failed: bool) -> Node:
        """An executor is done with a move. Returns its node; what a failed one promised is taken back."""
        node = self._in_flight.pop(move.move_id).node
        for tier, slot in ((self.host, self._slot(move, Tier.HOST)), (self.file, self._slot(move, Tier.FILE))):
            if slot is not None:
                tier.pool.release(slot)
        if move.target is Tier.FILE:
            self._num_spills -= 1
        if failed:
            self._take_back(move, node)
        elif not move.fills_device:
            self._spill()  # not after a failure: a full disk is tried again when the next block comes down
        return node

    def drop(self, node: Node) -> None:
        """The node was forgotten: its slots are free as soon as no move needs them."""
        self._drop_file(node)
        self._drop_host(node)

    def check_invariants(self) -> None:
        moves = [entry.move for entry in self._in_flight.values()]
        for tier in (self.host, self.file):
            slots = [self._slot(move, tier.tier) for move in moves]
            tier.check_invariants([slot for slot in slots if slot is not None])
        assert all(node.attached and node.host is not None for node in self.host)
        assert all(node.attached and node.file is not None for node in self.file)
        assert self._num_clean == sum(node.file is not None for node in self.host)
        assert self._num_spills == sum(move.target is Tier.FILE for move in moves) <= MAX_SPILLS

    def _plan(self, node: Node, source: Tier, source_slot: int, target: Tier, target_slot: int) -> None:
        move = Move(self._num_moves, source, source_slot, target, target_slot)
        self._num_moves += 1
        self._planned.append(move)
        self._in_flight[move.move_id] = _InFlight(move, node)
        for tier, slot in ((self.host, self._slot(move, Tier.HOST)), (self.file, self._slot(move, Tier.FILE))):
            if slot is not None:
                tier.pool.share(slot)

    def _slot(self, move: Move, tier: Tier) -> int | None:
        if move.source is tier:
            return move.source_slot
        return move.target_slot if move.target is tier else None

    def _free_host_slot(self) -> bool:
        """See that the host's memory has a free slot, by giving up the least recently used that may leave."""
        if not self.exist:
            return False
        if self.host.num_free:
            return True
        victim = next((node for node in self.host if self._may_leave_host(node)), None)
        if victim is None:
            return False
        if victim.block is None and victim.file is None:
            self._forget(victim)
        else:
            self._drop_host(victim)
        return True

    def _may_leave_host(self, node: Node) -> bool:
        """No move needs its slot, and its children stay within reach."""
        assert node.host is not None
        return not self.host.is_moving(node.host) and (node.block is not None or not _has_child_in_host(node))

    def _free_file_slot(self) -> bool:
        if self.file.num_free:
            return True
        victim = next((node for node in self.file if self._may_leave_file(node)), None)
        if victim is None:
            return False
        if victim.tier is Tier.FILE:
            self._forget(victim)
        else:
            self._drop_file(victim)
        return True

    def _may_leave_file(self, node: Node) -> bool:
        """No move needs its slot, its children stay within reach, and the host will not have to copy it once more."""
        assert node.file is not None
        is_needed = node.tier is Tier.FILE and node.children
        return not self.file.is_moving(node.file) and node.host is None and not is_needed

    def _spill(self) -> None:
        """Copy the oldest blocks of the host to the file early enough that their slots are free when needed."""
        if not self.file.num_slots:
            return
        reserve = max(1, self.host.num_slots // 2)
        while self._num_spills < MAX_SPILLS and self.host.num_free + self._num_clean < reserve:
            node = next((node for node in self.host if node.file is None), None)
            if node is None or not self._free_file_slot():
                return
            assert node.host is not None
            node.file = self.file.put(node)
            self._num_clean += 1
            self._num_spills += 1
            self._plan(node, Tier.HOST, node.host, Tier.FILE, node.file)

    def _take_back(self, move: Move, node: Node) -> None:
        if not node.attached:
            return
        if move.target is Tier.HOST and node.host == move.target_slot:
            self._drop_host(node)
        if move.target is Tier.FILE and node.file == move.target_slot:
            self._drop_file(node)
        if node.block is None and node.host is None and (node.file is None or _has_child_in_host(node)):
            self._forget(node)

    def _drop_host(self, node: Node) -> None:
        if node.host is not None:
            slot, node.host = node.host, None
            self.host.remove(slot)
            self._num_clean -= node.file is not None

    def _drop_file(self, node: Node) -> None:
        if node.file is not None:
            slot, node.file = node.file, None
            self.file.remove(slot)
            self._num_clean -= node.host is not None


def _has_child_in_host(node: Node) -> bool:
    return any(child.tier <= Tier.HOST for child in node.children.values())
