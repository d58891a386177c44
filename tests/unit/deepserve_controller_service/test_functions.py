"""When a function is known, held and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Scaling
from deepserve_controller.core import events
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.model_ticks import ModelTicks
from deepserve_controller.service.openai.models import HostedModels
from deepserve_controller.service.reactor import Reactor, running_reactor, use_reactor
from deepserve_controller.service.store import ApiKey

SPEC = FunctionSpec("app", "f", "function", CodeRef("builtin", "m", "f"), scaling=Scaling(1, 4))


@pytest.fixture(autouse=True)
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    use_reactor(reactor)
    yield reactor
    use_reactor(None)
    reactor.close()


class Told:
    """In place of the core loop: what the cores would be told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def give(self, event: Any) -> None:
        self.events.append(event)


def make_functions(forget_after_s: float) -> tuple[Functions, Told]:
    told = Told()
    return Functions(cast(CoreLoop, told), forget_after_s), told


def test_a_function_is_told_once_and_held_by_any_of_its_definers() -> None:
    functions, told = make_functions(60)
    functions.define("link-1", "fn", SPEC)
    functions.define("app:x", "fn", SPEC)
    assert told.events == [events.FunctionDefined("fn", SPEC)]
    functions.release_all("link-1")
    functions.remove("fn")
    assert len(told.events) == 1 and functions.label("fn") == "app/f"
    functions.release("app:x", "fn")
    functions.release("app:x", "fn")
    assert told.events[1:] == [events.ScalingChanged("fn", 0, 4)]
    functions.define("link-2", "fn", SPEC)
    assert told.events[2:] == [events.ScalingChanged("fn", 1, 4)]


def test_a_function_that_nobody_holds_is_forgotten_once_its_requests_are_over() -> None:
    functions, told = make_functions(0.01)
    is_used = True
    functions.is_used = lambda function_id: is_used
    functions.define("link-1", "fn", SPEC)
    functions.release_all("link-1")
    running_reactor().run_until(lambda: False, 0.05)
    assert "fn" in functions.specs
    is_used = False
    running_reactor().run_until(lambda: "fn" not in functions.specs, 30)
    assert "fn" not in functions.specs and told.events[-1] == events.FunctionRemoved("fn")


def test_what_is_stopped_goes_at_once_though_others_found_it() -> None:
    functions, told = make_functions(60)
    functions.define("app:x", "fn", SPEC)
    functions.define("link-1", "fn", SPEC, is_found=True)
    functions.stop("app:x", ["fn"])
    assert told.events[1:] == [events.FunctionRemoved("fn")] and not functions.specs
    functions.define("link-2", "fn", SPEC, is_found=True)
    functions.release_all("link-1")
    assert len(told.events) == 2, "who found it before does not bring it back"
    functions.define("app:x", "fn", SPEC)
    functions.define("link-1", "fn", SPEC, is_found=True)
    functions.release("app:x", "fn")
    functions.remove("fn")
    assert told.events[2:] == [events.FunctionDefined("fn", SPEC)], "deployed again, it is held as any other"


def test_what_is_stopped_and_held_by_who_brought_it_goes_with_him() -> None:
    functions, told = make_functions(60)
    functions.define("link-1", "fn", SPEC, is_found=True)
    functions.define("link-1", "fn", SPEC)
    functions.define("link-2", "fn", SPEC, is_found=True)
    functions.define("app:x", "fn", SPEC)
    functions.stop("app:x", ["fn"])
    assert len(told.events) == 1 and functions.is_held("fn")
    functions.release_all("link-1")
    assert told.events[1:] == [events.FunctionRemoved("fn")]
    functions.define("link-3", "fn", SPEC)
    functions.release_all("link-3")
    assert "fn" in functions.specs, "a script that brings it again finds it a while later"


def test_what_is_stopped_is_not_held_by_its_own_pods_nor_by_pods_that_end_with_it() -> None:
    functions, told = make_functions(60)
    functions.function_of = lambda holder: {"pod-a": "a", "pod-b": "b", "pod-c": "c"}.get(holder, "")
    for name in ("a", "b", "c"):
        functions.define("app:x", name, SPEC)
    functions.define("pod-a", "a", SPEC)
    functions.define("pod-a", "b", SPEC)
    functions.define("pod-b", "a", SPEC)
    functions.define("pod-b", "c", SPEC)
    functions.stop("app:x", ["a", "b", "c"])
    assert told.events[3:] == [events.FunctionRemoved("a")] and functions.is_held("b"), "pods of a end what they do"
    functions.release_all("pod-a")
    assert told.events[4:] == [events.FunctionRemoved("b")] and functions.is_held("c")
    functions.define("pod-b", "d", SPEC)
    functions.release_all("pod-b")
    assert functions.specs.keys() == {"d"} and told.events[-1] == events.ScalingChanged("d", 0, 4)


def test_what_a_pod_of_a_stopped_app_brings_while_it_ends_goes_with_it() -> None:
    functions, told = make_functions(60)
    functions.function_of = lambda holder: {"pod-a": "a"}.get(holder, "")
    for name in ("a", "b"):
        functions.define("app:x", name, SPEC)
    functions.stop("app:x", ["a", "b"])
    functions.define("pod-a", "b", SPEC)
    assert functions.specs.keys() == {"b"}, "what it does needs that yet"
    functions.release_all("pod-a")
    assert not functions.specs and told.events[-1] == events.FunctionRemoved("b")


