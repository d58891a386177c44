"""The SDK's pod-facing parts; the only file of the runtime that imports more of it than the protocol.

Both ends must pickle alike, and code in a pod makes calls with the SDK's own client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import deepserve
from deepserve import _context as context
from deepserve import errors, settings
from deepserve._arena import mapped_bytes
from deepserve._client import Client
from deepserve._code_kind import is_async_generator_function, is_coroutine_function, is_generator_function
from deepserve._context import TaskContext, current_task
from deepserve._current_client import current_client, install, installed_client
from deepserve._dependencies import put_in
from deepserve._entry import HOOK_ATTRIBUTE, Batching, Entry, entry_of, hook_names
from deepserve._pickling import PYTHON
from deepserve._ref_holds import forget_refs
from deepserve._segments import remove_segment
from deepserve._values import decode_exception, decode_value, encode_exception, encode_value
from deepserve.protocol.messages import Value

__all__ = [
    "HOOK_ATTRIBUTE",
    "Batching",
    "Entry",
    "PYTHON",
    "TaskContext",
    "batch_results",
    "Client",
    "context",
    "current_client",
    "current_task",
    "decode_exception",
    "decode_value",
    "encode_exception",
    "encode_value",
    "entry_of",
    "hook_names",
    "errors",
    "let_refs_go",
    "install",
    "is_async_generator_function",
    "is_coroutine_function",
    "is_generator_function",
    "load_decorators",
    "mapped_bytes",
    "public_name_steps",
    "refuse_network_if_asked",
    "remove_segment",
    "put_in",
    "tell_no_timeline",
]


def batch_results(target: Callable[..., object], returned: object, num_items: int) -> Sequence[object]:
    """What a batched function returned. Raises BatchMismatch unless it is one result for each item."""
    from deepserve._batched import results_of  # few functions are batched, and its typing takes long to import

    return results_of(target, returned, num_items)


def tell_no_timeline() -> None:
    """In a pod: DEEPSERVE_TIMINGS asks for the script's first call, not for those that are made inside it."""
    settings.use_settings(settings.current_settings()._replace(timings=False))


def refuse_network_if_asked() -> None:
    """In a pod of a test."""
    if settings.current_settings().no_network:
        from deepserve._network_guard import refuse_network

        refuse_network()


def let_refs_go(value: Value) -> None:
    """The outcome is written: the refs inside are its reader's now, and those that the task was given have gone."""
    if value.refs:
        forget_refs(value.refs)
    own = installed_client()
    if own is not None and own.refs.released:
        own.refs.flush()


def load_decorators() -> None:
    """In a template: what the modules of most users import from deepserve, which loads its names at their first use."""
    for name in ("App", "function"):
        getattr(deepserve, name)


def public_name_steps() -> Iterator[Callable[[], object]]:
    """Loads the rest of them, one by one."""
    for name in deepserve.__all__:
        yield partial(getattr, deepserve, name)
