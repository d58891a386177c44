"""Orders of faults: for tests, of their own controller."""

from __future__ import annotations

from deepserve_controller.errors import QueryError
from deepserve_controller.service.faults import MOMENTS, Faults
from deepserve_controller.service.query_body import Body, optional, required

MODES_WITH_FAULTS = ("embedded",)
"""One that others use, too, is not killed by whoever asks for it."""


class FaultQueries:
    def __init__(self, mode: str, faults: Faults) -> None:
        self._mode = mode
        self._faults = faults

    def order(self, link_id: str, body: Body) -> Body:
        """Kill the pod of the `step`-th task or move from now on, or this controller."""
        if self._mode not in MODES_WITH_FAULTS:
            raise QueryError("invalid", "faults are ordered of an embedded controller only")
        step, when = required(body, "step", int), required(body, "when", str)
        name = optional(body, "victim", str, "pod")
        victim = next((each for each in MOMENTS if each == name), None)
        if victim is None:
            raise QueryError("invalid", f"victim {name!r} of {', '.join(MOMENTS)}")
        known = next((each for each in MOMENTS[victim] if each == when), None)
        if step < 1 or known is None:
            raise QueryError("invalid", f"step {step} from 1 on, and when {when!r} of {', '.join(MOMENTS[victim])}")
        return {"fault_id": self._faults.order(step, known, victim)}

    def withdraw(self, link_id: str, body: Body) -> Body:
        order = self._faults.withdraw(required(body, "fault_id", int))
        if order is None:
            raise QueryError("not_found", "no such fault was ordered")
        return {"pod_id": order.pod_id, "num_started": order.num_started}
