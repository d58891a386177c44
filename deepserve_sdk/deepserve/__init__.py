"""DeepServe: embedded serverless for Python functions, agents and language models.

Public names are loaded when they are first used, so that `import deepserve` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""Type checkers take it for true; importing `typing` would cost more than the rest of this module."""

if TYPE_CHECKING:
    from typing import Any

    from deepserve._agent import Agent as Agent
    from deepserve._agent_events import AgentFinished as AgentFinished
    from deepserve._agent_events import AgentResult as AgentResult
    from deepserve._agent_events import ModelDelta as ModelDelta
    from deepserve._agent_events import ToolCalled as ToolCalled
    from deepserve._agent_events import ToolReturned as ToolReturned
    from deepserve._app import App as App
    from deepserve._batched import batched as batched
    from deepserve._call import Call as Call
    from deepserve._call_group import CallGroup as CallGroup
    from deepserve._cls import cls as cls
    from deepserve._cls import enter as enter
    from deepserve._cls import exit as exit
    from deepserve._cls import method as method
    from deepserve._cls import parameter as parameter
    from deepserve._context import cancelled as cancelled
    from deepserve._context import context as context
    from deepserve._context import resume_offset as resume_offset
    from deepserve._controller_choice import init as init
    from deepserve._decorators import function as function
    from deepserve._deployed import Cls as Cls
    from deepserve._function import Function as Function
    from deepserve._model import Model as Model
    from deepserve._model_context import ContextId as ContextId
    from deepserve._model_result import ChatResult as ChatResult
    from deepserve._model_result import GeneratedText as GeneratedText
    from deepserve._options import Retries as Retries
    from deepserve._options import concurrent as concurrent
    from deepserve._progress import progress as progress
    from deepserve._ref import Ref as Ref
    from deepserve._ref import put as put
    from deepserve._requests import recent_requests as recent_requests
    from deepserve._stored_contexts import ContextInfo as ContextInfo
    from deepserve._tool import tool as tool
    from deepserve.errors import AgentError as AgentError
    from deepserve.errors import AsyncUsageError as AsyncUsageError
    from deepserve.errors import BatchMismatch as BatchMismatch
    from deepserve.errors import CallCancelled as CallCancelled
    from deepserve.errors import ContextExpiredError as ContextExpiredError
    from deepserve.errors import ControllerLost as ControllerLost
    from deepserve.errors import ControllerUnreachable as ControllerUnreachable
    from deepserve.errors import DeepServeError as DeepServeError
    from deepserve.errors import FunctionTimeout as FunctionTimeout
    from deepserve.errors import InputCancelled as InputCancelled
    from deepserve.errors import InvalidModelOption as InvalidModelOption
    from deepserve.errors import InvalidOption as InvalidOption
    from deepserve.errors import ItemsGone as ItemsGone
    from deepserve.errors import KeyRefused as KeyRefused
    from deepserve.errors import MaxTurnsExceeded as MaxTurnsExceeded
    from deepserve.errors import ModelError as ModelError
    from deepserve.errors import ModelLoadError as ModelLoadError
    from deepserve.errors import NetworkRefused as NetworkRefused
    from deepserve.errors import NotFound as NotFound
    from deepserve.errors import OutputTruncated as OutputTruncated
    from deepserve.errors import PodLost as PodLost
    from deepserve.errors import PromptTooLongError as PromptTooLongError
    from deepserve.errors import ProtocolError as ProtocolError
    from deepserve.errors import PythonVersionMismatch as PythonVersionMismatch
    from deepserve.errors import RecursionTooDeep as RecursionTooDeep
    from deepserve.errors import RefGone as RefGone
    from deepserve.errors import Refused as Refused
    from deepserve.errors import RemoteError as RemoteError
    from deepserve.errors import ScriptExhausted as ScriptExhausted
    from deepserve.errors import SerializationError as SerializationError
    from deepserve.errors import StartupFailed as StartupFailed
    from deepserve.errors import StartupTimeout as StartupTimeout
    from deepserve.errors import StateFolderInUse as StateFolderInUse
    from deepserve.errors import StreamInterrupted as StreamInterrupted
    from deepserve.errors import StreamReplayMismatch as StreamReplayMismatch
    from deepserve.errors import ToolError as ToolError
    from deepserve.errors import UnguardedCallError as UnguardedCallError
    from deepserve.errors import UnknownContextError as UnknownContextError
    from deepserve.errors import UnpicklableArgument as UnpicklableArgument
    from deepserve.errors import UnpicklableFunction as UnpicklableFunction
    from deepserve.errors import UnpicklableResult as UnpicklableResult
    from deepserve.errors import ValueTooLarge as ValueTooLarge

    __version__: str

_HOMES = {
    "_agent": ("Agent",),
    "_agent_events": ("AgentFinished", "AgentResult", "ModelDelta", "ToolCalled", "ToolReturned"),
    "_app": ("App",),
    "_batched": ("batched",),
    "_call": ("Call",),
    "_call_group": ("CallGroup",),
    "_cls": ("cls", "enter", "exit", "method", "parameter"),
    "_context": ("cancelled", "context", "resume_offset"),
    "_controller_choice": ("init",),
    "_decorators": ("function",),
    "_deployed": ("Cls",),
    "_function": ("Function",),
    "_model": ("Model",),
    "_model_context": ("ContextId",),
    "_model_result": ("ChatResult", "GeneratedText"),
    "_progress": ("progress",),
    "_options": ("Retries", "concurrent"),
    "_ref": ("Ref", "put"),
    "_requests": ("recent_requests",),
    "_stored_contexts": ("ContextInfo",),
    "_tool": ("tool",),
    "errors": (
        "AgentError",
        "AsyncUsageError",
        "BatchMismatch",
        "CallCancelled",
        "ContextExpiredError",
        "ControllerLost",
        "ControllerUnreachable",
        "DeepServeError",
        "FunctionTimeout",
        "InputCancelled",
        "InvalidModelOption",
        "InvalidOption",
        "ItemsGone",
        "KeyRefused",
        "MaxTurnsExceeded",
        "ModelError",
        "ModelLoadError",
        "NetworkRefused",
        "NotFound",
        "OutputTruncated",
        "PodLost",
        "PromptTooLongError",
        "ProtocolError",
        "PythonVersionMismatch",
        "RecursionTooDeep",
        "RefGone",
        "Refused",
        "RemoteError",
        "ScriptExhausted",
        "SerializationError",
        "StartupFailed",
        "StartupTimeout",
        "StateFolderInUse",
        "StreamInterrupted",
        "StreamReplayMismatch",
        "ToolError",
        "UnguardedCallError",
        "UnknownContextError",
        "UnpicklableArgument",
        "UnpicklableFunction",
        "UnpicklableResult",
        "ValueTooLarge",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def _load(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all that is loaded here otherwise

        return version("deepserve")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'deepserve' has no attribute {name!r}")
    from importlib import import_module

    import_module("deepserve.protocol")  # before anything else imports msgspec: see there
    value = getattr(import_module(f"deepserve.{home}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # type checkers must see a name that does not exist
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
