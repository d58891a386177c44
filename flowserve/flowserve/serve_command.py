"""The command `flowserve serve`."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Annotated, Any

import typer

from . import engine_options as engine
from .errors import InvalidConfigError
from .packages import require_packages

Host = Annotated[str, typer.Option(help="Where to listen.")]
Port = Annotated[int, typer.Option(help="0 picks a free one and prints it.", min=0, max=65535)]
Names = Annotated[
    list[str] | None,
    typer.Option(help="What clients call the model; may be repeated. Default: the folder's name."),
]
ApiKey = Annotated[
    str | None, typer.Option(help="What clients must bring as a bearer token.", envvar="FLOWSERVE_API_KEY")
]
ToolCallParser = Annotated[
    str,
    typer.Option(
        help="How the model writes calls: auto (as its chat template shows), hermes, mistral, pythonic or llama3_json."
    ),
]
ReasoningParser = Annotated[
    str, typer.Option(help="auto, none, or think: the model thinks between <think> and </think>.")
]
MaxQueue = Annotated[int, typer.Option(help="Completions that may wait; more get status 503.", min=0)]
MaxBodyBytes = Annotated[int, typer.Option(help="Larger requests get status 413.", min=1)]
GraceS = Annotated[float, typer.Option(help="How long answers may go on after SIGTERM.", min=0)]
AccessLog = Annotated[bool, typer.Option(help="A line for each response, on stderr.")]
AllowSleep = Annotated[
    bool, typer.Option("--allow-sleep", help="Clients may send the engine to sleep: /sleep, /wake_up.")
]

_REASONING = {"auto": None, "none": False, "think": True}


def serve(
    context: typer.Context,
    model: engine.Model,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    served_model_name: Names = None,
    api_key: ApiKey = None,
    tool_call_parser: ToolCallParser = "auto",
    reasoning_parser: ReasoningParser = "auto",
    dtype: engine.Dtype = "auto",
    quantization: engine.Quantization = None,
    kv_cache_dtype: engine.KvCacheDtype = "auto",
    cpu_backend: engine.CpuBackend = "auto",
    device: engine.Device = "auto",
    max_model_len: engine.MaxModelLen = None,
    max_num_sequences: engine.MaxNumSequences = 32,
    max_num_batched_tokens: engine.MaxNumBatchedTokens = 512,
    target_step_ms: engine.TargetStepMs = 25.0,
    kv_cache_bytes: engine.KvCacheBytes = None,
    num_kv_blocks: engine.NumKvBlocks = None,
    memory_bytes: engine.MemoryBytes = None,
    host_cache_bytes: engine.HostCacheBytes = None,
    file_cache_bytes: engine.FileCacheBytes = None,
    file_cache_folder: engine.FileCacheFolder = None,
    block_size: engine.BlockSize = None,
    enable_prefix_caching: engine.PrefixCaching = True,
    speculative_tokens: engine.SpeculativeTokens = 0,
    num_threads: engine.NumThreads = None,
    seed: engine.Seed = None,
    max_queue: MaxQueue = 1024,
    max_body_bytes: MaxBodyBytes = 32 << 20,
    cost_model: engine.CostModel = None,
    grace_s: GraceS = 10.0,
    access_log: AccessLog = False,
    step_log: engine.StepLog = None,
    allow_sleep: AllowSleep = False,
) -> None:
    """Serve a model over HTTP, with the API of OpenAI."""
    _serve(context.params)


def _serve(options: dict[str, Any]) -> None:
    require_packages("flowserve serve")
    # Before torch is imported: waiting OpenMP threads would otherwise spin beside the thread that writes answers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .config import EngineConfig
    from .hub import local_folder
    from .models.encoder_config import is_embedding_model

    if (folder := local_folder(options["model"])) is not None:
        is_embedding_model(folder)  # a folder that is none is told now, and not after seconds of importing
    names = {field.name for field in fields(EngineConfig)}
    engine_config = EngineConfig(**{name: value for name, value in options.items() if name in names})
    from .server.app import ServerConfig  # with torch: after the options are known to be right
    from .server.process import Listening
    from .server.process import serve as serve_model

    reasoning = options["reasoning_parser"]
    if reasoning not in _REASONING:
        raise InvalidConfigError(f"reasoning_parser {reasoning!r} is not supported; supported: {', '.join(_REASONING)}")
    calls = options["tool_call_parser"]
    server_config = ServerConfig(
        names=tuple(options["served_model_name"] or ()),
        api_key=options["api_key"],
        max_queue=options["max_queue"],
        max_body_bytes=options["max_body_bytes"],
        allow_sleep=options["allow_sleep"],
        call_format=None if calls == "auto" else calls,
        reasoning=_REASONING[reasoning],
    )
    listening = Listening(options["host"], options["port"], options["grace_s"], options["access_log"])
    serve_model(options["model"], engine_config, server_config, listening)
