"""What was killed, what became of the calls, and what should not have been: of all worlds of the kill loop together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Of all worlds together."""

    killed: Counter[str] = field(default_factory=Counter)
    worlds: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    begun: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    stopped: Counter[str] = field(default_factory=Counter)
    not_begun: int = 0
    runs: int = 0
    slowest_s: float = 0.0
    num_reports: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, report: dict[str, Any], world: str) -> None:
        self.num_reports += 1
        self.begun.update(report["begun"])
        for kind, outcomes in report["outcomes"].items():
            self.outcomes.setdefault(kind, Counter()).update(outcomes)
        self.stopped.update(report["stopped"])
        self.not_begun += report["not_begun"]
        self.runs += report["runs"]
        self.slowest_s = max(self.slowest_s, report["slowest_s"])
        self.violations += [f"{world}: {text}" for text in report["violations"]]
        ended = sum(sum(outcomes.values()) for outcomes in report["outcomes"].values())
        if ended != sum(report["begun"].values()):
            self.violations.append(f"{world}: {sum(report['begun'].values())} calls begun, {ended} ended")

    @property
    def num_kills(self) -> int:
        return sum(self.killed.values())


def report(tally: Tally, seed: int, took_s: float) -> str:
    worlds = " and ".join(f"{count} {mode}" for mode, count in sorted(tally.worlds.items()))
    lines = [
        f"kill loop: {tally.num_kills} kills with seed {seed} in {took_s:.0f} s, in {worlds} worlds",
        "  killed   " + ", ".join(f"{count} {what}" for what, count in tally.killed.most_common()),
        "  ended    " + ", ".join(f"{count} {how}" for how, count in tally.endings.most_common()),
    ]
    num_ended = sum(sum(outcomes.values()) for outcomes in tally.outcomes.values())
    lines.append(
        f"  calls    {sum(tally.begun.values())} begun, {num_ended} ended, the slowest after {tally.slowest_s:.1f} s; "
        f"{tally.runs} runs of inputs; {tally.not_begun} could not be begun while there was no controller"
    )
    for kind, outcomes in sorted(tally.outcomes.items()):
        lines.append(f"           {kind:22}" + ", ".join(f"{count} {what}" for what, count in outcomes.most_common()))
    lines.append("  stopped  " + ", ".join(f"{count} {how}" for how, count in tally.stopped.most_common()))
    lines.append(f"  violations: {len(tally.violations)}")
    lines += [f"    {text}" for text in tally.violations]
    return "\n".join(lines)
