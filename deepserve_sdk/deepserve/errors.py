"""Every error that DeepServe raises, as one tree under DeepServeError.

An exception that the user's own code raised in a pod arrives as its own type; these are for everything else. All
of them pickle: what they carry besides their text lies in keyword arguments with defaults.
"""

from __future__ import annotations

import signal
from typing import Any


class DeepServeError(Exception):
    """Base of all errors that DeepServe raises itself."""


# --- what the user's code did in the pod -----------------------------------------------------------


class RemoteError(DeepServeError):
    """The remote exception's own type could not be rebuilt here, or may not cross (StopIteration, SystemExit ...).

    type_name: the remote type, dotted. remote_traceback: its formatted traceback, as the pod saw it.
    """

    def __init__(self, text: str = "", *, type_name: str = "", remote_traceback: str = "") -> None:
        super().__init__(text)
        self.type_name = type_name
        self.remote_traceback = remote_traceback


class FunctionTimeout(DeepServeError):
    """The call ran out of time.

    clock: whose time it was: `queue` (waiting for a pod: `queue_timeout=`), `startup` (loading the code:
    `startup_timeout=`), `run` (one attempt: `timeout=`), `idle` (a stream's silence: `idle_timeout=`), `caller` (what
    was left to the call inside which it was made).
    stopped: how its code was stopped, as in CallCancelled.
    Not a TimeoutError: that one is `Call.get(timeout=)` giving up while the function goes on.
    """

    def __init__(self, text: str = "", *, clock: str = "", stopped: str = "") -> None:
        super().__init__(text)
        self.clock = clock
        self.stopped = stopped


class CallCancelled(DeepServeError):
    """The call was cancelled: by `Call.cancel()`, or because the call inside which it was made ended.

    stopped: `before it began`, `while it waited` (for another attempt), `cooperatively` (its code was interrupted and
    ended), `pod killed` (it did not end within the grace), `pod draining` (the same, but other inputs run in the pod,
    which is killed when they are done), `pod lost` (the pod died meanwhile).
    """

    def __init__(self, text: str = "", *, stopped: str = "") -> None:
        super().__init__(text)
        self.stopped = stopped


