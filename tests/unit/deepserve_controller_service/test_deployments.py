"""What may be deployed, and what is deployed then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec
from deepserve_controller.errors import QueryError
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.store import MemoryStore

SPEC = FunctionSpec("app", "f", "function", CodeRef("builtin", "m", "f"))
MODEL = FunctionSpec("models", "small", "model", CodeRef("builtin", "m", "f"), model=ModelSpec("small", "/nowhere"))


def make_deployments(why_never: str = "") -> Deployments:
    events: list[Any] = []
    functions = Functions(cast(CoreLoop, SimpleNamespace(give=events.append)))
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
