from __future__ import annotations

from typing import Any

import pytest

import deepserve
from deepserve._options import Options, merge_options
from deepserve.errors import InvalidOption
from deepserve.protocol.specs import Resources, RetrySpec, Scaling


def merged(**given: Any) -> Options:
    return merge_options(Options(), "fetch", given)


def test_options_take_the_protocols_shapes() -> None:
    options = merged(
        cpu=1,
        memory=64,
        timeout=30,
        min_pods=1,
        max_pods=8,
        buffer_pods=2,
        scaledown_window=0,
        max_inputs=4,
        retries=deepserve.Retries(3, initial_delay=0.2, on=(ConnectionError,)),
    )
    assert options.resources == Resources(1.0, 64)
    assert options.scaling == Scaling(1, 8, 2, 0.0, 4)
    assert options.timeout_s == 30.0
    assert options.retries == RetrySpec(3, 0.2)
    assert (options.retry_on, options.never_on, options.queue_timeout_s) == ((ConnectionError,), (), 0.0)
    assert merged(queue_timeout=2).queue_timeout_s == 2.0
    assert merged(queue_timeout=None).queue_timeout_s == 0.0
    assert merged(retries=deepserve.Retries(1, never_on=(TimeoutError,))).never_on == (TimeoutError,)
    assert merged(retries=2).retries == RetrySpec(2, 1.0, 1.0)
    assert merged(retries=0).retries is None
    assert merged(retries=deepserve.Retries(0)).retries is None
    assert merged(retries=deepserve.Retries(0, pod_losses=2)).retries == RetrySpec(0, pod_losses=2)
    assert merged(retries=deepserve.Retries(1, pod_losses=0)).retries == RetrySpec(1, pod_losses=0)
    assert merged(max_pods=None).scaling.max_pods == 0


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ({"npu": 1}, ("npu::1",)),
        ({"npu": "910c:2"}, ("npu:910c:2",)),
        ({"gpu": "h100"}, ("gpu:h100",)),
        ({"accelerator": ["npu:910c", "gpu:h100", "cpu"]}, ("npu:910c", "gpu:h100", "cpu")),
        ({"accelerator": "npu::1"}, ("npu::1",)),
        ({"accelerator": None}, ()),
    ],
)
def test_accelerators_have_one_grammar(given: dict[str, Any], spelled: tuple[str, ...]) -> None:
    assert merged(**given).resources.accelerators == spelled


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"cpu": 0}, "cpu=0"),
        ({"cpu": "1"}, "cpu='1'"),
        ({"cpu": True}, "cpu=True"),
        ({"memory": -5}, "memory=-5"),
        ({"memory": 1.5}, "memory=1.5"),
        ({"memory": 1 << 30}, "more than this host has"),
        ({"max_pods": 1 << 30}, "more than can be had"),
        ({"image": 1}, "image=1 is not here yet"),
        ({"schedule": 1}, "schedule=1 is not here yet"),
        ({"memory": 1 << 20}, "more than this host has"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": None}, "timeout=None"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"queue_timeout": 0}, "queue_timeout=0"),
        ({"queue_timeout": "1"}, "queue_timeout='1'"),
        ({"startup_timeout": float("inf")}, "startup_timeout=inf"),
        ({"min_pods": -1}, "min_pods=-1"),
        ({"min_pods": 3, "max_pods": 2}, "max_pods=2"),
        ({"max_pods": 0}, "max_pods=0"),
        ({"scaledown_window": -1}, "scaledown_window=-1"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": "3"}, "retries='3'"),
        ({"npu": 1, "gpu": 1}, "npu= are both given"),
        ({"cpu": 1 << 20}, "more than this host has"),
        ({"gpu": 0}, "gpu=0"),
        ({"accelerator": "tpu"}, "accelerator='tpu'"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": ""}, "name=''"),
        ({"memry": 5}, "memry=5 is no option"),
    ],
)
def test_a_wrong_option_names_function_and_option(given: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named) as caught:
        merged(**given)
    assert str(caught.value).startswith("fetch: ")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "given",
    [
        {"max_retries": -1},
        {"max_retries": True},
        {"max_retries": 1, "initial_delay": -1},
        {"max_retries": 1, "max_delay": "x"},
        {"max_retries": 1, "on": ("ValueError",)},
        {"max_retries": 1, "on": ValueError},
        {"max_retries": 1, "on": ()},
        {"max_retries": 1, "never_on": ValueError},
        {"max_retries": 1, "never_on": (3,)},
        {"max_retries": 1, "jitter": "yes"},
        {"max_retries": 1, "pod_losses": -1},
        {"max_retries": 1, "pod_losses": True},
    ],
)
def test_wrong_retries(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        deepserve.Retries(**given)


def test_decoration_refuses_what_it_cannot_take() -> None:
    class Plain: ...

    def plain() -> None: ...

    with pytest.raises(InvalidOption, match="@deepserve.cls"):
        deepserve.function(Plain)
    with pytest.raises(InvalidOption, match="with_options"):
        deepserve.function(deepserve.function(plain))
    with pytest.raises(InvalidOption, match="takes a function"):
        deepserve.function(3)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="stands below"):
        deepserve.concurrent(max_inputs=2)(deepserve.function(plain))
    with pytest.raises(InvalidOption, match="no @deepserve.method"):
        deepserve.cls(Plain)
    with pytest.raises(InvalidOption, match="timeout=-1"):

        @deepserve.function(timeout=-1)
        def late() -> None: ...


