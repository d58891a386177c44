"""What a function, class or model is: frozen values that travel whole."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepserve.protocol.digest import sha256

Replay = Literal["", "resume", "verify"]
"""What another attempt of a stream that has passed items on does: there is none; it begins behind them; it makes
them again, and they are compared."""
ExecutorKind = Literal["function", "class", "model", "tokenizer"]
VISIBLE_DEVICES = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}
"""By kind: the variable that says which devices a process sees, and under which numbers."""
ENGINE_DEVICES = ("cpu",)
"""The kinds that FlowServe runs models on."""


class CodeRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a function's code is found in a pod.

    `bundle`: the files of bundle `digest`; import `module`, take `qualname`. `main_module`
    is the name under which the sender's `__main__` file is imported (empty if the sender's
    `__main__` is not part of the bundle).
    `pickle`: bundle `digest` is one cloudpickle dump of a dict {qualname: object}; refused where
    the pod's Python differs from `python` in major or minor version, before any byte is unpickled.
    `builtin`: `module` is installed with DeepServe itself; nothing is shipped.
    `root`: the sender's folder that the files of a bundle come from (empty for a dump): what the user's code names
    relative to its own files, such as a model's folder, is found there and is not shipped.
    `sources`: what models' sources that the code names relative to the sender's current folder are: absolute folders.
    """

    transport: Literal["bundle", "pickle", "builtin"]
    module: str
    qualname: str
    digest: str = ""
    main_module: str = ""
    python: str = ""
    root: str = ""
    sources: tuple[tuple[str, str], ...] = ()


class Scaling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many pods: `max_pods` 0 means the host's default (see the autoscaler policy)."""

    min_pods: int = 0
    max_pods: int = 0
    buffer_pods: int = 0
    scaledown_window_s: float = 60.0
    max_inputs: int = 1
    """Tasks that one pod holds at the same time; of a batched function as many as its batches take."""
    target_inputs: int = 0
    """Tasks of one pod that scaling aims at; 0: `max_inputs`. What is between the two is for bursts."""
    max_batch_size: int = 0
    """Tasks that run as one, at most; 0 where they are not batched. Of a class: its largest."""


class RetrySpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Retries of the user's errors. Which exceptions count is judged in the pod (`may_retry`).

    pod_losses: how often a task is started again after its pod died under it; no business of `max_retries`.
    """

    max_retries: int
    initial_delay_s: float = 0.5
    backoff_coefficient: float = 2.0
    max_delay_s: float = 60.0
    jitter: bool = True
    pod_losses: int = 3


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    cpu: float = 0.125
    memory_mib: int = 0
    """0: no limit of its own."""
    accelerators: tuple[str, ...] = ()
    """Order of preference, each `kind[:model][:count]`."""


class ModelSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A hosted language model; `source` is an absolute folder or a hub id."""

    name: str
    source: str
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    kv_cache_dtype: str = "auto"
    speculative_tokens: int = 0


class FunctionSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One function, class instance shape or model: what a pool of pods is bound to.

    `environment` names the template that its pods are forked from: `python` (light),
    `tokenizer` (tokenizers and jinja2), `flowserve` (torch and the engine).
    `params` is the pickled constructor arguments of a class, empty otherwise.
    `tokenizer` is the function id of a model's tokenizer executor.
    """

    app: str
    name: str
    kind: ExecutorKind
    code: CodeRef
    environment: str = "python"
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    timeout_s: float = 300.0
    startup_timeout_s: float = 120.0
    queue_timeout_s: float = 0.0
    """How long a task may wait for a pod, each time it waits; 0 without a limit."""
    retries: RetrySpec | None = None
    params: bytes = b""
    model: ModelSpec | None = None
    tokenizer: str = ""
    snap: bool = False
    """Of a class: it has an `enter(snap=True)`, so that its pods are forked from a template that ran it."""
    is_generator: bool = False
    """Of a function: its calls are streams."""
    methods: dict[str, Literal["call", "stream"]] = {}
    """Of a class: the methods that may be called, and whether their calls are streams."""
    idle_timeout_s: float = 0.0
    """How long a stream may give no item while its reader has room for some; 0 without a limit."""
    replay: Replay = ""

    @property
    def label(self) -> str:
        """What a person reads: `app/name`."""
        return f"{self.app}/{self.name}"

    @property
    def is_shared(self) -> bool:
        """What its pods need is loaded once, in a template that they are forked from: a model, or a snapshot."""
        return self.snap or self.kind == "model"


def function_id(spec: FunctionSpec) -> str:
    """Content address of `spec`: the same code and options give the same pool of pods."""
    # With every default written: MessagePack omits a nested one only where it is the very same object.
    canonical = msgspec.msgpack.encode(_with_defaults(spec), order="deterministic")
    return f"fn-{sha256(canonical).hexdigest()[:20]}"


def _with_defaults(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {field: _with_defaults(getattr(value, field)) for field in value.__struct_fields__}
    return value
