"""PopulateBook: which sequences wait for which blocks to arrive on the device. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .device_blocks import DeviceBlocks
from .index import Node
from .moves import Move


class PopulateState(Enum):
    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PopulateStatus:
    """num_tokens: leading tokens whose KV the sequence has, once it is not pending. FAILED: fewer than asked for."""

    state: PopulateState
    num_tokens: int


@dataclass(slots=True, eq=False)
class _Populate:
    """A path of nodes, root first, and their blocks, which it holds until the last of them has arrived or failed.

    It outlives a sequence that ends meanwhile: a block that a move fills is nobody else's.
    """

    nodes: list[Node]
    blocks: list[int]
    failed: bool = False

    @property
    def is_pending(self) -> bool:
        return any(node.arriving for node in self.nodes)

    @property
    def num_attached(self) -> int:
        return next((i for i, node in enumerate(self.nodes) if not node.attached), len(self.nodes))


class PopulateBook:
    """Populates in flight, and the sequences that wait for them."""

    def __init__(self, blocks: DeviceBlocks) -> None:
        self._blocks = blocks
        self._in_flight: list[_Populate] = []
        self._waiting: dict[str, _Populate] = {}
        self._filling: set[int] = set()  # blocks that moves fill; a move is a holder of its own

    def fetch(self, nodes: Sequence[Node]) -> None:
        """Give nodes of lower tiers blocks on the device, which the caller has checked that there are, and plan the
        moves that fill them."""
        tiers = self._blocks.tiers
        with tiers.kept_where_they_are(nodes):  # making room must not cost what the room is for
            for node in nodes:
                block = self._blocks.take()  # whose holder is the move
                self._blocks.preserve(node, block)
                node.arriving = True
                self._filling.add(block)
                tiers.fetch(node, block)

    def begin(self, sequence_id: str, nodes: list[Node]) -> None:
        """The sequence, which holds the blocks of these nodes, waits until those that are on their way are there."""
        populate = _Populate(nodes, [node.block for node in nodes if node.block is not None])
        self._waiting[sequence_id] = populate
        self._blocks.stats.populates += 1
        if populate.is_pending:
            for block in populate.blocks:
                self._blocks.hold(block)
            self._in_flight.append(populate)

    def arrived(self, move: Move, node: Node, failed: bool) -> None:
        """A move to the device has ended; `let_go_of_ended` follows when all of its time were told."""
        if node.attached and failed:
            self._blocks.forget(node)
        elif node.attached:
            node.arriving = False
            self._blocks.stats.hit_tokens[move.source] += self._blocks.index.block_size
        self._filling.remove(move.target_slot)
        self._blocks.let_go(move.target_slot)

    def shortened(self) -> list[tuple[str, int]]:
        """Sequences that wait for nodes that are gone, each with how many of its blocks are good."""
        found = []
        for sequence_id, populate in self._waiting.items():
            num_attached = populate.num_attached
            if num_attached < len(populate.nodes):
                del populate.nodes[num_attached:]
                populate.failed = True
                self._blocks.stats.failed_populates += 1
                found.append((sequence_id, num_attached))
        return found

    def let_go_of_ended(self) -> None:
        for populate in [each for each in self._in_flight if not each.is_pending]:
            self._in_flight.remove(populate)
            for block in reversed(populate.blocks):  # the tail first: no child after its parent
                self._blocks.let_go(block)

    def query(self, sequence_id: str, num_tokens: int) -> PopulateStatus:
        populate = self._waiting.get(sequence_id)
        if populate is None:
            return PopulateStatus(PopulateState.DONE, num_tokens)
        if populate.is_pending:
            return PopulateStatus(PopulateState.PENDING, 0)
        del self._waiting[sequence_id]
        return PopulateStatus(PopulateState.FAILED if populate.failed else PopulateState.DONE, num_tokens)

    def is_waiting(self, sequence_id: str) -> bool:
        return sequence_id in self._waiting

    def leave(self, sequence_id: str) -> None:
        """The sequence ends before its blocks are there."""
        self._waiting.pop(sequence_id, None)

    def holders(self) -> dict[int, int]:
        """How many populates and moves hold each block."""
        held = dict.fromkeys(self._filling, 1)
        for populate in self._in_flight:
            for block in populate.blocks:
                held[block] = held.get(block, 0) + 1
        return held

    def check_invariants(self) -> None:
        assert all(populate.is_pending for populate in self._in_flight)
        for populate in self._waiting.values():
            assert populate in self._in_flight or not populate.is_pending
            assert all(node.attached for node in populate.nodes)
        arriving = {node.block for node in self._blocks.index.nodes() if node.arriving}
        assert arriving <= self._filling
