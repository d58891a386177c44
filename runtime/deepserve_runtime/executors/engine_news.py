"""EngineNews: what the controller is told of an engine, so that it can route and scale."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from deepserve.protocol.messages import EngineReport
from deepserve.protocol.prompt_blocks import pack
from deepserve_runtime.executors.flowserve_parts import SequenceOutput, Tier
from deepserve_runtime.link import Link
from deepserve_runtime.task import Task

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import Engine

PERIOD_S = 0.1


class OfTask(Protocol):
    """What makes a task's answer of sequences."""

    @property
    def task(self) -> Task: ...


class EngineNews:
    """One EngineReport where a first token came or an answer ended, and otherwise every PERIOD_S while there is work,
    texts to be embedded among it: they take room from what was cached.

    And one whenever `send` is called.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._told_s = clock()
        self._is_arriving = engine.is_arriving
        self._begun: set[str] = set()
        """Sequences whose first token here has come; what goes on from another pod's tokens has one, too."""

    def tell(self, outputs: Sequence[SequenceOutput], generations: Mapping[str, OfTask], link: Link) -> None:
        """After a step. `generations`: by sequence id, those of `outputs` among them that are answers.

        Raises LinkClosed.
        """
        known = [output for output in outputs if output.sequence_id in generations]
        began = [output for output in known if output.token_ids and output.sequence_id not in self._begun]
        self._begun = self._begun.intersection(generations).union(output.sequence_id for output in began)
        is_due = self._clock() - self._told_s >= PERIOD_S
        has_work = bool(generations or outputs)
        if has_work and (began or is_due or any(output.finished for output in known)):
            self.send(link, tuple(generations[output.sequence_id].task.key[0] for output in began))

    def send(self, link: Link, began: tuple[str, ...] = ()) -> None:
        """`began`: tasks whose first token has come. Raises LinkClosed."""
        self._told_s = self._clock()
        try:
            report = self._report(began)
        except Exception:  # what only makes requests faster must not end them
            traceback.print_exc()
            return
        link.send(report)

    def _report(self, began: tuple[str, ...]) -> EngineReport:
        where: dict[Tier | None, list[str]] = {}
        latest = {each.prefix: each.tier for each in self._engine.take_relocations()}
        for prefix, tier in latest.items():
            where.setdefault(tier, []).append(prefix)
        on_device, on_host, in_file, gone = (pack(where.get(tier, ())) for tier in (*Tier, None))
        log = self._engine.step_log
        # The first step of all, an executor's own or a request's, says nothing of the next ones.
        records = [record for record in log.records() if record.number > 1] if log is not None else []
        if log is not None:
            log.clear()
        prompts = [record for record in records if record.prefill_tokens]
        nexts = [record for record in records if record.decode_sequences]
        return EngineReport(
            on_device=on_device,
            on_host=on_host,
            in_file=in_file,
            gone=gone,
            began=began,
            steps=len(nexts),
            step_ms=sum(record.ms for record in nexts),
            prompt_tokens=sum(record.prefill_tokens for record in prompts),
            prompt_ms=sum(record.ms for record in prompts),
            pinned_blocks=self._engine.num_pinned_blocks,
            read_ms=self._read_ms(),
        )

    def _read_ms(self) -> float:
        """Once, of weights that came while it served."""
        if not self._is_arriving or self._engine.is_arriving:
            return 0.0
        self._is_arriving = False
        return self._engine.read_s * 1e3
