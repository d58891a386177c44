"""The RTC against a plain model: memories as dicts in which every token's KV is the prefix that it was computed from.

Whatever sequences, forks, contexts, tenants, evictions, moves and failed moves do to each other, a block that anybody
may read holds what its reader believes. Hypothesis looks for short stories that go wrong, a seeded walk goes far. For a
long run: RTC_STATES=20 (times as many) or `make test-rtc`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserve.errors import UnknownContextError
from flowserve.rtc.cache import RelationalTensorCache
from flowserve.rtc.moves import Move, MoveResult, Tier
from flowserve.rtc.populates import PopulateState
from flowserve.rtc.rules import CostView

BLOCK_SIZE = 2
TENANTS = [None, "a"]
PREFIXES = [[], [1, 1], [1, 1, 2, 2, 3, 3, 4, 4], [5] * 7]
Slot = tuple[Tier, int]


@dataclass
class Running:
    """A sequence as the model knows it: tokens, how many of them have KV, and whether it waits for a populate."""

    tokens: list[int]
    salt: str | None
    num_computed: int = 0
    waits: bool = False


@dataclass
class Memories:
    """Per tier and slot, the KV in it: per token of the block the (tenant, prefix) it was computed from."""

    kv: dict[Slot, list[Any]] = field(default_factory=dict)
    bad: set[Slot] = field(default_factory=set)

    def block(self, tier: Tier, slot: int) -> list[Any]:
        return self.kv.setdefault((tier, slot), [None] * BLOCK_SIZE)

    def carry_out(self, move: Move, fails: bool) -> MoveResult:
        source, target = (move.source, move.source_slot), (move.target, move.target_slot)
        if fails or source in self.bad:
            if move.target is not Tier.DEVICE:
                self.bad.add(target)
            self.kv[target] = ["damaged"] * BLOCK_SIZE
            return MoveResult(move, "it failed", 0.0)
        self.bad.discard(target)
        self.kv[target] = list(self.block(*source))
        return MoveResult(move, None, 0.0)


class World:
    """A cache, the model beside it, and everything that may happen to them. Choices come in as integers."""

    def __init__(
        self, num_blocks: int, num_host: int, num_file: int, share: float, file_cost: float, window: int
    ) -> None:
        self.cache = RelationalTensorCache(
            num_blocks,
            BLOCK_SIZE,
            num_host_blocks=num_host,
            num_file_blocks=num_file if num_host else 0,
            context_share=share,
            window=window,
        )
        self.window = window
        self.cache.costs = CostView(1.0, {Tier.HOST: 0.1, Tier.FILE: file_cost})
        self.memories = Memories()
        self.sequences: dict[str, Running] = {}
        self.contexts: dict[tuple[str | None, str], tuple[list[int], float, float]] = {}
        self.pending: list[Move] = []
        self.now_s = 0.0
        self.num_started = 0

    # --- sequences

    def start(self, tokens: list[int], salt: str | None) -> None:
        match = self.cache.match_by_prefix_token(tokens, salt)
        num_found = match.num_tokens + len(match.below) * BLOCK_SIZE
        assert num_found < len(tokens) and len(match.blocks) * BLOCK_SIZE == match.num_tokens
        if not self.cache.fits(match, num_found + 1, 0):
            return
        self.num_started += 1
        sequence_id = f"s{self.num_started}"
        running = self.sequences[sequence_id] = Running(list(tokens), salt)
        if match.must_wait:
            assert self.cache.populate(sequence_id, match, 0, salt)
            running.waits = True
            self._hear(sequence_id)
        else:
            self.cache.adopt(sequence_id, match, salt)
            running.num_computed = match.num_tokens

    def ids(self, *, waits: bool) -> list[str]:
        return [sequence_id for sequence_id, each in self.sequences.items() if each.waits is waits]

    def query(self, pick: int) -> None:
        waiting = self.ids(waits=True)
        self._hear(waiting[pick % len(waiting)])

    def _hear(self, sequence_id: str) -> None:
        running = self.sequences[sequence_id]
        status = self.cache.query_populate(sequence_id)
        if status.state is not PopulateState.PENDING:
            running.waits = False
            running.num_computed = status.num_tokens

    def _ready(self, pick: int) -> tuple[str, Running]:
        ready = self.ids(waits=False)
        return ready[pick % len(ready)], self.sequences[ready[pick % len(ready)]]

    def compute(self, pick: int, num_tokens: int, token: int) -> None:
        """One step of one sequence: `num_tokens` of those it has, or one more, `token`."""
        sequence_id, running = self._ready(pick)
        if running.num_computed == len(running.tokens):
            running.tokens.append(token)
        end = min(running.num_computed + num_tokens, len(running.tokens))
        before = list(self.cache.tables.of(sequence_id))
        if not self.cache.alloc_blocks(sequence_id, end, running.num_computed):
            assert self.cache.tables.of(sequence_id) == before
            return
        self._moves()
        while any(move.leaves_device for move in self.pending):  # as an engine waits for them
            self._run_one(False, 1)
        for source, target in self.cache.tables.take_copies():
            self.memories.kv[Tier.DEVICE, target] = list(self.memories.block(Tier.DEVICE, source))
        table = self.cache.tables.of(sequence_id)
        for position in range(running.num_computed, end):
            block = self.memories.block(Tier.DEVICE, table[position // BLOCK_SIZE])
            block[position % BLOCK_SIZE] = (running.salt, tuple(running.tokens[: position + 1]))
        running.num_computed = end
        self.cache.tables.computed(sequence_id, running.tokens, end)

    def fork(self, pick: int, num_left_out: int) -> None:
        sequence_id, parent = self._ready(pick)
        num_tokens = max(0, parent.num_computed - num_left_out)
        self.num_started += 1
        if not self.cache.tables.fork(sequence_id, f"s{self.num_started}", num_tokens):
            assert self.window and num_left_out
            return
        self.sequences[f"s{self.num_started}"] = Running(parent.tokens[: max(num_tokens, 1)], parent.salt, num_tokens)

    def end(self, pick: int) -> None:
        sequence_id = list(self.sequences)[pick % len(self.sequences)]
        self.cache.free(sequence_id)
        del self.sequences[sequence_id]

    def copy(self, pick: int) -> None:
        self.cache.copy(self._ready(pick)[0])

    # --- moves: in order, except that those to the device may be overtaken by others

    def _moves(self) -> None:
        self.pending += self.cache.tiers.take_moves()

    def _run_one(self, fails: bool, overtakes: int) -> None:
        first_other = next((i for i, move in enumerate(self.pending) if not move.fills_device), 0)
        move = self.pending.pop(first_other if overtakes else 0)
        self.cache.finish_moves([self.memories.carry_out(move, fails)])

    def move(self, num_moves: int, overtakes: int, fails: int) -> None:
        for _ in range(num_moves):
            self._moves()
            if self.pending:
                self._run_one(fails == 0, overtakes)

    # --- contexts

    def preserve(self, pick: int, name: str, ttl_s: int) -> None:
        each = self._ready(pick)[1]
        self.cache.contexts.preserve(name, each.tokens, ttl_s, self.now_s, each.salt)
        self.contexts[each.salt, name] = (list(each.tokens), ttl_s, self.now_s + ttl_s)

    def use(self, name: str, salt: str | None, end: int) -> None:
        known = self.contexts.get((salt, name))
        if known is None or known[2] <= self.now_s:
            with pytest.raises(UnknownContextError, match=name):
                self.cache.match_by_id(name, [end], self.now_s, salt)
            return
        tokens, match = self.cache.match_by_id(name, [end], self.now_s, salt)
        assert tokens == [*known[0], end]
        assert match == self.cache.match_by_prefix_token(tokens, salt)
        self.contexts[salt, name] = (known[0], known[1], self.now_s + known[1])
        self.start(tokens, salt)

    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        gone = {key for key, (_, _, expires_s) in self.contexts.items() if expires_s <= self.now_s}
        expired = self.cache.contexts.expire(self.now_s)
        assert {(context.salt, context.context_id) for context in expired} <= gone
        assert len(self.cache.contexts) == len(self.contexts.keys() - gone)
        for key in gone:
            del self.contexts[key]

    def delete(self, name: str, salt: str | None) -> None:
        if (salt, name) in self.contexts:
            del self.contexts[salt, name]
            self.cache.contexts.delete(name, salt)
        else:
            with pytest.raises(UnknownContextError, match=name):
                self.cache.contexts.delete(name, salt)

    def set_ttl(self, name: str, ttl_s: int) -> None:
        self.cache.contexts.set_ttl(name, ttl_s, self.now_s)
        for key in [key for key in self.contexts if key[1] == name]:
            if ttl_s:
                self.contexts[key] = (self.contexts[key][0], ttl_s, self.now_s + ttl_s)
            else:
                del self.contexts[key]
        assert len(self.cache.contexts) == len(self.contexts)

    def unpin(self) -> None:
        had = self.cache.contexts.num_pinned_blocks
        assert self.cache.contexts.unpin() is (had > 0)

    def clear(self) -> None:
        self.cache.clear()
        assert self.cache.num_cached_blocks == 0
        assert not any(self.cache.match_by_prefix_token([*prefix, 1]).blocks for prefix in PREFIXES)

    # --- what must hold

    def check(self) -> None:
        self.cache.check_invariants()
        self._moves()
        for sequence_id, running in self.sequences.items():
            table = self.cache.tables.of(sequence_id)
            assert running.waits or len(table) * BLOCK_SIZE >= running.num_computed
            first_seen = max(0, running.num_computed + 1 - self.window) if self.window else 0
            for position in range(first_seen, running.num_computed):
                found = self.memories.block(Tier.DEVICE, table[position // BLOCK_SIZE])[position % BLOCK_SIZE]
                assert found == (running.salt, tuple(running.tokens[: position + 1])), "it reads another's KV"
        to_come = {(move.target, move.target_slot) for move in self.pending}
        for node in self.cache._index.nodes():
            tokens = _prefix(node)
            start = len(tokens) - BLOCK_SIZE
            expected = [(node.salt, tokens[: start + i + 1]) for i in range(BLOCK_SIZE)]
            for slot in ((Tier.DEVICE, node.block), (Tier.HOST, node.host), (Tier.FILE, node.file)):
                if slot[1] is not None and slot not in to_come and slot not in self.memories.bad:
                    assert self.memories.block(*slot) == expected, f"the index is wrong about {slot}"

    def finish(self) -> None:
        """When all has ended and arrived, every block is free."""
        for sequence_id in self.sequences:
            self.cache.free(sequence_id)
        self._moves()
        while self.pending:
            self._run_one(False, 0)
            self._moves()
        while self.cache.contexts.unpin():
            pass
        self.cache.check_invariants()
        assert self.cache.num_free_blocks == self.cache.num_blocks, "blocks leaked"
        assert self.cache.tiers.num_in_flight == 0


def _prefix(node: Any) -> tuple[int, ...]:
    tokens: tuple[int, ...] = ()
    while node.parent is not None:
        tokens, node = node.tokens + tokens, node.parent
    return tokens


SIZES = {"num_blocks": (3, 9), "num_host": (0, 8), "num_file": (0, 9)}
SHARES, FILE_COSTS, NAMES, WINDOWS = [0.0, 0.4, 1.0], [0.5, 3.0], "xy", [0, 0, 1, 3, 6]
PICK = st.integers(0, 5)


def _has(*, waits: bool) -> Callable[[Any], Any]:
    return precondition(lambda self: self.world.ids(waits=waits))


class CacheMachine(RuleBasedStateMachine):
    world: World

    @initialize(
        share=st.sampled_from(SHARES),
        file_cost=st.sampled_from(FILE_COSTS),
        window=st.sampled_from(WINDOWS),
        **{name: st.integers(*bounds) for name, bounds in SIZES.items()},
    )
    def build(self, **sizes: Any) -> None:
        self.world = World(**sizes)

    @rule(prefix=st.sampled_from(PREFIXES), end=st.lists(st.integers(1, 3), min_size=1, max_size=4),
          salt=st.sampled_from(TENANTS))  # fmt: skip
    def start(self, prefix: list[int], end: list[int], salt: str | None) -> None:
        self.world.start(prefix + end, salt)

    @_has(waits=True)
    @rule(pick=PICK)
    def query(self, pick: int) -> None:
        self.world.query(pick)

    @_has(waits=False)
    @rule(pick=PICK, num_tokens=st.integers(1, 9), token=st.integers(1, 3))
    def compute(self, pick: int, num_tokens: int, token: int) -> None:
        self.world.compute(pick, num_tokens, token)

    @_has(waits=False)
    @rule(pick=PICK, num_left_out=st.integers(0, 3))
    def fork(self, pick: int, num_left_out: int) -> None:
        self.world.fork(pick, num_left_out)

    @precondition(lambda self: self.world.sequences)
    @rule(pick=PICK)
    def end(self, pick: int) -> None:
        self.world.end(pick)

    @_has(waits=False)
    @rule(pick=PICK)
    def copy(self, pick: int) -> None:
        self.world.copy(pick)

    @precondition(lambda self: self.world.pending)
    @rule(num_moves=st.integers(1, 5), overtakes=st.integers(0, 1), fails=st.integers(0, 3))
    def move(self, num_moves: int, overtakes: int, fails: int) -> None:
        self.world.move(num_moves, overtakes, fails)

    @_has(waits=False)
    @rule(pick=PICK, name=st.sampled_from(NAMES), ttl_s=st.integers(1, 5))
    def preserve(self, pick: int, name: str, ttl_s: int) -> None:
        self.world.preserve(pick, name, ttl_s)

    @rule(name=st.sampled_from(NAMES), salt=st.sampled_from(TENANTS), end=st.integers(1, 3))
    def use(self, name: str, salt: str | None, end: int) -> None:
        self.world.use(name, salt, end)

    @precondition(lambda self: self.world.contexts)
    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.contexts)
    @rule(name=st.sampled_from(NAMES), salt=st.sampled_from(TENANTS))
    def delete(self, name: str, salt: str | None) -> None:
        self.world.delete(name, salt)

    @rule(name=st.sampled_from(NAMES), ttl_s=st.integers(0, 5))
    def set_ttl(self, name: str, ttl_s: int) -> None:
        self.world.set_ttl(name, ttl_s)

    @precondition(lambda self: self.world.contexts)
    @rule()
    def unpin(self) -> None:
        self.world.unpin()

    @precondition(lambda self: not self.world.sequences and self.world.cache.num_cached_blocks)
    @rule()
    def clear(self) -> None:
        self.world.clear()

    @invariant()
    def everything_agrees(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


SCALE = int(os.environ.get("RTC_STATES", "1"))

CacheMachine.TestCase.settings = settings(
    max_examples=40 * SCALE, stateful_step_count=40, derandomize=True, deadline=None
)
TestCacheStates = CacheMachine.TestCase


def _act(world: World, random: Random) -> None:
    """One thing that can happen now, the frequent ones more often."""
    pick, salt, name = random.randrange(6), random.choice([None, *TENANTS]), random.choice(NAMES)
    ends = [random.randint(1, 2) for _ in range(random.randint(1, 5))]
    actions: list[tuple[int, bool, Callable[[], None]]] = [
        (9, len(world.sequences) < 4, lambda: world.start(random.choice([*PREFIXES, PREFIXES[2]]) + ends, salt)),
        (3, bool(world.ids(waits=True)), lambda: world.query(pick)),
        (12, bool(world.ids(waits=False)), lambda: world.compute(pick, random.randint(1, 9), random.randint(1, 3))),
        (2, bool(world.ids(waits=False)), lambda: world.fork(pick, random.randrange(4))),
        (7, bool(world.sequences), lambda: world.end(pick)),
        (1, bool(world.ids(waits=False)), lambda: world.copy(pick)),
        (7, bool(world.pending), lambda: world.move(random.randint(1, 4), random.randrange(2), random.randrange(8))),
        (2, bool(world.ids(waits=False)), lambda: world.preserve(pick, name, random.randint(1, 9))),
        (2, bool(world.contexts), lambda: world.use(name, salt, random.randint(1, 3))),
        (2, bool(world.contexts), lambda: world.wait(random.randint(1, 3))),
        (1, bool(world.contexts), lambda: world.delete(name, salt)),
        (1, bool(world.contexts), lambda: world.set_ttl(name, random.randint(0, 3))),
        (1, bool(world.contexts), world.unpin),
        (1, not world.sequences, world.clear),
    ]
    possible = [(weight, action) for weight, can, action in actions if can]
    random.choices([action for _, action in possible], [weight for weight, _ in possible])[0]()


@pytest.mark.parametrize("seed", range(40 * SCALE))
def test_a_long_walk(seed: int) -> None:
    random = Random(seed)
    sizes = {name: random.randint(*bounds) for name, bounds in SIZES.items()}
    share, file_cost, window = random.choice(SHARES), random.choice(FILE_COSTS), random.choice(WINDOWS)
    world = World(**sizes, share=share, file_cost=file_cost, window=window)
    for _ in range(200):
        _act(world, random)
        world.check()
    world.finish()
