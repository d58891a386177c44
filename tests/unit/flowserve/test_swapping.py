"""The scheduler over a cache with lower tiers: whatever is swapped, fetched, forked and aborted, each step reads the KV
that it means to, and each sequence ends with its own tokens."""

from __future__ import annotations

from collections import Counter, deque
from random import Random

from flowserve.rtc.cache import RelationalTensorCache
from flowserve.rtc.index import PrefixIndex
from flowserve.rtc.moves import Move, MoveResult, Tier
from flowserve.rtc.tiers import LowerTiers
from flowserve.scheduling import Batch, BoundedPriority, ScheduledSequence, Scheduler, SchedulerConfig
from tests.unit.flowserve.pretended import Run

PREFIXES = [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]]


class SwappingRun(Run):
    """Steps are computed when they are completed, as late as can be, and moves are carried out as `Mover` would, those
    to the device at a random time after the steps that may still write there."""

    def __init__(self, scheduler: Scheduler, depth: int, random: Random) -> None:
        super().__init__(scheduler, depth)
        self.random = random
        self.launched: deque[Batch] = deque()
        self.num_launched = 0
        self.num_done = 0
        self.done: dict[str, ScheduledSequence] = {}
        self.held: list[tuple[int, Move]] = []
        self.slow: list[Move] = []
        self.below: dict[tuple[Tier, int], list[int | None]] = {}

    def fork(self, parent_id: str, child_id: str) -> None:
        prompt, max_tokens = self.requests[parent_id]
        self.add(child_id, prompt, max_tokens, fork_of=self.done.get(parent_id))

    def step(self) -> bool:
        self.move_some()
        batch = self.scheduler.schedule()
        self.scheduler.check_invariants()
        after_step = self.num_launched + bool(batch.copies)
        for move in self.scheduler.cache.tiers.take_moves():
            if move.leaves_device:
                self.carry_out(move)
            elif move.fills_device:
                self.held.append((after_step, move))
            else:
                self.slow.append(move)
        if batch:
            self.launched.append(batch)
            self.num_launched += 1
        if self.launched and (not batch or len(self.launched) >= self.depth):
            oldest = self.launched.popleft()
            self.copy_blocks(oldest)
            for sequence in self.scheduler.complete(oldest, self.worker.execute(oldest)):
                self.finished[sequence.sequence_id] = sequence
            self.num_done += 1
            self.done.update((entry.sequence_id, entry) for entry in oldest.sequences)
            self.scheduler.check_invariants()
        return bool(batch) or bool(self.launched) or bool(self.held)

    def move_some(self) -> None:
        for _ in range(self.random.randrange(4)):
            if self.slow and self.random.random() < 0.5:
                self.carry_out(self.slow.pop(0))
            elif self.held and self.held[0][0] <= self.num_done:
                needed = (self.held[0][1].source, self.held[0][1].source_slot)
                while any((move.target, move.target_slot) == needed for move in self.slow):
                    self.carry_out(self.slow.pop(0))
                self.carry_out(self.held.pop(0)[1])

    def carry_out(self, move: Move) -> None:
        fails = not move.leaves_device and self.random.random() < 0.1
        if not fails:
            self.write(move.target, move.target_slot, self.read(move.source, move.source_slot))
        self.scheduler.cache.finish_moves([MoveResult(move, "it failed" if fails else None, 0.0)])
        self.scheduler.check_invariants()

    def read(self, tier: Tier, slot: int) -> list[int | None]:
        if tier is Tier.DEVICE:
            return [self.worker.kv.get((slot, offset)) for offset in range(self.worker.block_size)]
        return self.below[tier, slot]

    def write(self, tier: Tier, slot: int, content: list[int | None]) -> None:
        if tier is not Tier.DEVICE:
            self.below[tier, slot] = content
            return
        for offset, value in enumerate(content):
            self.worker.kv[slot, offset] = value if value is not None else -1

    def copy_blocks(self, batch: Batch) -> None:
        for source, target in batch.copies:
            self.write(Tier.DEVICE, target, self.read(Tier.DEVICE, source))

    def drain(self) -> None:
        limit = 100 + 4 * sum((len(prompt) + num) * (len(self.requests) + 1) for prompt, num in self.requests.values())
        for _ in range(limit * self.depth):
            self.step()
            if not self.scheduler.has_work and not self.launched:
                break
        else:
            raise AssertionError("no end in sight: a sequence starves")
        while self.held or self.slow or self.scheduler.cache.tiers.num_in_flight:
            self.step()


def swapping(num_blocks: int, num_host: int, num_file: int, window: int, **config: int) -> Scheduler:
    cache = RelationalTensorCache(num_blocks, 4, num_host_blocks=num_host, num_file_blocks=num_file, window=window)
    return Scheduler(SchedulerConfig(**config), cache, BoundedPriority(1000))


def test_a_crowd_swaps() -> None:
    """Many sequences with a common start and blocks for two of them: they swap all the time."""
    num_preemptions, num_hits = 0, Counter[Tier]()
    for seed in range(40):
        scheduler = crowd(Random(seed))
        num_preemptions += scheduler.num_preemptions
        num_hits.update(scheduler.cache.stats().hit_tokens)
    assert num_preemptions > 100 and all(num_hits[tier] > 10 for tier in Tier), "this test shows little"


def test_a_crowd_behind_a_window_swaps_less() -> None:
    preempted = [[crowd(Random(seed), window).num_preemptions for seed in range(40)] for window in (0, 6)]
    assert 0 < sum(preempted[1]) < sum(preempted[0])


def crowd(random: Random, window: int = 0) -> Scheduler:
    scheduler = swapping(
        num_blocks=random.randint(10, 13),
        num_host=random.randint(1, 16),
        num_file=random.choice([0, 3, 20]),
        window=window,
        max_num_sequences=random.randint(3, 5),
        max_num_batched_tokens=random.randint(5, 12),
    )
    run = SwappingRun(scheduler, random.randint(1, 3), random)
    run.worker.window = window
    run.add("f", [*PREFIXES[1], 9, 9], random.randint(4, 20))
    for _ in range(4):
        run.step()
    for name in "gh":
        if "f" not in run.finished:
            run.fork("f", name)
    for index in range(8):
        prompt = [*random.choice(PREFIXES), random.randint(1, 9)]
        run.add(f"s{index}", prompt, random.randint(10, 28), priority=-random.randrange(index + 1))
        for _ in range(random.randrange(6)):
            run.step()
        if index % 2:
            run.fork(f"s{index}", f"f{index}")
        if index % 3 == 2:
            run.abort(f"s{random.randrange(index)}")
    run.drain()
    run.check_results()
    return scheduler


def test_what_only_the_file_keeps_does_not_make_way_for_a_spill() -> None:
    index = PrefixIndex(2)
    tiers = LowerTiers(1, 1, lambda node: None)
    leaving, spilled = (index.insert(None, (token, token), None) for token in (1, 2))
    index.place(leaving, 0)
    leaving.file = tiers.file.put(leaving)
    spilled.host = tiers.host.put(spilled)
    assert tiers.keep(leaving) and leaving.file is not None
    tiers.check_invariants()
