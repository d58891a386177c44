"""For tests of code that uses DeepServe. The pytest plugin (`deepserve.testing.plugin`) is found by pytest itself.

Fixtures: `deepserve_local` (LocalEngine: an embedded controller for the test, no network, faults on order) and
`scripted_model` (a hosted model that says what the test wrote down).
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from deepserve.testing.local_engine import LocalEngine as LocalEngine
    from deepserve.testing.local_engine import PodKill as PodKill
    from deepserve.testing.script import ScriptedModel as ScriptedModel
    from deepserve.testing.script import tool_call as tool_call

_HOMES = {"LocalEngine": "local_engine", "PodKill": "local_engine", "ScriptedModel": "script", "tool_call": "script"}

__all__ = ["LocalEngine", "PodKill", "ScriptedModel", "tool_call"]


def _load(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'deepserve.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"deepserve.testing.{home}"), name)


if not TYPE_CHECKING:  # loaded at their first use, for pytest loads this package wherever it is installed
    __getattr__ = _load
