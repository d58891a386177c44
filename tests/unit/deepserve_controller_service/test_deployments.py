"""What may be deployed, and what is deployed then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Scaling
from deepserve_controller.core import events
from deepserve_controller.errors import QueryError, StoreUnreadable, StoreUnwritable
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.kept_bounds import KeptBounds
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.sql_store import SqlStore
from deepserve_controller.service.store import MemoryStore, NoRecords

SPEC = FunctionSpec("app", "f", "function", CodeRef("builtin", "m", "f"))
MODEL = FunctionSpec("models", "small", "model", CodeRef("builtin", "m", "f"), model=ModelSpec("small", "/nowhere"))


def make_functions() -> tuple[Functions, list[Any]]:
    told: list[Any] = []
    return Functions(cast(CoreLoop, SimpleNamespace(give=told.append))), told


def make_deployments(why_never: str = "") -> Deployments:
    functions, _ = make_functions()
    functions.define("link", "fn-f", SPEC)
    functions.define("link", "fn-small", MODEL)
    return Deployments(MemoryStore(), functions, cast(Bundles, {}), lambda spec: why_never)


def test_a_model_s_name_is_taken_by_one_app() -> None:
    deployments = make_deployments()
    deployments.deploy("one", {"small": "fn-small"}, {})
    deployments.check([("one", [MODEL, SPEC])])
    with pytest.raises(QueryError, match="a model 'small' is deployed already, by app 'one'"):
        deployments.check([("free", [SPEC]), ("other", [MODEL])])
    with pytest.raises(QueryError, match="a model 'small' is deployed already, by app 'one'"):
        deployments.deploy("other", {"small": "fn-small"}, {})
    assert deployments.apps.keys() == {"one"}


def test_a_model_may_move_to_an_app_that_is_deployed_after_the_one_that_has_it() -> None:
    deployments = make_deployments()
    deployments.deploy("one", {"small": "fn-small"}, {})
    deployments.check([("one", [SPEC]), ("other", [MODEL])])
    with pytest.raises(QueryError, match="a model 'small' is deployed already, by app 'other'"):
        deployments.check([("one", [SPEC]), ("other", [MODEL]), ("third", [MODEL])])


def test_what_can_never_start_is_refused() -> None:
    with pytest.raises(QueryError, match="it has 3 MiB"):
        make_deployments("it has 3 MiB").check([("free", [SPEC])])


def restarted(folder: Path) -> tuple[Deployments, Functions, list[Any], SqlStore]:
    functions, told = make_functions()
    store = SqlStore(str(folder))
    deployments = Deployments(store, functions, cast(Bundles, {}), lambda spec: "")
    deployments.restore()
    return deployments, functions, told, store


def test_bounds_last_until_the_function_is_deployed_again_or_stopped(tmp_path: Path) -> None:
    deployments, functions, told, store = restarted(tmp_path)
    functions.define("link", "fn-f", SPEC)
    deployments.scale("fn-f", Scaling(min_pods=9))
    deployments.deploy("one", {"f": "fn-f"}, {})
    scaled = Scaling(min_pods=1, max_pods=3, scaledown_window_s=5.0)
    deployments.scale("fn-f", scaled)
    assert told[-1] == events.ScalingChanged("fn-f", 1, 3, 0, 5.0)
    store.close()

    deployments, functions, told, store = restarted(tmp_path)
    assert told == [events.FunctionDefined("fn-f", msgspec.structs.replace(SPEC, scaling=scaled))]
    deployments.deploy("one", {"f": "fn-f"}, {})
    assert told[-1] == events.ScalingChanged("fn-f", 0, 0, 0, SPEC.scaling.scaledown_window_s)
    deployments.deploy("two", {"f": "fn-f"}, {})
    deployments.scale("fn-f", scaled)
    deployments.stop("one")
    store.close()

    deployments, functions, told, store = restarted(tmp_path)
    assert told[0].spec.scaling == scaled, "the other app has it yet"
    deployments.stop("two")
    assert store.bounds.all() == []
    store.close()


def test_bounds_that_cannot_be_stored_change_nothing() -> None:
    class Full(NoRecords):
        def put(self, name: str, described: bytes) -> None:
            raise StoreUnwritable("the disk is full")

    functions, told = make_functions()
    functions.define("link", "fn-f", SPEC)
    store = MemoryStore()
    store.bounds = Full()
    deployments = Deployments(store, functions, cast(Bundles, {}), lambda spec: "")
    deployments.deploy("one", {"f": "fn-f"}, {})
    with pytest.raises(QueryError, match="disk is full"):
        deployments.scale("fn-f", Scaling(min_pods=1))
    assert told == [events.FunctionDefined("fn-f", SPEC)] and functions.kept_scaling("fn-f") is None


def test_bounds_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    store.bounds.put("fn-f", b"?")
    with pytest.raises(StoreUnreadable, match="bounds of 'fn-f'"):
        KeptBounds(store.bounds)
    store.close()