def test_the_target_of_inputs_is_within_what_a_pod_holds() -> None:
    @deepserve.function
    @deepserve.concurrent(max_inputs=8, target_inputs=6)
    def f() -> None: ...

    def plain() -> None: ...

    assert (f._definer.options.scaling.max_inputs, f._definer.options.scaling.target_inputs) == (8, 6)
    for target_inputs in (0, 9, "x", True):
        with pytest.raises(InvalidOption, match=r"target_inputs="):
            deepserve.concurrent(max_inputs=8, target_inputs=target_inputs)(plain)  # type: ignore[arg-type]
    assert not vars(plain), "nothing is left of what was refused"


def test_functions_join_their_app_under_their_name() -> None:
    app = deepserve.App("papers")

    @app.function(name="other")
    @deepserve.concurrent(max_inputs=3)
    def f() -> None:
        """Says so."""

    g = f.with_options(timeout=5, max_pods=2)
    assert (f.__name__, f.__doc__) == ("f", "Says so.")
    assert f._definer.options.scaling.max_inputs == 3
    assert (g._definer.options.timeout_s, g._definer.options.scaling) == (5.0, Scaling(max_pods=2, max_inputs=3))
    assert repr(g) == "<deepserve.Function papers/other>"
    with pytest.raises(InvalidOption):
        deepserve.App("a/b")


def test_functions_may_have_accelerators() -> None:
    assert deepserve.function(npu="910c:2")(merged).spec.resources.accelerators == ("npu:910c:2",)
    assert deepserve.function(accelerator=["gpu:h100", "cpu"])(merged).spec.resources.accelerators == (
        "gpu:h100",
        "cpu",
    )


def test_hooks_without_parentheses_are_refused() -> None:
    def load(self: Any) -> None: ...

    for name in ("enter", "exit", "method"):
        with pytest.raises(InvalidOption, match=rf"load: write @deepserve\.{name}\(\)"):
            getattr(deepserve, name)(load)


def test_a_class_says_how_it_is_used() -> None:
    @deepserve.cls(app=deepserve.App("use"))
    class Counter:
        start: int = deepserve.parameter(default=0)

        @deepserve.method()
        def inc(self, by: int) -> int:
            return self.start + by

    counter: Any = Counter
    with pytest.raises(TypeError, match=r"Counter\(\) has named parameters only: give them by name.*start=\.\.\."):
        counter(1)
    with pytest.raises(AttributeError, match=r"Counter\.inc is called on an instance: make one"):
        counter.inc.remote(1)
    assert not hasattr(counter.inc, "nothing")
