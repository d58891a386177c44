"""Autoscaler: how many pods a function should have (DeepServe 2.15 gives the part, not the rule)."""

from __future__ import annotations

import math

import msgspec

from deepserve_controller.core.scaling_views import NO_PANIC, FunctionLoad, Panic, PodsWanted


class FitDemand(msgspec.Struct, frozen=True):
    """The baseline: what demand fills now, and what was in use within the scale-down window."""

    stable_window_s: float = 0.0
    panic_window_s: float = 0.0

    def decide(self, load: FunctionLoad, now_s: float) -> PodsWanted:
        needed, reason = fit_demand(load)
        kept = min(load.pods, load.recent_pods)
        if kept > needed:
            return within_bounds(load, PodsWanted(kept, f"{reason}; {kept} in use within the window"))
        return within_bounds(load, PodsWanted(needed, reason))


class Reactive(msgspec.Struct, frozen=True):
    """Up at once with demand; down by two windows, as Knative's KPA, for pods that start in milliseconds.

    - Pods for everything that is queued and runs, at once: a burst at zero is not averaged. Starting pods are pods.
    - A function that nobody called for its own scale-down window goes down to `min_pods`, all idle pods together.
    - While it is called, pods beyond the demand stay that were in use within the scale-down window, or that the
      average of the stable window needs, or all that a burst needed (panic: demand of at least `panic_threshold`
      times the ready pods, or so much on the average of the panic window) until the stable window passed without such
      demand. What goes then goes in steps: at most all but one in `max_down_rate`.
    - Averages are of pods in use, so they never start a pod; only demand does. (Knative: autoscaler.go.)
    """

    stable_window_s: float = 30.0
    panic_window_s: float = 3.0
    panic_threshold: float = 2.0
    max_up_rate: float = 1000.0
    """At most so many times the pods that are there (or one) in one decision."""
    max_down_rate: float = 2.0

    def decide(self, load: FunctionLoad, now_s: float) -> PodsWanted:
        return self.decide_for(load, *fit_demand(load, math.ceil(self.max_up_rate * max(1, load.pods))), now_s)

    def decide_for(self, load: FunctionLoad, needed: int, reason: str, now_s: float) -> PodsWanted:
        """`needed` now, as others have found it; what stays beyond it is decided here."""
        panic = self._panic(load, needed, now_s)
        kept, why = self._kept(load, panic, now_s)
        if kept > needed:
            needed, reason = kept, f"{reason}; {kept} kept: {why}"
        return within_bounds(load, PodsWanted(needed, reason, panic))

    def _panic(self, load: FunctionLoad, needed: int, now_s: float) -> Panic:
        """Demand far beyond the ready pods begins or prolongs it; the stable window without such demand ends it."""
        panic, needed = load.panic, min(needed, load.max_pods)
        if not needed and not load.recent_pods:
            return NO_PANIC
        if max(needed, _ceil(load.panic_pods)) >= self.panic_threshold * max(1, load.ready_pods):
            return Panic(panic.since_s if panic.pods else now_s, now_s, max(panic.pods, needed))
        if panic.pods and now_s - panic.over_s >= self.stable_window_s:
            return NO_PANIC
        return panic._replace(pods=max(panic.pods, needed)) if panic.pods else panic

    def _kept(self, load: FunctionLoad, panic: Panic, now_s: float) -> tuple[int, str]:
        """Pods not to give up, whatever the demand is now; never more than there are."""
        if not load.recent_pods and not load.queued + load.running:
            return 0, ""
        stable = _ceil(load.stable_pods)
        kept, why = max(
            (load.recent_pods + load.buffer_pods, "in use within the window"),
            (stable, f"{load.stable_pods:.2g} in use on average of {self.stable_window_s:g} s"),
            (panic.pods, f"a burst {now_s - panic.over_s:.0f} s ago"),
            (int(load.pods / self.max_down_rate), f"at most 1 of {self.max_down_rate:g} goes at a time"),
            key=lambda choice: choice[0],
        )
        return min(kept, load.pods), why


def fit_demand(load: FunctionLoad, most: int = 1 << 30) -> tuple[int, str]:
    """Enough slots for every queued and running task, a buffer beside them while there are any; and the reason.

    The caller counts starting pods as pods, so demand is not answered twice.
    """
    tasks = load.queued + load.running
    needed = -(-tasks // load.slots)
    reason = f"{load.queued} queued + {load.running} running tasks / {load.slots} slots = {needed} pods"
    if tasks and load.buffer_pods:
        needed += load.buffer_pods
        reason += f" + {load.buffer_pods} buffer"
    if needed > most:
        return most, f"{reason}, at most {most} at once"
    return needed, reason


def within_bounds(load: FunctionLoad, wanted: PodsWanted) -> PodsWanted:
    pods, reason, panic, _ = wanted
    if pods > load.max_pods:
        return PodsWanted(load.max_pods, f"{reason}, at most {load.max_pods}", panic)
    if pods < load.min_pods:
        return PodsWanted(min(load.min_pods, load.max_pods), f"{reason}, at least {load.min_pods}", panic)
    return wanted


def _ceil(pods: float) -> int:
    """Rounding errors of an average are no pod."""
    return math.ceil(pods - 1e-6)
