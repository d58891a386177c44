"""RelationalTensorCache: block tables of sequences, and the KV kept for prompts that start alike.

The names are those of DeepServe's table 1 (MatchByPrefixToken, AllocBlocks, Free, ...), as far as they exist here. This
is the master's side: it decides which block holds what. Pure; the tensors are in `storage`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .blocks import BlockPool
from .index import Node, PrefixIndex


@dataclass(frozen=True, slots=True)
class Match:
    """Preserved KV of the first `num_tokens` tokens of a prompt; always whole blocks."""

    num_tokens: int
    blocks: tuple[int, ...]


class RelationalTensorCache:
    """Blocks of `block_size` tokens, shared by sequences with the same prefix, reused after they end.

    Steps in flight refer to a sequence's table as it is (`block_table`), not to a copy. So a table may only grow; where
    a block in it is replaced, the sequence gets a new table and what is in flight keeps the old one, whose blocks hold
    the same until those steps are done, because nobody writes into them in an earlier step.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool = True) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._pool = BlockPool(num_blocks)
        self._index = PrefixIndex(block_size)
        self._tables: dict[str, list[int]] = {}
        self._published: dict[str, list[Node]] = {}  # nodes of the leading blocks of each sequence

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be handed out now: free ones and preserved ones that no sequence uses."""
        return self._pool.num_free + self._index.num_unused

    @property
    def num_cached_blocks(self) -> int:
        return len(self._index)

    @property
    def sequence_ids(self) -> Iterable[str]:
        return self._tables.keys()

    def block_table(self, sequence_id: str) -> list[int]:
        return self._tables.get(sequence_id, [])

    def match_by_prefix_token(self, token_ids: list[int]) -> Match:
        """Preserved KV for a prompt; never all of it, because its last token must be computed to sample the next."""
        blocks = self._index.match(token_ids, max_tokens=len(token_ids) - 1)
        return Match(len(blocks) * self.block_size, tuple(blocks))

    def fits(self, match: Match, num_tokens: int, num_reserved: int) -> bool:
        """Whether a new sequence of `num_tokens` that adopts `match` leaves `num_reserved` blocks free."""
        revived = sum(1 for block in match.blocks if self._index.is_unused(block))
        missing = self._blocks_for(num_tokens) - len(match.blocks)
        return self.num_free_blocks - revived - missing >= num_reserved

    def adopt(self, sequence_id: str, match: Match) -> None:
        """Let a sequence without blocks start with those of a match."""
        assert sequence_id not in self._tables
        for block in match.blocks:
            self._share(block)
        self._tables[sequence_id] = list(match.blocks)
        self._published[sequence_id] = [self._index.node(block) for block in match.blocks]

    def alloc_blocks(self, sequence_id: str, num_tokens: int) -> bool:
        """Extend the table to hold `num_tokens` tokens; False, and nothing done, when blocks are short."""
        table = self._tables.setdefault(sequence_id, [])
        missing = self._blocks_for(num_tokens) - len(table)
        if missing > self.num_free_blocks:
            if not table:
                del self._tables[sequence_id]
            return False
        for _ in range(missing):
            self._take_into(table)
        return True

    def append_block(self, sequence_id: str) -> bool:
        """One more block at the end of the table; False when there is none."""
        return self.alloc_blocks(sequence_id, (len(self.block_table(sequence_id)) + 1) * self.block_size)

    def free(self, sequence_id: str) -> None:
        """Give back the sequence's blocks; published ones stay preserved until their room is needed."""
        self._published.pop(sequence_id, None)
        for block in reversed(self._tables.pop(sequence_id, [])):  # the tail leaves first: no child after its parent
            self._release(block)

    def publish(self, sequence_id: str, token_ids: list[int], num_computed: int) -> None:
        """Make the full blocks among the first `num_computed` tokens available to other prompts."""
        if not self.enable_prefix_caching:
            return
        table = self._tables[sequence_id]
        nodes = self._published.setdefault(sequence_id, [])
        for index in range(len(nodes), num_computed // self.block_size):
            tokens = tuple(token_ids[index * self.block_size : (index + 1) * self.block_size])
            node = self._index.insert(nodes[-1] if nodes else None, tokens, table[index])
            if node.block != table[index]:  # another sequence computed the same tokens: use its block, drop ours
                self._share(node.block)
                self._release(table[index])
                table = self._tables[sequence_id] = [*table[:index], node.block, *table[index + 1 :]]
            else:
                self._pool.share(node.block)  # a new node: the index's own reference
            nodes.append(node)

    def check_invariants(self) -> None:
        self._pool.check_invariants()
        self._index.check_invariants()
        held = [0] * self.num_blocks
        for table in self._tables.values():
            assert len(set(table)) == len(table)
            for block in table:
                held[block] += 1
        for block, num_holders in enumerate(held):
            indexed = block in self._index
            assert self._pool.references(block) == num_holders + indexed, f"block {block} is miscounted"
            assert self._index.is_unused(block) == (indexed and num_holders == 0)
        for sequence_id, nodes in self._published.items():
            assert [node.block for node in nodes] == self.block_table(sequence_id)[: len(nodes)]

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _take_into(self, table: list[int]) -> None:
        if self._pool.num_free == 0:
            self._pool.release(self._index.evict())
        table.append(self._pool.take())

    def _share(self, block: int) -> None:
        self._index.set_used(block)
        self._pool.share(block)

    def _release(self, block: int) -> None:
        if self._pool.release(block) == 1 and block in self._index:
            self._index.set_unused(block)
