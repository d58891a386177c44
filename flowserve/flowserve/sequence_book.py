"""SequenceBook: which sequences an engine has, what they belong to, and what becomes of each with a step."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .outputs import SequenceOutput
from .rtc.contexts import ContextBook
from .scheduling.batch import Batch, ScheduledSequence, TokenResult
from .scheduling.scheduler import Scheduler
from .sequence_stream import SequenceStream
from .worker.steps import FinishedStep
from .worker.worker import Worker

_log = logging.getLogger(__name__)


class SequenceBook:
    """streams: by sequence id.  requests: what was added, with those of its sequences that still go on.

    followers: start the other completions of a sequence's prompt, which may share what a step has computed of it.
    """

    def __init__(self, scheduler: Scheduler, worker: Worker, contexts: ContextBook, clock: Callable[[], float]) -> None:
        self.streams: dict[str, SequenceStream] = {}
        self.requests: dict[str, set[str]] = {}
        self.followers: dict[str, Callable[[ScheduledSequence | None], None]] = {}
        self._scheduler = scheduler
        self._worker = worker
        self._contexts = contexts
        self._clock = clock

    def receive(self, step: FinishedStep) -> list[SequenceOutput]:
        """Read a step's tokens, count them, and say what became of each sequence that got some."""
        sampled = step.sampled
        streams: dict[str, SequenceStream] = {}
        results: dict[str, TokenResult] = {}
        for entry in step.batch.sequences:
            if (tokens := sampled.get(entry.sequence_id)) and (stream := self._stream_of(entry)):
                streams[entry.sequence_id] = stream
                try:
                    results[entry.sequence_id] = stream.read(tokens)
                except Exception as error:  # a text that cannot be made must not take the others' tokens with it
                    _log.exception("the tokens of %r could not be read", stream.request_id)
                    stream.fail(f"the text could not be read: {type(error).__name__}: {error}")
                    results[entry.sequence_id] = TokenResult((tokens[0].token_id,), "abort")
        if self.followers:  # before their prompt's first sequence may end, and lose what they share
            for entry in step.batch.sequences:
                if entry.sequence_id in streams:
                    self._start_followers(entry.sequence_id, entry)
        for sequence in self._scheduler.complete(step.batch, results):
            self._forget(sequence.sequence_id)
        return [
            stream.output(sampled[sequence_id], results[sequence_id].token_ids)
            for sequence_id, stream in streams.items()
        ]

    def fail(self, batch: Batch, error: BaseException) -> list[SequenceOutput]:
        """End the sequences of a step that broke: how far each of them came is not known."""
        _log.error("a step of %d sequences failed", len(batch.sequences), exc_info=error)
        outputs = []
        for entry in batch.sequences:
            if stream := self._stream_of(entry):
                stream.fail(f"a step of the engine failed: {type(error).__name__}: {error}")
                self._scheduler.abort(entry.sequence_id)
                outputs.append(self.end(entry.sequence_id))
        return outputs

    def _stream_of(self, entry: ScheduledSequence) -> SequenceStream | None:
        """None where the sequence ended while the step was in flight, even if another has its id now."""
        stream = self.streams.get(entry.sequence_id)
        return stream if stream is not None and stream.sequence.arrival == entry.arrival else None

    def abort(self, sequence_id: str) -> None:
        """Without an output."""
        self.followers.pop(sequence_id, None)
        self._scheduler.abort(sequence_id)
        self._forget(sequence_id)

    def end(self, sequence_id: str) -> SequenceOutput:
        """The last output of a sequence that ended without a token."""
        stream = self.streams[sequence_id]
        self._start_followers(sequence_id)  # they end with outputs of their own
        self._forget(sequence_id)
        return stream.output([])

    def _start_followers(self, sequence_id: str, done: ScheduledSequence | None = None) -> None:
        if (start := self.followers.pop(sequence_id, None)) is not None:
            start(done)

    def _forget(self, sequence_id: str) -> None:
        stream = self.streams.pop(sequence_id)
        if stream.preserve_as is not None:
            sequence, (context_id, ttl_s, with_output) = stream.sequence, stream.preserve_as
            tokens = sequence.token_ids[: None if with_output else sequence.num_prompt_tokens]
            self._contexts.preserve(context_id, tokens, ttl_s, self._clock(), sequence.cache_salt)
        self._worker.remove(stream.sequence.arrival)
        going_on = self.requests[stream.request_id]
        going_on.remove(sequence_id)
        if not going_on:
            del self.requests[stream.request_id]

    def check_invariants(self) -> None:
        assert len(self.streams) == self._scheduler.num_running + self._scheduler.num_waiting
        assert sum(map(len, self.requests.values())) == len(self.streams)
        assert self.followers.keys() <= self.streams.keys()
