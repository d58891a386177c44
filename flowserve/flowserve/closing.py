"""How an engine ends: by `close`, or when nobody holds it any more, so nothing here may hold the engine itself."""

from __future__ import annotations

from .device_hold import DeviceHold
from .rtc.traffic import BlockTraffic
from .step_log import StepLog
from .structured import GrammarCompiler
from .worker.steps import StepsInFlight
from .worker.worker import Worker


def close_parts(
    grammars: GrammarCompiler, steps: StepsInFlight, traffic: BlockTraffic, log: StepLog | None,
    worker: Worker, hold: DeviceHold,
) -> None:  # fmt: skip
    grammars.close()
    is_idle = steps.close()
    traffic.close()
    if log is not None:
        log.close()
    if is_idle:  # else the device goes with the step that computes on it
        traffic.attach(None)
        worker.take(None)
        hold.close()
