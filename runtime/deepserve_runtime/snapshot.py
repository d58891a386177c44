"""Snapshot: what a function's template has loaded, and each pod forked from it begins with."""

from __future__ import annotations

from typing import NamedTuple

from deepserve.protocol.messages import Welcome
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.loaded_code import LoadedCode


class Snapshot(NamedTuple):
    """`welcome`: the controller's, to the template; it says the same to the pods."""

    function_id: str
    spec: FunctionSpec
    code: LoadedCode
    welcome: Welcome
