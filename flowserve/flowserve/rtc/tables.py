"""BlockTables: which blocks each sequence has, and which of them its prompt has published. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .device_blocks import DeviceBlocks
from .index import Node
from .moves import Tier


class BlockTables:
    """A table for each sequence: its blocks from token 0 on, each of which it holds.

    Steps in flight refer to a table as it is (`of`), not to a copy. So a table may only grow; where a block in it is
    replaced, the sequence gets a new table and what is in flight keeps the old one, whose blocks hold the same until
    those steps are done, because nobody writes into them in an earlier step.

    publishes: whether full blocks are made available to other prompts.  window: how many keys a query sees at most in
    every layer, 0 = all; blocks that lie behind it are given back, and what a table still says of them means nothing.
    """

    def __init__(self, blocks: DeviceBlocks, publishes: bool, window: int) -> None:
        self._blocks = blocks
        self._block_size = blocks.index.block_size
        self._publishes = publishes
        self._window = window
        self._tables: dict[str, list[int]] = {}
        self._published: dict[str, list[Node]] = {}  # nodes of the leading blocks of each sequence
        self._num_behind: dict[str, int] = {}  # leading blocks that it holds no more
        self._salts: dict[str, str] = {}
        self._copies: list[tuple[int, int]] = []

    @property
    def sequence_ids(self) -> Iterable[str]:
        return self._tables.keys()

    def of(self, sequence_id: str) -> list[int]:
        return self._tables.get(sequence_id, [])

    def published(self, sequence_id: str) -> Sequence[Node]:
        return self._published.get(sequence_id, ())

    def start(self, sequence_id: str, nodes: Sequence[Node], salt: str | None) -> None:
        """A sequence without blocks begins with those of a preserved prefix."""
        assert sequence_id not in self._tables
        self._tables[sequence_id] = []
        self._published[sequence_id] = []
        self.share(sequence_id, nodes)
        self._blocks.stats.hit_tokens[Tier.DEVICE] += len(nodes) * self._block_size
        if salt is not None:
            self._salts[sequence_id] = salt

    def share(self, sequence_id: str, nodes: Sequence[Node]) -> None:
        """Put the blocks of further nodes behind those that it has."""
        for node in nodes:
            assert node.block is not None
            self._blocks.hold(node.block)
            self._tables[sequence_id].append(node.block)
        self._published[sequence_id] += nodes

    def alloc(self, sequence_id: str, num_tokens: int, write_from: int | None) -> bool:
        """See RelationalTensorCache.alloc_blocks."""
        table = self._tables.setdefault(sequence_id, [])
        missing = self._blocks.num_for(num_tokens) - len(table)
        shared = [] if write_from is None else self._shared(table, write_from)
        if missing <= 0 and not shared:
            return True  # as for nearly every token
        if max(missing, 0) + len(shared) > self._blocks.num_free:
            if not table:
                del self._tables[sequence_id]
            return False
        for index in shared:
            self._make_own(sequence_id, index)
        table = self._tables[sequence_id]
        for _ in range(missing):
            table.append(self._blocks.take())
        return True

    def fork(self, sequence_id: str, child_id: str, num_tokens: int) -> bool:
        """Let a child start with the parent's blocks of the first `num_tokens` tokens, the last perhaps in part.

        Whoever writes into a block that both have is given a copy first. False, and nothing done, where the child would
        see what its parent has given back.
        """
        assert child_id not in self._tables
        num_behind = self._num_behind.get(sequence_id, 0)
        if num_behind > self._num_unseen(num_tokens):
            return False
        table = self.of(sequence_id)[: self._blocks.num_for(num_tokens)]
        for block in table[num_behind:]:
            self._blocks.hold(block)
        self._tables[child_id] = table
        self._published[child_id] = list(self.published(sequence_id)[: num_tokens // self._block_size])
        if num_behind:
            self._num_behind[child_id] = num_behind
        if sequence_id in self._salts:
            self._salts[child_id] = self._salts[sequence_id]
        return True

    def take_copies(self) -> list[tuple[int, int]]:
        """Block copies (from, to) on the device since the last call; the worker makes them, in order, before the batch
        planned since then."""
        copies, self._copies = self._copies, []
        return copies

    def computed(self, sequence_id: str, token_ids: list[int], num_computed: int) -> None:
        """The KV of the first `num_computed` tokens is there: publish the full blocks among them, and give back those
        that no later token sees."""
        if self._publishes:
            self._publish(sequence_id, token_ids, num_computed)
        table, num_behind = self._tables[sequence_id], self._num_behind.get(sequence_id, 0)
        num_unseen = self._num_unseen(num_computed)
        if num_unseen > num_behind:
            self._num_behind[sequence_id] = num_unseen
            for block in table[num_behind:num_unseen]:
                self._blocks.let_go(block)

    def cut(self, sequence_id: str, num_blocks: int) -> None:
        """The blocks from `num_blocks` on never came."""
        table = self._tables[sequence_id]
        for block in reversed(table[num_blocks:]):
            self._blocks.let_go(block)
        del table[num_blocks:]
        del self._published[sequence_id][num_blocks:]

    def free(self, sequence_id: str) -> None:
        """See RelationalTensorCache.free."""
        self._published.pop(sequence_id, None)
        self._salts.pop(sequence_id, None)
        held = self._tables.pop(sequence_id, [])[self._num_behind.pop(sequence_id, 0) :]
        for block in reversed(held):  # the tail leaves first: no child after its parent
            self._blocks.let_go(block)

    def holders(self) -> dict[int, int]:
        """How many sequences hold each block."""
        held: dict[int, int] = {}
        for sequence_id, table in self._tables.items():
            own = table[self._num_behind.get(sequence_id, 0) :]
            assert len(set(own)) == len(own)
            for block in own:
                held[block] = held.get(block, 0) + 1
        return held

    def check_invariants(self, is_waiting: Callable[[str], bool]) -> None:
        """is_waiting: whether a sequence waits for its blocks to be filled."""
        for sequence_id, nodes in self._published.items():
            num_behind = self._num_behind.get(sequence_id, 0)
            for node, block in list(zip(nodes, self.of(sequence_id), strict=False))[num_behind:]:
                assert node.block == block or (self._window and not node.attached)
                assert is_waiting(sequence_id) or not node.arriving

    def _num_unseen(self, num_tokens: int) -> int:
        """Leading blocks that no token from `num_tokens` on sees."""
        return max(0, num_tokens + 1 - self._window) // self._block_size if self._window else 0

    def _publish(self, sequence_id: str, token_ids: list[int], num_computed: int) -> None:
        table = self._tables[sequence_id]
        nodes = self._published.setdefault(sequence_id, [])
        salt = self._salts.get(sequence_id)
        if len(nodes) < self._num_behind.get(sequence_id, 0):
            return  # what would come next was given back
        for index in range(len(nodes), num_computed // self._block_size):
            parent = nodes[-1] if nodes else None
            if parent is not None and not parent.is_ready:
                return  # it was behind the window and has left the device since
            tokens = tuple(token_ids[index * self._block_size : (index + 1) * self._block_size])
            node = self._blocks.index.child(parent, tokens, salt) or self._blocks.index.insert(parent, tokens, salt)
            if node.arriving:
                return  # somebody fetches what was computed here: that block cannot be shared yet
            if node.block is None:
                self._blocks.preserve(node, table[index])
            elif node.block != table[index]:  # another sequence computed the same tokens: use its block, drop ours
                self._blocks.hold(node.block)
                self._blocks.let_go(table[index])
                table = self._replace(sequence_id, index, node.block)
            nodes.append(node)

    def _shared(self, table: list[int], write_from: int) -> list[int]:
        """Places in the table, from that of token `write_from` on, whose block somebody else has too."""
        first = write_from // self._block_size
        return [index for index in range(first, len(table)) if self._blocks.pool.references(table[index]) > 1]

    def _make_own(self, sequence_id: str, index: int) -> None:
        own, shared = self._blocks.take(), self._tables[sequence_id][index]
        self._copies.append((shared, own))
        self._replace(sequence_id, index, own)
        del self._published.get(sequence_id, [])[index:]
        self._blocks.let_go(shared)

    def _replace(self, sequence_id: str, index: int, block: int) -> list[int]:
        table = list(self._tables[sequence_id])
        table[index] = block
        self._tables[sequence_id] = table
        return table
