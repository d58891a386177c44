"""Snapshot: what a function's template has loaded, and each pod forked from it begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deepserve.protocol.messages import Welcome
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.loaded_code import LoadedCode

if TYPE_CHECKING:
    from deepserve_runtime.executors.loaded_engine import LoadedEngine


class Snapshot(NamedTuple):
    """`code`: of a model its LoadedEngine. `welcome`: the controller's to the template, true for pods."""

    function_id: str
    spec: FunctionSpec
    code: LoadedCode | LoadedEngine
    welcome: Welcome
