"""RelationalTensorCache: block tables of sequences, and the KV kept for prompts that start alike.

The names are those of DeepServe's table 1 (MatchByPrefixToken, MatchByID, Populate, QueryPopulate, AllocBlocks, which
is its AppendBlock too, Copy, Free). This is the master's side: it decides which block holds what and what is moved
between tiers.
Pure; the tensors are in `storage`, the other tiers in `tier_storage`, and `mover` carries out the moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .contexts import ContextBook
from .device_blocks import DeviceBlocks, Relocation
from .index import Node
from .moves import MoveResult
from .populates import PopulateBook, PopulateStatus
from .rules import ALWAYS_FETCH, CostView, FetchDecision, fetch_or_recompute
from .stats import CacheStats
from .tables import BlockTables


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

    tables, contexts, tiers: what sequences have, what is kept by name, what lies below the device and moves.
    num_host_blocks, num_file_blocks: room in the tiers below the device.  context_share: the part of the device's
    blocks that contexts may pin.  window: keys that a query sees at most, in every layer; 0 = all.  costs: what
    `match_...` weighs fetching by; set anew whenever better is known.
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
        window: int = 0,
    ) -> None:
        self.block_size = block_size
        self.costs: CostView = ALWAYS_FETCH
        self._blocks = DeviceBlocks(num_blocks, block_size, num_host_blocks, num_file_blocks, window > 0)
        self._index = self._blocks.index
        self._populates = PopulateBook(self._blocks)
        self.contexts = ContextBook(self._blocks, context_share)
        self.tables = BlockTables(self._blocks, enable_prefix_caching, window)
        self.tiers = self._blocks.tiers

    @property
    def num_blocks(self) -> int:
        return self._blocks.pool.num_blocks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be handed out now: free ones and preserved ones that nobody uses."""
        return self._blocks.num_free

    @property
    def num_cached_blocks(self) -> int:
        return len(self._index)

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
        num_tokens = len(blocks) * self.block_size
        decision = fetch_or_recompute([node.tier for node in below], self.block_size, self.costs, num_tokens)
        chosen = tuple(below[: decision.num_blocks])
        return Match(num_tokens, blocks, chosen, arriving, decision)

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
        missing = max(self._blocks.num_for(num_tokens), len(match.blocks) + len(match.below)) - len(match.blocks)
        return self.num_free_blocks - revived - missing >= num_reserved

    def adopt(self, sequence_id: str, match: Match, salt: str | None = None) -> None:
        """Let a sequence without blocks start with those of a match that need not be waited for."""
        assert not match.must_wait
        self.tables.start(sequence_id, [self._index.node(block) for block in match.blocks], salt)

    # --- lower tiers ------------------------------------------------------------------------------------

    def populate(self, sequence_id: str, match: Match, num_reserved: int = 0, salt: str | None = None) -> bool:
        """Let a sequence without blocks start with those of a match, and have the missing ones fetched.

        The moves are planned (`tiers.take_moves`); until `query_populate` says otherwise the sequence may not read its
        blocks. False, and nothing done, when that would leave less than `num_reserved` blocks free.
        """
        if not self.fits(match, 0, num_reserved):
            return False
        nodes = [self._index.node(block) for block in match.blocks]
        self.tiers.touch([*nodes, *match.below])
        self.tables.start(sequence_id, nodes, salt)
        self._populates.fetch(match.below)
        self.tables.share(sequence_id, match.below)
        self._populates.begin(sequence_id, [*nodes, *match.below])
        return True

    def query_populate(self, sequence_id: str) -> PopulateStatus:
        """How the populate of a sequence stands. Once it is over the sequence has the blocks that arrived."""
        return self._populates.query(sequence_id, len(self.tables.of(sequence_id)) * self.block_size)

    def copy(self, sequence_id: str) -> int:
        """Copy the sequence's published blocks to the host's memory ahead of need; how many are on their way."""
        if not self.tiers.exist:
            return 0
        nodes = [node for node in self.tables.published(sequence_id) if node.is_ready and node.host is None]
        return sum(self.tiers.copy_to_host(node) for node in nodes)

    def finish_moves(self, results: Sequence[MoveResult]) -> None:
        """Moves were carried out, or failed: then what depends on them is cut from the tables of those who wait."""
        for result in results:
            self._blocks.stats.count_move(result)
            node = self.tiers.finish(result.move, failed=result.error is not None)
            if result.move.fills_device:
                self._populates.arrived(result.move, node, failed=result.error is not None)
        if any(result.error is not None for result in results):
            for sequence_id, num_blocks in self._populates.shortened():
                self.tables.cut(sequence_id, num_blocks)
        self._populates.let_go_of_ended()

    # --- blocks of sequences ----------------------------------------------------------------------------

    def alloc_blocks(self, sequence_id: str, num_tokens: int, write_from: int | None = None) -> bool:
        """Extend the table to hold `num_tokens` tokens; False, and nothing done, when blocks are short.

        write_from: the first token that will be written; where its block or one behind it is shared with a fork, the
        sequence gets a copy of its own (`tables.take_copies`).
        """
        return self.tables.alloc(sequence_id, num_tokens, write_from)

    def free(self, sequence_id: str) -> None:
        """Give back the sequence's blocks; published ones stay preserved until their room is needed."""
        self._populates.leave(sequence_id)
        self.tables.free(sequence_id)

    # --- the whole --------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all preserved KV, in every tier. Contexts keep their tokens. No sequence may have blocks."""
        assert not self.tables.sequence_ids, "sequences still have blocks"
        while self.contexts.unpin():
            pass
        self._blocks.forget_all()
        self._populates.let_go_of_ended()  # of sequences that are gone: nothing is to arrive any more

    def leave_device(self) -> bool:
        """Give up preserved blocks of the device, as many as the tiers below can take at a time; False when none is
        left. Contexts keep their tokens. No sequence may have blocks; the moves are carried out before the next call.
        """
        assert not self.tables.sequence_ids, "sequences still have blocks"
        while self.contexts.unpin():
            pass
        self._populates.let_go_of_ended()
        self._blocks.leave(max(1, self.tiers.host.num_slots // 2) if self.tiers.exist else self.num_blocks)
        return self._blocks.index.num_unused > 0

    def stats(self) -> CacheStats:
        return self._blocks.stats.copy()

    def take_relocations(self) -> list[Relocation]:
        """What came to the device or left it since the last call (the newest few thousand), in order: a router wants to
        know who holds what."""
        relocations = list(self._blocks.relocations)
        self._blocks.relocations.clear()
        return relocations

    def check_invariants(self) -> None:
        held = [0] * self.num_blocks
        for holders in (self.tables.holders(), self._populates.holders(), self.contexts.holders()):
            for block, num in holders.items():
                held[block] += num
        self._blocks.check_invariants(held)
        self.contexts.check_invariants()
        self._populates.check_invariants()
        self.tables.check_invariants(self._populates.is_waiting)
