"""The options of an engine on the command line, for every command that builds one; `EngineConfig` says more of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A model folder, or a hub id.", metavar="FOLDER")]

Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Quantization = Annotated[str | None, typer.Option(help="Of the weights: int8 or int4.")]
KvCacheDtype = Annotated[str, typer.Option(help="auto, float32 or int8.")]
CpuBackend = Annotated[str, typer.Option(help="auto, extension or torch.")]
Device = Annotated[str, typer.Option(help="auto or cpu.")]
MaxModelLen = Annotated[int | None, typer.Option(help="Context in tokens. Default: the model's.")]
MaxNumSequences = Annotated[int, typer.Option(help="Completions that run at once.")]
MaxNumBatchedTokens = Annotated[int, typer.Option(help="Tokens of one step.")]
TargetStepMs = Annotated[
    float,
    typer.Option(help="What a step with prompts should take while others are there; 0 = however long."),
]
KvCacheBytes = Annotated[
    int | None,
    typer.Option(
        "--kv-cache-bytes", "--kv-cache-memory-bytes", help="Memory for keys and values. Default: by the host's."
    ),
]
NumKvBlocks = Annotated[
    int | None, typer.Option("--num-kv-blocks", "--num-gpu-blocks-override", help="The same, in blocks.")
]
MemoryBytes = Annotated[
    int | None, typer.Option(help="Memory of the process: keys and values have what the rest leaves of it.")
]
HostCacheBytes = Annotated[int | None, typer.Option(help="Memory for KV that left the device.")]
FileCacheBytes = Annotated[int | None, typer.Option(help="Disk for KV that left memory.")]
FileCacheFolder = Annotated[str | None, typer.Option(help="Where on disk.")]
BlockSize = Annotated[int | None, typer.Option(help="Tokens of one KV block.")]
PrefixCaching = Annotated[
    bool,
    typer.Option("--prefix-caching/--no-prefix-caching", help="Keep the KV of prompts for others that begin alike."),
]
SpeculativeTokens = Annotated[int, typer.Option(help="Tokens guessed for each sequence and step.")]
NumThreads = Annotated[int | None, typer.Option(help="Threads of tensor operations. Default: by the model's size.")]
Seed = Annotated[int | None, typer.Option(help="For requests without one.")]
CostModel = Annotated[
    Path | None,
    typer.Option(help="Of this engine, from calibrate or fit-cost: for fetching KV or computing it."),
]
StepLog = Annotated[Path | None, typer.Option(help="A file that gets a line for each step.")]
