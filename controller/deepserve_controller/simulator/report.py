"""Record: what happened in a run; and the report that is made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deepserve_controller.core import actions, events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.events import Event


@dataclass(slots=True)
class Record:
    """Facts by request and by pod; simulated seconds."""

    arrived_s: dict[str, float] = field(default_factory=dict)
    finished: dict[str, list[actions.FinishRequest]] = field(default_factory=dict)
    """All FinishRequest actions of a request: exactly one, in a run without errors."""
    latencies_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """From the arrival of a request to the first assignment of its first task; not of maps."""
    num_items: int = 0
    num_attempts: int = 0
    num_warm_hits: int = 0
    """Requests whose first task went to a pod at the instant of their arrival."""
    connected_s: dict[str, float] = field(default_factory=dict)
    num_started: int = 0
    num_lost: int = 0
    pod_s: float = 0.0
    peak_pods: int = 0

    def note_event(self, event: Event, now_s: float) -> None:
        if isinstance(event, events.RequestArrived):
            self.arrived_s.setdefault(event.request_id, now_s)
        elif isinstance(event, events.PodConnected):
            self.connected_s[event.pod_id] = now_s
            self.peak_pods = max(self.peak_pods, len(self.connected_s))
        elif isinstance(event, events.PodLost) and event.pod_id in self.connected_s:
            self.pod_s += now_s - self.connected_s.pop(event.pod_id)
            self.num_lost += event.exit_code not in (0, None)

    def note_action(self, action: Action, now_s: float) -> None:
        if isinstance(action, actions.StartPod):
            self.num_started += 1
        elif isinstance(action, actions.SendTask):
            self.num_attempts += 1
            if action.attempt == 1 and action.kind != "map":
                self.waits_s.append(now_s - self.arrived_s[action.request_id])
            self.num_warm_hits += action.attempt == 1 and self.arrived_s.get(action.request_id) == now_s
        elif isinstance(action, actions.SendChunk):
            self.num_attempts += 1
        elif isinstance(action, actions.FinishItems):
            self.num_items += len(action.sizes)
        elif isinstance(action, actions.FinishItem):
            self.num_items += 1
        elif isinstance(action, actions.FinishRequest):
            self.finished.setdefault(action.request_id, []).append(action)
            self.latencies_s.append(now_s - self.arrived_s[action.request_id])

    def outcomes(self) -> dict[str, int]:
        kinds = Counter(finish.outcome.kind for finishes in self.finished.values() for finish in finishes)
        return dict(sorted(kinds.items()))

    def pod_seconds(self, now_s: float) -> float:
        """Of all pods from their connection to their end, or to `now_s`."""
        return self.pod_s + sum(now_s - connected_s for connected_s in self.connected_s.values())


def percentile(values: list[float], percent: float) -> float:
    """Nearest rank; 0.0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned for reading as plain text too."""
    body = [[f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells] for cells in rows]
    widths = [max(len(cells[i]) for cells in [list(head), *body]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    aligned = [" | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in lines]
    return "\n".join(f"| {line} |" for line in aligned)


def report(title: str, record: Record, now_s: float, num_events: int, digest: str) -> str:
    num_requests = len(record.arrived_s)
    latencies = {percent: percentile(record.latencies_s, percent) * 1e3 for percent in (50, 90, 99, 100)}
    outcomes = ", ".join(f"{count} {kind}" for kind, count in record.outcomes().items()) or "none"
    warm_percent = 100 * record.num_warm_hits / num_requests if num_requests else 0.0
    return "\n".join(
        [
            title,
            f"  requests    {num_requests}: {outcomes}",
            "  latency     " + ", ".join(f"p{percent} {value_ms:.1f} ms" for percent, value_ms in latencies.items()),
            f"  attempts    {record.num_attempts}, warm hits {record.num_warm_hits} ({warm_percent:.0f} %)",
            f"  pods        {record.num_started} started, at most {record.peak_pods} at once, {record.num_lost} died",
            f"  pod time    {record.pod_seconds(now_s):.2f} s in {now_s:g} s",
            f"  events      {num_events}, history {digest}",
        ]
    )
