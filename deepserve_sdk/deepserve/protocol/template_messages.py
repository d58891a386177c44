"""Messages between the controller and the templates that fork its pods."""

from __future__ import annotations

from deepserve.protocol.message_parts import Message, PodMemory, Value, Weights


class ForkPod(Message, frozen=True):
    """The child dials `socket`, says Hello with `token`, and opens its two log connections."""

    pod_id: str
    token: str
    socket: str
    memory_mib: int = 0
    kv_bytes: int = 0
    """As in BindExecutor, from a function's template."""


class ForkPods(Message, frozen=True):
    """Several at once, to a function's template: what it does between two forks costs a copy of every page it uses."""

    orders: tuple[ForkPod, ...]


class ForkTemplate(Message, frozen=True):
    """To an environment's template: the child dials `socket`, says Hello with `token`, is told by BindExecutor which
    function to load, and then obeys ForkPod on that link. Reported on like a pod: PodForked, PodExited."""

    template_id: str
    token: str
    socket: str
    memory_mib: int = 0


class WeightsFound(Message, frozen=True):
    """Of a model of a hub that a function's template is about to fetch: the bytes of its weights' files."""

    size_bytes: int


class TemplateReady(Message, frozen=True):
    """`environment` is a function's id where the template is one's."""

    environment: str
    pid: int
    steps_ms: dict[str, float] = {}
    source: str = ""
    """As in ExecutorReady, where it is a function's."""
    weights: Weights = Weights()
    """Of a model; it shares them with its pods."""
    source_reason: str = ""
    memory: PodMemory = PodMemory()
    """Of each pod that is forked from it."""


class TemplateFailed(Message, frozen=True):
    """Of a function's template the payload is the encoded exception of the user's import or hook."""

    environment: str
    text: str
    value: Value = Value()


class TemplateRefused(Message, frozen=True):
    """A function's template has loaded it, but what it holds now cannot be forked; the template ends."""

    environment: str
    text: str
    memory: PodMemory = PodMemory()
    """Of each pod of a model, which has to load it for itself."""


class PodForked(Message, frozen=True):
    pod_id: str
    pid: int
    fork_ms: float = 0.0


class PodExited(Message, frozen=True):
    """exit_code is negative for a signal, as in subprocess."""

    pod_id: str
    pid: int
    exit_code: int


TemplateMessage = (
    ForkPod | ForkPods | ForkTemplate | WeightsFound | TemplateReady | TemplateFailed | TemplateRefused | PodForked
    | PodExited
)  # fmt: skip
