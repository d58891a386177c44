"""What decorators take, checked when they are applied."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from deepserve import _context
from deepserve.errors import InvalidOption
from deepserve.protocol.specs import Replay, Resources, RetrySpec, Scaling

F = TypeVar("F", bound=Callable[..., Any])
_ACCELERATOR = re.compile(r"(npu|gpu|cpu)(:[A-Za-z0-9_.-]*)?(:[1-9][0-9]*)?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.<>#-]*")
OPTION_NAMES = frozenset(
    "cpu memory timeout startup_timeout queue_timeout min_pods max_pods buffer_pods scaledown_window max_inputs "
    "target_inputs retries accelerator npu gpu name idle_timeout replay".split()
)
NOT_HERE_YET = frozenset(["image", "schedule", "secrets", "volumes"])
"""Options of Modal's that people try."""
CONCURRENCY_ATTRIBUTE = "__deepserve_max_inputs__"
"""On functions and classes: what `concurrent` allows."""
TARGET_ATTRIBUTE = "__deepserve_target_inputs__"


class Retries(msgspec.Struct, frozen=True):
    """Run a call again after an exception of the types in `on`, but for those in `never_on`. (Modal: `modal.Retries`.)

    initial_delay, max_delay: seconds. The n-th retry waits initial_delay * backoff_coefficient ** (n - 1), at most
    max_delay, shortened by up to half with `jitter`. Timeouts and cancelled calls are never retried.
    pod_losses: how often a call is run again because its pod died under it, on an account of its own (Ray: its
    `max_retries`); None is 3 where max_retries is above 0, else 0. Without `retries=` the loss of a pod ends the call:
    its code may have had its effects, and nobody has said that it may have them twice.
    """

    max_retries: int
    initial_delay: float = 0.5
    backoff_coefficient: float = 2.0
    max_delay: float = 60.0
    jitter: bool = True
    on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()
    pod_losses: int | None = None

    def __post_init__(self) -> None:
        check = _Checker("Retries")
        check.count("max_retries", self.max_retries, 0, None)
        for name, least in (("initial_delay", 0), ("max_delay", 0), ("backoff_coefficient", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value < 1e12:
                raise check.error(name, value, f"is not a number from {least} on")
        if not isinstance(self.jitter, bool):
            raise check.error("jitter", self.jitter, "is neither True nor False")
        if self.pod_losses is not None:
            check.count("pod_losses", self.pod_losses, 0, None)
        for name, least in (("on", 1), ("never_on", 0)):
            kinds = getattr(self, name)
            is_tuple = isinstance(kinds, tuple) and len(kinds) >= least
            if not is_tuple or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
                raise check.error(name, kinds, "is not a tuple of exception classes")


class Options(msgspec.Struct, frozen=True):
    """A function's or class's options, in the protocol's own shapes."""

    name: str = ""
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    timeout_s: float = 300.0
    startup_timeout_s: float = 120.0
    queue_timeout_s: float = 0.0
    retries: RetrySpec | None = None
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()
    idle_timeout_s: float = 0.0
    replay: Replay = ""


class Unset:
    """The type of `UNSET`: an option that was not given."""

    def __repr__(self) -> str:
        return "<not given>"


UNSET: Any = Unset()


def merge_options(base: Options, function: str, given: dict[str, Any]) -> Options:
    """`base` with the options in `given` that are not UNSET. Raises InvalidOption naming `function` and the option."""
    check = _Checker(function)
    for unknown in given.keys() - OPTION_NAMES:
        if unknown in NOT_HERE_YET:
            raise check.error(unknown, given[unknown], "is not here yet")
        raise check.error(unknown, given[unknown], f"is no option; there are: {', '.join(sorted(OPTION_NAMES))}")
    given = {name: value for name, value in given.items() if value is not UNSET}
    resources, scaling = base.resources, base.scaling
    if "cpu" in given:
        resources = _with(resources, cpu=check.cpu(given["cpu"]))
    if "memory" in given:
        resources = _with(resources, memory_mib=check.memory(given["memory"]))
    accelerators = check.accelerators(given)
    if accelerators is not None:
        resources = _with(resources, accelerators=accelerators)
    scaling = _merge_scaling(scaling, check, given)
    options = msgspec.structs.replace(base, resources=resources, scaling=scaling)
    if "name" in given:
        options = msgspec.structs.replace(options, name=check.name(given["name"]))
    if "timeout" in given:
        options = msgspec.structs.replace(options, timeout_s=check.number("timeout", given["timeout"], above=0.0))
    if "startup_timeout" in given:
        options = msgspec.structs.replace(
            options, startup_timeout_s=check.number("startup_timeout", given["startup_timeout"], above=0.0)
        )
    if "queue_timeout" in given:
        value = given["queue_timeout"]
        queue_timeout_s = 0.0 if value is None else check.number("queue_timeout", value, above=0.0)
        options = msgspec.structs.replace(options, queue_timeout_s=queue_timeout_s)
    if "retries" in given:
        retries = check.retries(given["retries"])
        on, never_on = (retries.on, retries.never_on) if retries else ((Exception,), ())
        options = msgspec.structs.replace(options, retries=_retry_spec(retries), retry_on=on, never_on=never_on)
    if "idle_timeout" in given:
        value = given["idle_timeout"]
        idle_timeout_s = 0.0 if value is None else check.number("idle_timeout", value, above=0.0)
        options = msgspec.structs.replace(options, idle_timeout_s=idle_timeout_s)
    if "replay" in given:
        options = msgspec.structs.replace(options, replay=check.replay(given["replay"]))
    return options


def refuse_stream_options(options: Options, function: str, what: str) -> None:
    """Of what has no generator to stream from. Raises InvalidOption."""
    for option, value in (("idle_timeout", options.idle_timeout_s), ("replay", options.replay)):
        if value:
            raise _Checker(function).error(option, value, f"is for generators: {what}")


def with_inputs(options: Options, owner: str, target: Any, batch_sizes: Sequence[int]) -> Options:
    """`options` with the inputs that a pod of `target` holds at a time: `concurrent` ones, or batches of them.

    batch_sizes: the largest batches of the function, or of a class's methods; empty where none is batched.
    """
    num_runs = getattr(target, CONCURRENCY_ATTRIBUTE, 1)
    largest = max(batch_sizes, default=0)
    target_inputs = getattr(target, TARGET_ATTRIBUTE, None)
    inputs = {"max_inputs": num_runs * max(1, largest), "target_inputs": UNSET}
    if target_inputs is not None:
        inputs["target_inputs"] = target_inputs * max(1, largest)
    options = merge_options(options, owner, inputs)
    return msgspec.structs.replace(options, scaling=_with(options.scaling, max_batch_size=largest))


def merge_scaling(base: Scaling, owner: str, given: dict[str, Any]) -> Scaling:
    """As `merge_options`, of the options that say how many pods there are."""
    given = {name: value for name, value in given.items() if value is not UNSET}
    return _merge_scaling(base, _Checker(owner), given)


def _merge_scaling(scaling: Scaling, check: _Checker, given: dict[str, Any]) -> Scaling:
    for name in ("min_pods", "max_pods", "buffer_pods"):
        if name in given:
            none_is = 0 if name == "max_pods" else None
            least = 1 if name == "max_pods" else 0
            scaling = _with(scaling, **{name: check.count(name, given[name], least, none_is)})
    if "scaledown_window" in given:
        window_s = check.number("scaledown_window", given["scaledown_window"], above=-1e-9)
        scaling = _with(scaling, scaledown_window_s=window_s)
    if "max_inputs" in given:
        scaling = _with(scaling, max_inputs=check.count("max_inputs", given["max_inputs"], 1, None))
    if "target_inputs" in given:
        scaling = _with(scaling, target_inputs=check.count("target_inputs", given["target_inputs"], 1, 0))
    if scaling.target_inputs > scaling.max_inputs:
        raise check.error("target_inputs", scaling.target_inputs, f"is more than max_inputs={scaling.max_inputs}")
    if scaling.max_pods and scaling.min_pods > scaling.max_pods:
        raise check.error("min_pods", scaling.min_pods, f"is more than max_pods={scaling.max_pods}")
    return scaling


class _Checker:
    def __init__(self, function: str) -> None:
        self._function = function

    def error(self, option: str, value: Any, why: str) -> InvalidOption:
        return InvalidOption(f"{self._function}: {option}={value!r} {why}")

    def number(self, option: str, value: Any, above: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < 1e12:
            raise self.error(option, value, f"is not a number above {max(0, round(above))}")
        return float(value)

    def cpu(self, value: Any) -> float:
        cpu, host_cpus = self.number("cpu", value, above=0.0), os.cpu_count() or 1
        if cpu > host_cpus and not _context.importing:
            raise self.error("cpu", value, f"is more than this host has ({host_cpus})")
        return cpu

    def count(self, option: str, value: Any, least: int, none_is: int | None) -> int:
        if value is None and none_is is not None:
            return none_is
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(option, value, f"is not a whole number from {least} on")
        if value > 1 << 20:
            raise self.error(option, value, f"is more than can be had ({1 << 20:,})")
        return value

    def replay(self, value: Any) -> Replay:
        if value is None:
            return ""
        if value not in ("resume", "verify"):
            raise self.error("replay", value, "is neither 'resume' nor 'verify'")
        return cast(Replay, value)

    def memory(self, value: Any) -> int:
        if isinstance(value, int) and not _context.importing and hasattr(os, "sysconf"):
            host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
            if value > host_mib:
                raise self.error("memory", value, f"MiB is more than this host has ({host_mib})")
        return self.count("memory", value, 1, 0)

    def name(self, value: Any) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self.error("name", value, "is no name: use letters, digits, '_', '-' and '.'")
        return value

    def retries(self, value: Any) -> Retries | None:
        if value is None or isinstance(value, Retries):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Retries(value, initial_delay=1.0, backoff_coefficient=1.0)
        raise self.error("retries", value, "is neither a number of retries nor deepserve.Retries(...)")

    def accelerators(self, given: dict[str, Any]) -> tuple[str, ...] | None:
        used = [name for name in ("accelerator", "npu", "gpu") if given.get(name) is not None]
        if len(used) > 1:
            raise self.error(used[1], given[used[1]], f"and {used[0]}= are both given: give one of them")
        if not used:
            return None
        option, value = used[0], given[used[0]]
        wanted: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        return tuple(self._accelerator(option, item) for item in wanted)

    def _accelerator(self, option: str, value: Any) -> str:
        text = str(value)
        if option != "accelerator":
            is_count = isinstance(value, int) and not isinstance(value, bool)
            text = f"{option}::{value}" if is_count else f"{option}:{value}"
        if not _ACCELERATOR.fullmatch(text):
            raise self.error(option, value, "is no accelerator: write kind[:model][:count], such as 'npu:910c:2'")
        return text


def _retry_spec(retries: Retries | None) -> RetrySpec | None:
    if retries is None:
        return None
    default_losses = RetrySpec(0).pod_losses if retries.max_retries else 0
    pod_losses = default_losses if retries.pod_losses is None else retries.pod_losses
    if not retries.max_retries and not pod_losses:
        return None
    return RetrySpec(
        retries.max_retries, retries.initial_delay, retries.backoff_coefficient, retries.max_delay, retries.jitter,
        pod_losses,
    )  # fmt: skip


def _with(struct: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(struct, **changes)


def concurrent(*, max_inputs: int, target_inputs: int | None = None) -> Callable[[F], F]:
    """Let one pod run up to `max_inputs` inputs of the function or class below at the same time.

    target_inputs: how many of them scaling aims at (`max_inputs`): pods are added when more than that would run in
    each, and what lies between the two is taken meanwhile, in a burst. Stands below `@function` or `@cls`.
    Raises InvalidOption. (Modal: `@modal.concurrent`.)
    """

    def decorate(target: F) -> F:
        name = getattr(target, "__qualname__", repr(target))
        if hasattr(target, "__deepserve_entry__"):
            raise InvalidOption(f"{name}: @deepserve.concurrent stands below @deepserve.function or @deepserve.cls")
        check = _Checker(name)
        most = check.count("max_inputs", max_inputs, 1, None)
        aim = most if target_inputs is None else check.count("target_inputs", target_inputs, 1, None)
        if aim > most:
            raise check.error("target_inputs", aim, f"is more than max_inputs={most}")
        setattr(target, CONCURRENCY_ATTRIBUTE, most)
        if aim < most:
            setattr(target, TARGET_ATTRIBUTE, aim)
        return target

    return decorate
