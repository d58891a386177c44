"""What `deepserve deploy` asks of a controller, and says where not all of a file could be deployed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from deepserve._client import Client
from deepserve._definition import Definition
from deepserve.cli.deploy import Deployment, deploy_all
from deepserve.errors import Refused
from deepserve.protocol.specs import CodeRef, FunctionSpec

SPEC = FunctionSpec("app", "f", "function", CodeRef("builtin", "m", "f"))


class Controller:
    """Refuses one query of an app."""

    def __init__(self, refused: tuple[str, str]) -> None:
        self.refused = refused
        self.told: list[str] = []

    def define(self, definition: Definition) -> None:
        self.told.append(definition.function_id)

    def query(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        apps = body.get("apps", [body])
        if any((what, each["app"]) == self.refused for each in apps):
            raise Refused("no room")
        self.told += [f"{what} {each['app']}" for each in apps]
        return {}


def deployments() -> list[Deployment]:
    return [
        Deployment(name, {"f": Definition(f"fn-{name}", SPEC, None, f"{name}/f")}, [], {}) for name in ("a", "b", "c")
    ]


def test_nothing_is_defined_or_deployed_where_one_would_be_refused() -> None:
    controller = Controller(("check_deploy", "c"))
    with pytest.raises(Refused):
        deploy_all(cast(Client, controller), deployments())
    assert controller.told == []


def test_where_one_fails_all_the_same_it_is_said_what_is_deployed(capsys: pytest.CaptureFixture[str]) -> None:
    controller = Controller(("deploy", "b"))
    with pytest.raises(Refused):
        deploy_all(cast(Client, controller), deployments())
    assert controller.told[3:] == ["fn-a", "deploy a", "fn-b"]
    assert "deployed by now: a; not deployed: b, c" in capsys.readouterr().err
