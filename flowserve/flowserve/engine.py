"""Engine: many sequences, one step at a time. `step` is the heartbeat; everything else prepares or explains it."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .closing import close_parts
from .config import EngineConfig
from .device_hold import AWAKE, DeviceHold, check_level
from .engine_setup import EngineSetup
from .errors import (
    EngineAsleepError,
    EngineBusyError,
    EngineClosedError,
    LoadingError,
    SequenceExistsError,
    UnknownSequenceError,
)
from .hub import resolve_model
from .intake import Intake, Prepared, check_turn
from .model_parts import load_with_tokenizer
from .models.loader import LoadedModel
from .outputs import EngineStats, SequenceOutput
from .params_compiler import Compiled, ParamsCompiler
from .resume import Resumed
from .rtc.contexts import check_context
from .rtc.traffic import BlockTraffic, engine_cache, engine_costs
from .sampling_params import SamplingParams
from .scheduling.batch import Batch, ScheduledSequence
from .scheduling.config import SchedulerConfig
from .scheduling.scheduler import Scheduler
from .sequence_book import SequenceBook
from .sequence_stream import SequenceStream
from .sequence_text import Text
from .step_log import StepLog, setting_of, step_log_of
from .structured import GrammarCompiler
from .tokenizer import Tokenizer
from .worker.sampler_state import SamplerState
from .worker.steps import FinishedStep, steps_of
from .worker.worker import Worker


class Engine:
    """One model on one device. Not thread-safe: one thread adds, steps and aborts.

    Building it takes hold of the device (threads, KV cache); a process that forks engines loads the model before
    (`load_model`, one thread, no parallel operation) and builds the engine in the child. `clock` is that of deadlines.
    The first step may start a thread (see `EngineConfig.overlap`), which ends with `close` or with the engine.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        config: EngineConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._clock = clock
        self.tokenizer = tokenizer
        self.model_config = loaded.config
        tokenizer.check_fits(loaded.config.vocab_size)
        self._hold = DeviceHold(loaded, config)
        runner, self.max_model_len = self._hold.runner, self._hold.max_model_len
        self.setup = EngineSetup.of(loaded, config, self._hold)
        setting = setting_of(config, loaded, self._hold.layout, runner)
        self._cache = engine_cache(self._hold.layout, config, setting.window)
        self.take_relocations = self._cache.take_relocations
        target_step_s = config.target_step_ms / 1000.0
        limits = SchedulerConfig(config.max_num_sequences, config.max_num_batched_tokens, target_step_s=target_step_s)
        self._scheduler = Scheduler(limits, self._cache)
        self._worker = Worker(runner)
        self._steps = steps_of(self._worker, config, loaded)
        costs = engine_costs(config, setting, loaded.config.num_parameters)
        self._traffic = BlockTraffic(self._cache, runner.storage, config, costs)
        self.step_log: StepLog | None = step_log_of(config, setting)
        grammars = GrammarCompiler(tokenizer, loaded.config.vocab_size, tokenizer.eos_token_ids)
        self.compiler = ParamsCompiler(tokenizer, grammars)
        self._closing = weakref.finalize(
            self, close_parts, self.compiler, self._steps, self._traffic, self.step_log, self._worker, self._hold
        )
        self._intake = Intake(tokenizer, self.compiler, loaded.config.vocab_size, self.max_model_len, config)
        self._book = SequenceBook(self._scheduler, self._worker, self._cache.contexts, clock)
        self._resumed = Resumed()
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        self._num_added = 0
        self._num_steps = 0

    @classmethod
    def from_folder(cls, model: str | Path, config: EngineConfig | None = None) -> Engine:
        """Load a folder or a hub id. Raises the ModelNotFound, Unsupported, Checkpoint and Tokenizer errors."""
        config = config or EngineConfig()
        folder = resolve_model(model)
        from .kv_profile import with_kv_budget  # which runs an engine

        loaded, tokenizer = load_with_tokenizer(folder, config)
        return cls(loaded, tokenizer, with_kv_budget(loaded, tokenizer, config))

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do; also true while a step is in flight whose sequences have all ended."""
        return self._scheduler.has_work or len(self._steps) > 0 or len(self._resumed) > 0

    def add(
        self,
        sequence_id: str,
        prompt_ids: list[int],
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        cache_salt: str | None = None,
        context_id: str | None = None,
        compiled: Compiled | None = None,
        output_ids: Sequence[int] = (),
        other_output_ids: Sequence[Sequence[int]] = (),
        wants_hidden: bool = False,
    ) -> None:
        """Queue a prompt, as one sequence or, with params.n, as several of which outputs tell the index.

        priority: lower comes earlier, equals in order of arrival (`BoundedPriority` has the whole rule).  deadline_s:
        seconds of the engine's clock (time.monotonic) at which it ends with the reason "deadline" if it still goes on.
        cache_salt: the tenant; only what the same tenant computed is used again.  context_id: of a context (`preserve`)
        of this tenant, whose tokens the prompt continues; they count as part of it.  compiled: what `compiler.submit`
        gave for these params; None = they are compiled here, while all others wait.
        output_ids: what the sequence has put out before, here or elsewhere; it goes on behind them with the very tokens
        that would have come (params.seed given, where it draws). Its first output has their text and no token; that may
        be its last: they may hold its end.  other_output_ids: the same of the completions after the first.
        wants_hidden: see SequenceOutput. The prompt may take the whole context, and its KV is not preserved for others.
        Raises what `Intake.prepare` and `replay` raise, UnknownContextError, InvalidRequestError (priority, deadline,
        salt) or SequenceExistsError (id in use); then nothing is queued and no other sequence is touched.
        """
        params = params or SamplingParams()
        self.check_awake()
        if sequence_id in self._book.requests:
            raise SequenceExistsError(f"the id {sequence_id!r} is in use: its sequence is in the engine already")
        check_turn(priority, deadline_s, cache_salt)
        if context_id is not None:
            prompt_ids = self._cache.match_by_id(context_id, prompt_ids, self._clock(), cache_salt)[0]
        prepared = self._intake.prepare(prompt_ids, params, compiled, (output_ids, *other_output_ids), wants_hidden)
        turn: dict[str, Any] = {"priority": priority, "deadline_s": deadline_s, "cache_salt": cache_salt}
        seed = params.seed if params.seed is not None else self._seed + self._num_added
        # All that can fail comes first: here the caller is told, later the books are half written.
        made = [(each.sampler_state(seed, index), each.text()) for index, each in enumerate(prepared)]
        ends = [each.replay(*one) for each, one in zip(prepared, made, strict=True)]
        going_on = [index for index, reason in enumerate(ends) if reason is None]

        def start(indices: Sequence[int], fork_of: ScheduledSequence | None) -> None:
            for index in indices:
                self._start(sequence_id, index, prepared[index], made[index], fork_of=fork_of, **turn)

        start(going_on[:1], None)
        self._book.requests.setdefault(sequence_id, set())
        for index, reason in enumerate(ends):
            if reason is not None:
                self._resumed.note_over(sequence_id, index, prepared[index], made[index][1], reason)
        self._num_added += 1
        if len(going_on) > 1:
            first = _id_of(sequence_id, going_on[0])
            self._book.followers[first] = lambda done: start(going_on[1:], done)

    def _start(
        self, request_id: str, index: int, prepared: Prepared, made: tuple[SamplerState, Text], **options: Any
    ) -> None:
        """One completion of a request; those after the first find its prompt computed."""
        state, text = made
        sequence_id = _id_of(request_id, index)
        sequence = self._scheduler.add(
            sequence_id,
            prepared.prompt_ids,
            prepared.max_tokens,
            wants_prompt_logits=index == 0 and prepared.params.prompt_logprobs is not None,
            output_ids=prepared.output_ids,
            keeps_kv=not prepared.wants_hidden,
            **options,
        )
        self._worker.add(sequence_id, sequence.arrival, state, prepared.end_token_ids)
        self._book.streams[sequence_id] = SequenceStream(sequence, text, prepared.end_token_ids, request_id, index)
        self._book.requests.setdefault(request_id, set()).add(sequence_id)
        if prepared.output_ids:
            self._resumed.note(self._book.streams[sequence_id])

    def step(self) -> list[SequenceOutput]:
        """The outputs of the oldest step in flight: one for each sequence that got a token, met its deadline or failed.

        Plans as many steps as are worth having in flight (`EngineConfig.overlap`) before it waits for that one. A step
        that fails ends its own sequences, with the reason "abort" and an error, and no others.
        """
        self.check_awake()
        began_s = time.perf_counter()
        outputs = self._resumed.take(self._book.requests) + self._expire()
        while len(self._steps) < self._steps.depth and (batch := self._plan()):
            self._steps.submit(batch)
        if not self._steps:
            self._traffic.wait()
            return outputs
        collecting_s = time.perf_counter()
        step = self._collect()
        waited_s = time.perf_counter() - collecting_s
        outputs += self._book.receive(step) if step.error is None else self._book.fail(step.batch, step.error)
        if self.step_log is not None and step.error is None:
            self._note(self.step_log, step, time.perf_counter() - began_s - waited_s)
        return outputs

    def abort(self, sequence_id: str) -> None:
        """Drop a sequence; no further output. Raises UnknownSequenceError for an id that is not in the engine."""
        if sequence_id not in self._book.requests:
            raise UnknownSequenceError(f"no sequence {sequence_id!r} in the engine")
        self._resumed.drop(sequence_id)
        for each in list(self._book.requests[sequence_id]):
            self._book.abort(each)
        self._book.requests.pop(sequence_id, None)  # of one that was over when it was resumed

    def preserve(self, sequence_id: str, context_id: str, ttl_s: float, *, with_output: bool = False) -> None:
        """Keep a sequence's prompt as a context once it ends, for `add(context_id=...)` of the same tenant.

        The context lives until nobody has used it for `ttl_s` seconds, or `delete_context`. Its KV stays on the device
        as far as `EngineConfig.context_cache_share` allows; what does not is computed again when it is used.
        with_output: the generated tokens belong to it too (a conversation that goes on).
        Raises UnknownSequenceError, or InvalidContextError for an empty id or an impossible time to live.
        """
        if sequence_id not in self._book.streams:
            raise UnknownSequenceError(f"no sequence {sequence_id!r} in the engine")
        check_context(context_id, ttl_s)
        self._book.streams[sequence_id].preserve_as = (context_id, ttl_s, with_output)

    def add_context(self, context_id: str, token_ids: list[int], ttl_s: float, cache_salt: str | None = None) -> None:
        """Make a context of tokens that another engine may have computed: the sequences that use it compute it here.

        One of these tokens that is there already is left as it is. Raises InvalidContextError.
        """
        contexts, now_s = self._cache.contexts, self._clock()
        contexts.expire(now_s)
        if not contexts.holds(context_id, token_ids, cache_salt):
            contexts.preserve(context_id, token_ids, ttl_s, now_s, cache_salt)

    def delete_context(self, context_id: str, cache_salt: str | None = None) -> None:
        """Forget a context of a tenant. Raises UnknownContextError."""
        self._cache.contexts.expire(self._clock())
        self._cache.contexts.delete(context_id, cache_salt)

    def set_context_ttl(self, context_id: str, ttl_s: float) -> None:
        """Give a context of every tenant that has one of this id another time to live; 0 deletes it.

        For callers whose ids are the same for all tenants. Nothing where none has it. Raises InvalidContextError.
        """
        contexts, now_s = self._cache.contexts, self._clock()
        contexts.expire(now_s)
        contexts.set_ttl(context_id, ttl_s, now_s)

    @property
    def num_pinned_blocks(self) -> int:
        """KV blocks that contexts keep on the device."""
        return self._cache.contexts.num_pinned_blocks

    def sleep(self, level: int = 1, *, abort: bool = False) -> int:
        """Give back the device's memory and threads; the process, its sequences' books and all settings stay.

        level: 1 keeps the weights within reach (mapped files in the page cache), 2 drops them: `wake` reads them again.
        Both give up the KV storage. What the tiers below have of it, or have room for, stays preserved; the rest is
        lost and computed again when it is needed, that of contexts too. Returns how many blocks are lost.
        abort: drop sequences that go on. From level 1 the engine may go to 2; asleep as deep already, nothing happens.
        Raises EngineBusyError naming sequences that go on, InvalidRequestError (level).
        """
        self._check_open()
        check_level(level)
        if self._book.requests and not abort:
            names = ", ".join(map(repr, list(self._book.requests)[:8])) + ", ..." * (len(self._book.requests) > 8)
            raise EngineBusyError(f"the engine cannot sleep: {len(self._book.requests)} requests go on: {names}")
        for sequence_id in list(self._book.requests):
            self.abort(sequence_id)
        lost = 0
        if not self.is_sleeping:
            while self._steps:
                self._book.receive(self._collect())
            self._steps.close()
            lost = self._traffic.leave_device()
            self._traffic.attach(None)
            self._worker.take(None)
        self._hold.release(level)
        return lost

    def wake(self) -> None:
        """Take the device again; what was lost is computed when it is needed. Awake, nothing happens.

        Raises what loading the model raises; then the sleep goes on.
        """
        self._check_open()
        if self.is_sleeping:
            runner = self._hold.restore()
            self._worker.take(runner)
            self._traffic.attach(runner.storage)

    @property
    def is_sleeping(self) -> bool:
        return self._hold.level != AWAKE

    @property
    def is_arriving(self) -> bool:
        """Whether some of the weights are still on their way, for which the next step waits."""
        return self._hold.is_arriving

    @property
    def read_s(self) -> float:
        """Seconds that reading the weights into memory took; 0 where nothing was read, or is not all there yet."""
        return self._hold.read_s

    @property
    def loading_error(self) -> LoadingError | None:
        """Why they will not come: all sequences fail from then on, and only another engine helps."""
        return self._hold.loading_error

    def close(self) -> None:
        """Drop all sequences, wait for the step that runs and give back the device: its threads and the KV memory.

        Then `add` and `step` are refused. May be called again.
        """
        for sequence_id in list(self._book.requests):
            self.abort(sequence_id)
        self._closing()

    def stats(self) -> EngineStats:
        """Counts for routing, scaling and tests."""
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            free_blocks=self._cache.num_free_blocks,
            total_blocks=self._cache.num_blocks,
            cached_blocks=self._cache.num_cached_blocks,
            block_size=self._cache.block_size,
            num_preemptions=self._scheduler.num_preemptions,
            num_steps=self._num_steps,
            prefix_query_tokens=self._scheduler.prefix_query_tokens,
            prefix_hit_tokens=self._scheduler.prefix_hit_tokens,
            num_draft_tokens=self._scheduler.num_draft_tokens,
            num_accepted_tokens=self._scheduler.num_accepted_tokens,
            cache=self._cache.stats(),
            pinned_blocks=self.num_pinned_blocks,
            num_contexts=len(self._cache.contexts),
            sleep_level=self._hold.level,
        )

    def check_invariants(self) -> None:
        """Raise AssertionError where the engine's books contradict each other. For tests."""
        self._scheduler.check_invariants()
        self._book.check_invariants()

    def _check_open(self) -> None:
        if not self._closing.alive:
            raise EngineClosedError("the engine is closed")

    def check_awake(self) -> None:
        """Raises EngineAsleepError or EngineClosedError."""
        self._check_open()
        if self.is_sleeping:
            raise EngineAsleepError(f"the engine sleeps at level {self._hold.level}: wake comes first")

    def _collect(self) -> FinishedStep:
        step = self._steps.collect()
        self._traffic.step_done(step.batch, step.seconds)
        if step.error is None:
            self._scheduler.took(step.batch, step.seconds)
        self._num_steps += 1
        return step

    def _note(self, log: StepLog, step: FinishedStep, engine_s: float) -> None:
        running, waiting = self._scheduler.num_running, self._scheduler.num_waiting
        free, overlapped = self._cache.num_free_blocks, self._steps.depth > 1
        log.add_step(step.batch, self._num_steps, step.seconds, engine_s, running, waiting, free, overlapped)

    def _plan(self) -> Batch:
        self._traffic.receive()
        batch = self._scheduler.schedule(self._worker.draft() if self.config.speculative_tokens else None)
        self._traffic.dispatch(batch)
        return batch

    def _expire(self) -> list[SequenceOutput]:
        if len(self._cache.contexts):
            self._cache.contexts.expire(self._clock())
        if not self._scheduler.has_deadlines:
            return []
        return [self._book.end(sequence.sequence_id) for sequence in self._scheduler.expire(self._clock())]


def _id_of(request_id: str, index: int) -> str:
    """Of one completion, to scheduler and worker."""
    return f"{request_id}\0{index}" if index else request_id