def test_a_stopped_function_stays_for_a_pod_of_another_that_brought_it() -> None:
    functions, _ = make_functions(60)
    functions.function_of = lambda holder: {"pod-a": "a", "pod-b": "b"}.get(holder, "")
    functions.define("app:x", "b", SPEC)
    functions.define("app:y", "a", SPEC)
    functions.define("pod-a", "b", SPEC)
    functions.define("pod-b", "b", SPEC)
    functions.stop("app:x", ["b"])
    assert functions.is_held("b")
    functions.stop("app:y", ["a"])
    functions.release_all("pod-a")
    assert not functions.specs


def test_no_pod_is_held_up_for_what_was_replaced_and_is_held_by_its_own_pods() -> None:
    functions, told = make_functions(60)
    functions.function_of = lambda holder: {"pod-a": "a", "pod-b": "b", "pod-b2": "b"}.get(holder, "")
    for name in ("a", "b", "c"):
        functions.define("app:x", name, SPEC)
    functions.define("pod-a", "b", SPEC)
    functions.define("pod-b", "a", SPEC)
    functions.define("link-1", "c", SPEC)
    functions.replace("app:x", ["a", "b", "c"])
    assert told.events[3:] == [events.ScalingChanged("a", 0, 4), events.ScalingChanged("b", 0, 4)]
    functions.define("pod-b2", "a", SPEC)
    functions.define("link-1", "a", SPEC, is_found=True)
    assert len(told.events) == 5 and functions.is_held("a"), "what runs of it may call it still"
    functions.define("app:x", "a", SPEC)
    functions.define("app:x", "a", SPEC)
    assert told.events[5:] == [events.ScalingChanged("a", 1, 4)], "deployed again, it has its pods again"


def test_instances_of_a_stopped_class_go_with_it() -> None:
    functions, _ = make_functions(60)
    functions.define("app:x", "class", SPEC)
    instance = msgspec.structs.replace(SPEC, params=b"large")
    functions.define("link-1", "found", instance, is_found=True)
    functions.define("link-2", "brought", msgspec.structs.replace(SPEC, params=b"small"))
    functions.stop("app:x", ["class"])
    assert functions.specs.keys() == {"brought"}
    functions.define("link-1", "found", instance, is_found=True)
    assert "found" not in functions.specs


def test_a_function_that_is_defined_again_has_its_whole_time_anew() -> None:
    functions, told = make_functions(1.0)
    functions.define("link-1", "fn", SPEC)
    functions.release_all("link-1")
    running_reactor().run_until(lambda: False, 0.7)
    functions.define("link-2", "fn", SPEC)
    functions.release_all("link-2")
    running_reactor().run_until(lambda: False, 0.7)
    assert "fn" in functions.specs
    running_reactor().run_until(lambda: "fn" not in functions.specs, 30)
    assert "fn" not in functions.specs


def test_who_warms_environments_hears_of_each_function_once() -> None:
    functions, _ = make_functions(1.0)
    heard: list[FunctionSpec] = []
    functions.on_new = heard.append
    for link in ("link-1", "link-2"):
        functions.define(link, "fn", SPEC)
    assert heard == [SPEC]


def test_bounds_of_models_are_what_the_policy_makes_of_them() -> None:
    told = Told()
    functions = Functions(cast(CoreLoop, told), 60.0, lambda scaling: msgspec.structs.replace(scaling, min_pods=4))
    model = msgspec.structs.replace(SPEC, kind="model")
    functions.define("link-1", "fn", SPEC)
    functions.define("link-1", "m", model)
    assert functions.specs["fn"].scaling == SPEC.scaling and functions.specs["m"].scaling == Scaling(4, 4)
    assert told.events[1].spec == functions.specs["m"]


def test_ticks_look_at_models_as_long_as_they_are_there(reactor: Reactor) -> None:
    views = {"m": SimpleNamespace(min_pods=1, max_pods=3), "fn": SimpleNamespace(min_pods=0, max_pods=1)}
    told = Told()
    told.cores = SimpleNamespace(cluster_manager=SimpleNamespace(function_view=views.get))  # type: ignore[attr-defined]
    specs = {
        "fn": SPEC,
        "m": msgspec.structs.replace(SPEC, kind="model"),
        "gone": msgspec.structs.replace(SPEC, kind="model"),
    }
    ticks = ModelTicks(cast(CoreLoop, told), cast(Functions, SimpleNamespace(specs=specs)), 0.001)
    ticks.start()
    reactor.run_until(lambda: len(told.events) == 2, 5.0)
    assert told.events == [events.ScalingChanged("m", 1, 3)] * 2
    ModelTicks(cast(CoreLoop, told), cast(Functions, None), 0.0).start()


def test_clients_see_no_model_whose_deployment_was_refused() -> None:
    """It was defined for that by a link that has ended; the one that is deployed under its name is asked again."""
    functions, _ = make_functions(60)
    models = HostedModels(functions)
    key = ApiKey("id", "ada", "")
    code = CodeRef("builtin", "", "")

    def define(holder: str, function_id: str, name: str) -> None:
        spec = FunctionSpec("models", name, "model", code, model=ModelSpec(name, "folder"), tokenizer="fn-tokenizer")
        functions.define(holder, function_id, spec)

    define("app:shop", "fn-1", "bot")
    define("link-1", "fn-2", "bot")
    define("link-1", "fn-3", "other")
    assert {name: found.function_id for name, found in models.of(key).items()} == {"bot": "fn-2", "other": "fn-3"}
    functions.release_all("link-1")
    assert {name: found.function_id for name, found in models.of(key).items()} == {"bot": "fn-1"}
