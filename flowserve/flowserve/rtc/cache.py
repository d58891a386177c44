"""RelationalTensorCache: block tables of sequences, and the KV kept for prompts that start alike.

The names are those of DeepServe's table 1 (MatchByPrefixToken, MatchByID, Populate, QueryPopulate, AllocBlocks,
AppendBlock, Copy, Free). This is the master's side: it decides which block holds what and what is moved between tiers.
Pure; the tensors are in `storage`, the other tiers in `tier_storage`, and `mover` carries out the moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .contexts import ContextBook
from .device_blocks import DeviceBlocks, Eviction
from .index import Node
from .moves import Move, MoveResult, Tier
from .populates import PopulateBook, PopulateStatus
from .rules import ALWAYS_FETCH, CostView, FetchDecision, fetch_or_recompute
from .stats import CacheStats


@dataclass(frozen=True, slots=True)
class Match:
    """Preserved KV of the first tokens of a prompt; always whole blocks.

    num_tokens, blocks: what is on the device.  below: nodes behind it in lower tiers that are worth fetching.
    arriving: some of `blocks` are still being filled.  A match with either is adopted by `populate` alone.
    decision: why `below` is as long as it is; None where no lower tier has anything.
    """

    num_tokens: int
    blocks: tuple[int, ...]
    below: tuple[Node, ...] = ()
    arriving: bool = False
    decision: FetchDecision | None = None

    @property
    def must_wait(self) -> bool:
        return self.arriving or bool(self.below)


class RelationalTensorCache:
    """Blocks of `block_size` tokens, shared by sequences with the same prefix, reused after they end.

    Steps in flight refer to a sequence's table as it is (`block_table`), not to a copy. So a table may only grow; where
    a block in it is replaced, the sequence gets a new table and what is in flight keeps the old one, whose blocks hold
    the same until those steps are done, because nobody writes into them in an earlier step.

    num_host_blocks, num_file_blocks: room in the tiers below the device.  context_share: the part of the device's
    blocks that contexts may pin.  costs: what `match_...` weighs fetching by; set anew whenever better is known.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_prefix_caching: bool = True,
        *,
        num_host_blocks: int = 0,
        num_file_blocks: int = 0,
        context_share: float = 0.5,
    ) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.costs: CostView = ALWAYS_FETCH
        self._blocks = DeviceBlocks(num_blocks, block_size, num_host_blocks, num_file_blocks)
        self._index = self._blocks.index
        self._populates = PopulateBook(self._blocks)
        self.contexts = ContextBook(self._blocks, context_share)
        self._tables: dict[str, list[int]] = {}
        self._published: dict[str, list[Node]] = {}  # nodes of the leading blocks of each sequence
        self._salts: dict[str, str] = {}
        self._copies: list[tuple[int, int]] = []

    @property
    def num_blocks(self) -> int:
        return self._blocks.pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be handed out now: free ones and preserved ones that nobody uses."""
        return self._blocks.num_free

    @property
    def num_host_blocks(self) -> int:
        return self._blocks.tiers.host.num_slots

    @property
    def num_file_blocks(self) -> int:
        return self._blocks.tiers.file.num_slots

    @property
    def num_cached_blocks(self) -> int:
        return len(self._index)

    @property
    def num_moves(self) -> int:
        """Moves planned whose results are not back."""
        return self._blocks.tiers.num_in_flight

    @property
    def sequence_ids(self) -> Iterable[str]:
        return self._tables.keys()

    def block_table(self, sequence_id: str) -> list[int]:
        return self._tables.get(sequence_id, [])

    # --- finding preserved KV ---------------------------------------------------------------------------

    def match_by_prefix_token(self, token_ids: list[int], salt: str | None = None) -> Match:
        """Preserved KV for a prompt; never all of it, because its last token must be computed to sample the next.

        salt: the tenant; only what the same tenant computed is found.
        """
        nodes = self._index.match(token_ids, len(token_ids) - 1, salt)
        on_device = [node for node in nodes if node.block is not None]
        blocks = tuple(node.block for node in on_device if node.block is not None)
        arriving = any(node.arriving for node in on_device)
        below = nodes[len(on_device) :]
        if not below:
            return Match(len(blocks) * self.block_size, blocks, arriving=arriving)
        decision = fetch_or_recompute([node.tier for node in below], self.block_size, self.costs)
        chosen = tuple(below[: decision.num_blocks])
        return Match(len(blocks) * self.block_size, blocks, chosen, arriving, decision)

    def match_by_id(
        self, context_id: str, token_ids: list[int], now_s: float, salt: str | None = None
    ) -> tuple[list[int], Match]:
        """The tokens of a context with `token_ids` behind them, and what is preserved of those.

        Using a context begins its time to live anew. Raises UnknownContextError.
        """
        tokens = [*self.contexts.use(context_id, now_s, salt).token_ids, *token_ids]
        return tokens, self.match_by_prefix_token(tokens, salt)

    def fits(self, match: Match, num_tokens: int, num_reserved: int) -> bool:
        """Whether a new sequence of `num_tokens` that adopts `match` leaves `num_reserved` blocks free."""
        revived = sum(1 for block in match.blocks if self._index.is_unused(block))
        missing = max(self._blocks_for(num_tokens), len(match.blocks) + len(match.below)) - len(match.blocks)
        return self.num_free_blocks - revived - missing >= num_reserved

    def adopt(self, sequence_id: str, match: Match, salt: str | None = None) -> None:
        """Let a sequence without blocks start with those of a match that need not be waited for."""
        assert not match.must_wait
        self._start(sequence_id, [self._index.node(block) for block in match.blocks], salt)

    # --- lower tiers ------------------------------------------------------------------------------------

    def populate(self, sequence_id: str, match: Match, num_reserved: int = 0, salt: str | None = None) -> bool:
        """Let a sequence without blocks start with those of a match, and have the missing ones fetched.

        The moves are planned (`take_moves`); until `query_populate` says otherwise the sequence may not read its
        blocks. False, and nothing done, when that would leave less than `num_reserved` blocks free.
        """
        if not self.fits(match, 0, num_reserved):
            return False
        nodes = [self._index.node(block) for block in match.blocks]
        self._blocks.tiers.touch([*nodes, *match.below])
        self._start(sequence_id, nodes, salt)
        self._populates.fetch(match.below)
        for node in match.below:
            assert node.block is not None
            self._blocks.hold(node.block)
            self._tables[sequence_id].append(node.block)
            self._published[sequence_id].append(node)
        self._populates.begin(sequence_id, [*nodes, *match.below])
        return True

    def query_populate(self, sequence_id: str) -> PopulateStatus:
        """How the populate of a sequence stands. Once it is over the sequence has the blocks that arrived."""
        return self._populates.query(sequence_id, len(self._tables[sequence_id]) * self.block_size)

    def copy(self, sequence_id: str) -> int:
        """Copy the sequence's published blocks to the host's memory ahead of need; how many are on their way."""
        if not self._blocks.tiers.exist:
            return 0
        nodes = [node for node in self._published.get(sequence_id, []) if node.is_ready and node.host is None]
        return sum(self._blocks.tiers.copy_to_host(node) for node in nodes)

    def take_moves(self) -> list[Move]:
        """Moves planned since the last call, for `Mover.submit` before the batch planned in the same call is run."""
        return self._blocks.tiers.take_moves()

    def finish_moves(self, results: Sequence[MoveResult]) -> None:
        """Moves were carried out, or failed: then what depends on them is cut from the tables of those who wait."""
        for result in results:
            self._blocks.stats.count_move(result)
            node = self._blocks.tiers.finish(result.move, failed=result.error is not None)
            if result.move.fills_device:
                self._populates.arrived(result.move, node, failed=result.error is not None)
        if any(result.error is not None for result in results):
            for sequence_id, num_blocks in self._populates.shortened():
                self._cut(sequence_id, num_blocks)
        self._populates.let_go_of_ended()

    # --- blocks of sequences ----------------------------------------------------------------------------

    def alloc_blocks(self, sequence_id: str, num_tokens: int, write_from: int | None = None) -> bool:
        """Extend the table to hold `num_tokens` tokens; False, and nothing done, when blocks are short.

        write_from: the first token that will be written; where its block or one behind it is shared with a fork, the
        sequence gets a copy of its own (`take_copies`).
        """
        table = self._tables.setdefault(sequence_id, [])
        missing = self._blocks_for(num_tokens) - len(table)
        shared = [] if write_from is None else self._shared(table, write_from)
        if missing <= 0 and not shared:
            return True  # as for nearly every token
        if max(missing, 0) + len(shared) > self.num_free_blocks:
            if not table:
                del self._tables[sequence_id]
            return False
        for index in shared:
            self._make_own(sequence_id, index)
        table = self._tables[sequence_id]
        for _ in range(missing):
            table.append(self._blocks.take())
        return True

    def append_block(self, sequence_id: str) -> bool:
        """One more block at the end of the table; False when there is none."""
        return self.alloc_blocks(sequence_id, (len(self.block_table(sequence_id)) + 1) * self.block_size)

    def fork(self, sequence_id: str, child_id: str, num_tokens: int) -> None:
        """Let a child start with the parent's blocks of the first `num_tokens` tokens, the last perhaps in part.

        Whoever writes into a block that both have is given a copy first.
        """
        assert child_id not in self._tables and not self._populates.is_waiting(sequence_id)
        table = self.block_table(sequence_id)[: self._blocks_for(num_tokens)]
        for block in table:
            self._blocks.hold(block)
        self._tables[child_id] = table
        self._published[child_id] = self._published.get(sequence_id, [])[: num_tokens // self.block_size]
        if sequence_id in self._salts:
            self._salts[child_id] = self._salts[sequence_id]

    def take_copies(self) -> list[tuple[int, int]]:
        """Block copies (from, to) on the device since the last call; the worker makes them, in order, before the batch
        planned since then."""
        copies, self._copies = self._copies, []
        return copies

    def free(self, sequence_id: str) -> None:
        """Give back the sequence's blocks; published ones stay preserved until their room is needed."""
        self._published.pop(sequence_id, None)
        self._salts.pop(sequence_id, None)
        self._populates.leave(sequence_id)
        for block in reversed(self._tables.pop(sequence_id, [])):  # the tail leaves first: no child after its parent
            self._blocks.let_go(block)

    def publish(self, sequence_id: str, token_ids: list[int], num_computed: int) -> None:
        """Make the full blocks among the first `num_computed` tokens available to other prompts."""
        if not self.enable_prefix_caching:
            return
        table = self._tables[sequence_id]
        nodes = self._published.setdefault(sequence_id, [])
        salt = self._salts.get(sequence_id)
        for index in range(len(nodes), num_computed // self.block_size):
            tokens = tuple(token_ids[index * self.block_size : (index + 1) * self.block_size])
            parent = nodes[-1] if nodes else None
            node = self._index.child(parent, tokens, salt) or self._index.insert(parent, tokens, salt)
            if node.arriving:
                return  # somebody fetches what was computed here: that block cannot be shared yet
            if node.block is None:
                self._blocks.preserve(node, table[index])
            elif node.block != table[index]:  # another sequence computed the same tokens: use its block, drop ours
                self._blocks.hold(node.block)
                self._blocks.let_go(table[index])
                table = self._replace(sequence_id, index, node.block)
            nodes.append(node)

    # --- the whole --------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all preserved KV, in every tier. Contexts keep their tokens. No sequence may have blocks."""
        assert not self._tables, "sequences still have blocks"
        while self.contexts.unpin():
            pass
        self._blocks.forget_all()
        self._populates.let_go_of_ended()  # of sequences that are gone: nothing is to arrive any more

    def leave_device(self) -> bool:
        """Give up preserved blocks of the device, as many as the tiers below can take at a time; False when none is
        left. Contexts keep their tokens. No sequence may have blocks; the moves are carried out before the next call.
        """
        assert not self._tables, "sequences still have blocks"
        while self.contexts.unpin():
            pass
        self._populates.let_go_of_ended()
        self._blocks.leave(max(1, self.num_host_blocks // 2) if self.num_host_blocks else self.num_blocks)
        return self._blocks.index.num_unused > 0

    def stats(self) -> CacheStats:
        return self._blocks.stats.copy()

    def take_evictions(self) -> list[Eviction]:
        """What left the device since the last call (the newest few thousand): a router wants to know who holds what."""
        evictions = list(self._blocks.evictions)
        self._blocks.evictions.clear()
        return evictions

    def check_invariants(self) -> None:
        held = [0] * self.num_blocks
        for table in self._tables.values():
            assert len(set(table)) == len(table)
            for block in table:
                held[block] += 1
        for holders in (self._populates.holders(), self.contexts.holders()):
            for block, num in holders.items():
                held[block] += num
        self._blocks.check_invariants(held)
        self.contexts.check_invariants()
        self._populates.check_invariants()
        for sequence_id, nodes in self._published.items():
            assert [node.block for node in nodes] == self.block_table(sequence_id)[: len(nodes)]
            assert self._populates.is_waiting(sequence_id) or not any(node.arriving for node in nodes)

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _start(self, sequence_id: str, nodes: list[Node], salt: str | None) -> None:
        assert sequence_id not in self._tables
        table = [node.block for node in nodes if node.block is not None]
        for block in table:
            self._blocks.hold(block)
        self._tables[sequence_id] = table
        self._published[sequence_id] = list(nodes)
        self._blocks.stats.hit_tokens[Tier.DEVICE] += len(nodes) * self.block_size
        if salt is not None:
            self._salts[sequence_id] = salt

    def _shared(self, table: list[int], write_from: int) -> list[int]:
        """Places in the table, from that of token `write_from` on, whose block somebody else has too."""
        first = write_from // self.block_size
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

    def _cut(self, sequence_id: str, num_blocks: int) -> None:
        """The blocks from `num_blocks` on never came."""
        table = self._tables[sequence_id]
        for block in reversed(table[num_blocks:]):
            self._blocks.let_go(block)
        del table[num_blocks:]
        del self._published[sequence_id][num_blocks:]