class PodLost(DeepServeError):
    """The pod that ran the call died.

    exit_code: of the process, negative for a signal, None where unknown. signal_name: such as SIGKILL, else empty.
    pod_losses: how many pods were lost under this call; more than one where it was run again.
    """

    def __init__(self, text: str = "", *, exit_code: int | None = None, pod_losses: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.pod_losses = pod_losses

    @property
    def signal_name(self) -> str:
        if self.exit_code is None or self.exit_code >= 0:
            return ""
        try:
            return signal.Signals(-self.exit_code).name
        except ValueError:
            return f"signal {-self.exit_code}"


class InputCancelled(BaseException):
    """Raised inside a pod in the code of a call that was cancelled or ran out of time.

    A BaseException, so that `except Exception` in user code does not swallow it.
    """


class StreamInterrupted(DeepServeError):
    """A stream lost its pod, or its code raised what `retries` cover, after it had passed items on.

    Its function has no `replay=` by which it could be started again. The loss itself is the `__cause__`.

    num_delivered: items that were passed on, all of which its readers get before this error.
    """

    def __init__(self, text: str = "", *, num_delivered: int = 0) -> None:
        super().__init__(text)
        self.num_delivered = num_delivered


class StreamReplayMismatch(DeepServeError):
    """Another attempt of a stream with `replay="verify"` did not make the items again that were passed on before."""


class StreamClosed(InputCancelled, GeneratorExit):
    """Raised inside a pod in a generator whose stream was closed or cancelled; a GeneratorExit as Python raises it."""


class ItemsGone(DeepServeError, LookupError):
    """Items of a stream that were asked for once more are kept no longer."""


class StartupFailed(DeepServeError):
    """The function could not be loaded in a pod: its import, its `enter` hook or its model failed (see `__cause__`)."""


class StartupTimeout(FunctionTimeout, StartupFailed):
    """The function was not ready in a pod within its `startup_timeout=`. Its `clock` is `startup`."""


# --- values ----------------------------------------------------------------------------------------


class SerializationError(DeepServeError):
    """A value or a function cannot cross to another process."""


class UnpicklableArgument(SerializationError):
    """An argument cannot be pickled; the text names the variable and where it was captured."""


class UnpicklableFunction(SerializationError):
    """A function that travels by value holds what cannot be pickled; the text names the variable."""


class UnpicklableResult(SerializationError):
    """The function's result cannot be pickled; the text names the part that cannot."""


class ValueTooLarge(SerializationError):
    """An argument, a result or a bundle is larger than the limit."""


class BatchMismatch(DeepServeError):
    """A batched function did not return a list of one result for each item; the text names both lengths."""


class RefGone(SerializationError):
    """A Ref was used after `delete()`, after its time to live, or when nobody held it any more."""


class PythonVersionMismatch(SerializationError):
    """Code travels by value inside, and the sender's Python differs from this one in major or minor version."""


# --- using it wrongly ------------------------------------------------------------------------------


class AsyncUsageError(DeepServeError):
    """A blocking verb was called on a running event loop; the text names its `.aio` twin."""


class UnguardedCallError(DeepServeError):
    """A remote call stands at the top level of a module that is being imported in a pod."""


class InvalidOption(DeepServeError, ValueError):
    """A decorator's option is wrong; the text names the function and the option."""


class MissingPackage(DeepServeError, ImportError):
    """Something needs a package that is not installed; the text says how to install it. Models: the extra flowserve."""


class NotFound(DeepServeError, LookupError):
    """No such app, function or call."""


class Refused(DeepServeError):
    """The controller did not accept the request; the text says why."""


class RecursionTooDeep(Refused, RecursionError):
    """Calls were nested deeper than `DEEPSERVE_MAX_DEPTH` (100); the text names the chain of functions.

    Each level holds a thread of a pod while it waits for the next one.
    """


# --- the controller --------------------------------------------------------------------------------


class ControllerUnreachable(DeepServeError):
    """No controller answers at the given address, or it could not be started."""


class StateFolderInUse(ControllerUnreachable):
    """Another controller keeps its state in the folder of `init(state=...)` or DEEPSERVE_STATE; the text names both."""


class KeyRefused(ControllerUnreachable):
    """The controller at an `https://` address does not accept the key, or none was given."""


class ControllerLost(DeepServeError):
    """The controller ended while calls were pending."""


class ProtocolError(DeepServeError):
    """The peer is no DeepServe controller, or one of another version."""


# --- tests ------------------------------------------------------------------------------------------


class NetworkRefused(DeepServeError):
    """Code under test with `deepserve_local` wanted to use the network; the text names the address."""


# --- models, tools, agents -------------------------------------------------------------------------


class ModelError(DeepServeError):
    """A hosted model failed."""


class ModelLoadError(ModelError):
    """The model could not be loaded: missing, truncated, or of an unknown architecture."""


class InvalidModelOption(ModelLoadError, InvalidOption):
    """A model's folder, or the memory that it may have, refuses an option; the text names it, and what the limit is."""


class PromptTooLongError(ModelError):
    """The prompt does not fit the model's context."""


class UnknownContextError(ModelError, LookupError):
    """A chat names a context that the controller does not have, or that belongs to another model."""


class ContextExpiredError(UnknownContextError):
    """A chat names a context that nobody has used for its time to live."""


class OutputTruncated(ModelError):
    """The output ended at `max_tokens` before it was a whole value of the asked type. text: what there was."""

    def __init__(self, message: str = "", *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class ScriptExhausted(ModelError):
    """A test's scripted model was asked more often than the script has answers."""


class ToolError(DeepServeError):
    """A tool cannot be described to a model, or failed in a way that the model cannot mend."""


class AgentError(DeepServeError):
    """An agent's run could not be finished."""


class MaxTurnsExceeded(AgentError):
    """The agent took `max_turns` turns without an answer. messages, tool_calls: the run so far, as in AgentResult."""

    def __init__(
        self, text: str = "", *, messages: list[dict[str, Any]] | None = None, tool_calls: list[Any] | None = None
    ) -> None:
        super().__init__(text)
        self.messages = messages or []
        self.tool_calls = tool_calls or []
