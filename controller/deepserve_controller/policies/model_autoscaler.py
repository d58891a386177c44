"""Model autoscaler: how many engines a model should have (DeepServe 2.15 names the signals, not the rule)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from deepserve_controller.core.scaling_views import NO_PANIC, FunctionLoad, Panic, PodsWanted, TokenLoad
from deepserve_controller.policies.autoscaler import Reactive, fit_demand, within_bounds

TREND_WINDOWS = 3


class TokenLoadScaling(msgspec.Struct, frozen=True):
    """Engines for the tokens in flight, above a floor that is predicted; down as `Reactive` goes down.

    - The signal: tokens of prompts that wait or are not computed, and `decode_weight` for each KV block of a running
      task, from the controller's own books. The target of one engine: `utilisation` of what it computes of prompts
      within `first_token_s`, as engines report their speed; before they do, tasks and slots alone decide.
    - One engine computes a task: there are never to be more engines than tasks, however long their prompts are.
    - Starting engines count. What the ready ones finish before another could be ready needs none, unless prompts keep
      coming at that rate.
    - Floor: the arrival rate of the last windows and its trend, one start ahead, divided by the target rate (NVIDIA
      Dynamo's planner: a slow predictor sets a floor, a fast loop works above it). While nobody asks there is none.
    - SLO: first tokens that come too late beyond what their own prompts take (a long one is no sign of load), or steps
      that take too long, add one engine at a time where engines are loaded and all are ready; near the limit none is
      given up.
    - A function that is new here and has pods begins in panic: what was asked before a restart is not known (Knative).
    - Numbers that cannot be true keep the engines that are there: a failed measurement is no idleness (beta9).
    """

    base: Reactive = Reactive()
    first_token_s: float = 0.5
    late_s: float = 0.3
    step_s: float = 0.2
    utilisation: float = 0.7
    decode_weight: float = 1.0
    sensitivity: float = 0.8
    """Below so much of a limit engines may go."""

    @property
    def stable_window_s(self) -> float:
        return self.base.stable_window_s

    @property
    def panic_window_s(self) -> float:
        return self.base.panic_window_s

    def decide(self, load: FunctionLoad, now_s: float) -> PodsWanted:
        load = self._after_restart(load, now_s)
        needed, reason = fit_demand(load)
        tokens = load.tokens
        if tokens is not None and not _is_sound(tokens):
            kept = max(load.pods, needed, min(1, load.queued + load.running))
            return within_bounds(load, PodsWanted(kept, f"{reason}; kept: the token load is no number", load.panic))
        if tokens is not None and tokens.prompt_tokens_per_s > 0.0 and self._is_in_use(load):
            by_tokens, floor = self._by_tokens(load, tokens), self._floor(load, tokens)
            for pods, why in (_of_use(load, *by_tokens), _of_use(load, *floor), self._by_slo(load, tokens)):
                if pods > needed:
                    needed, reason = pods, why
        return self.base.decide_for(load, needed, reason, now_s)._replace(needed=needed)

    def _is_in_use(self, load: FunctionLoad) -> bool:
        return bool(load.queued or load.running or load.recent_pods)

    def _after_restart(self, load: FunctionLoad, now_s: float) -> FunctionLoad:
        if load.ready_pods > 1 and load.panic == NO_PANIC and load.age_s < self.stable_window_s:
            return load._replace(panic=Panic(now_s, now_s, load.ready_pods))
        return load

    def _in_flight(self, tokens: TokenLoad) -> float:
        return tokens.queued + tokens.prefill + self.decode_weight * tokens.decode_blocks

    def _target(self, tokens: TokenLoad) -> float:
        """Tokens in flight of one engine."""
        return self.utilisation * tokens.prompt_tokens_per_s * self.first_token_s

    def _by_tokens(self, load: FunctionLoad, tokens: TokenLoad) -> tuple[int, str]:
        in_flight, target = self._in_flight(tokens), self._target(tokens)
        needed = _ceil(in_flight / target)
        reason = f"{in_flight:.0f} tokens in flight / {target:.0f} = {needed} pods"
        if needed > load.pods and load.ready_pods and load.start_s > 0.0:
            left = in_flight - load.ready_pods * tokens.prompt_tokens_per_s * load.start_s
            useful = max(load.pods, load.ready_pods + _ceil(max(0.0, left) / target), self._steady(tokens, 0.0))
            if useful < needed:
                return useful, f"{reason}, {useful} that would be ready in time ({load.start_s:.2g} s)"
        return needed, reason

    def _floor(self, load: FunctionLoad, tokens: TokenLoad) -> tuple[int, str]:
        pods = self._steady(tokens, load.start_s)
        return pods, f"{pods} pods for the prompts that are predicted"

    def _steady(self, tokens: TokenLoad, ahead_s: float) -> int:
        per_pod = self.utilisation * tokens.prompt_tokens_per_s
        return _ceil(predicted_rate(tokens.arrivals, ahead_s) / per_pod)

    def _by_slo(self, load: FunctionLoad, tokens: TokenLoad) -> tuple[int, str]:
        is_loaded = self._in_flight(tokens) > load.ready_pods * self._target(tokens) / 2
        worst = max(tokens.late_s / self.late_s, tokens.step_s / self.step_s)
        if worst < self.sensitivity:
            return 0, ""
        took = f"first tokens came {tokens.late_s:.2g} s late, steps took {tokens.step_s:.2g} s"
        is_shared = load.queued + load.running > load.ready_pods
        if worst > 1.0 and is_loaded and is_shared and load.pods == load.ready_pods:
            return load.pods + 1, f"{took}: one pod more"
        return load.pods, f"{took}: none is given up"


def _of_use(load: FunctionLoad, pods: int, reason: str) -> tuple[int, str]:
    """A task is on one pod, with all its prompts and completions: pods beyond the tasks that there are help nobody."""
    tasks = load.queued + load.running
    return (tasks, f"{reason}, {tasks} for as many tasks") if pods > tasks else (pods, reason)


def predicted_rate(rates: Sequence[float], ahead_s: float, window_s: float = 10.0) -> float:
    """Of the windows to come: the mean of the last TREND_WINDOWS and their growth over those before; never negative."""
    if not rates:
        return 0.0
    latest, before = rates[-TREND_WINDOWS:], rates[-2 * TREND_WINDOWS : -TREND_WINDOWS]
    level = sum(latest) / len(latest)
    if len(before) < TREND_WINDOWS:
        return level
    growth = (level - sum(before) / len(before)) / (TREND_WINDOWS * window_s)
    return max(0.0, level + growth * (ahead_s + window_s))


def _is_sound(tokens: TokenLoad) -> bool:
    return all(math.isfinite(value) and value >= 0.0 for value in (*tokens[:-1], *tokens.arrivals))


def _ceil(pods: float) -> int:
    return math.ceil(pods - 1e-6)
