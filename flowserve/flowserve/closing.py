"""How an engine ends: by `close`, or when nobody holds it any more, so nothing here may hold the engine itself."""

from __future__ import annotations

from .device_hold import DeviceHold
from .params_compiler import ParamsCompiler
from .rtc.traffic import BlockTraffic
from .step_log import StepLog
from .worker.steps import StepsInFlight
from .worker.worker import Worker


def close_parts(
    compiler: ParamsCompiler, steps: StepsInFlight, traffic: BlockTraffic, log: StepLog | None,
    worker: Worker, hold: DeviceHold,
) -> None:  # fmt: skip
    compiler.close()
    is_idle = steps.close()
    traffic.close()
    if log is not None:
        log.close()
    if is_idle:  # else the device goes with the step that computes on it
        traffic.attach(None)
        worker.take(None)
        hold.close()
