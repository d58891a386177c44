"""The command `flowserve`."""

from __future__ import annotations

import logging
import os
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from .cost_commands import calibrate, fit_cost
from .errors import FlowServeError, InvalidConfigError
from .version import __version__

commands = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

FAILED, INTERRUPTED = 1, 130


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@commands.callback()
def flowserve(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """An engine for large language models."""


@commands.command()
def serve(
    model: Annotated[str, typer.Argument(help="A model folder, or a hub id.", metavar="FOLDER")],
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free one and prints it.", min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What clients call the model; may be repeated. Default: the folder's name.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="What clients must bring as a bearer token.", envvar="FLOWSERVE_API_KEY")
    ] = None,
    tool_call_parser: Annotated[
        str, typer.Option(help="How the model writes calls: auto (as its chat template shows), hermes, mistral, ...")
    ] = "auto",
    reasoning_parser: Annotated[
        str, typer.Option(help="auto, none, or think: the model thinks between <think> and </think>.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="Of the weights: int8 or int4.")] = None,
    kv_cache_dtype: Annotated[str, typer.Option(help="auto, float32 or int8.")] = "auto",
    cpu_backend: Annotated[str, typer.Option(help="auto, extension or torch.")] = "auto",
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="Context in tokens. Default: the model's.")] = None,
    max_num_sequences: Annotated[int, typer.Option(help="Completions that run at once.")] = 32,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens of one step.")] = 512,
    kv_cache_bytes: Annotated[int | None, typer.Option(help="Memory for keys and values.")] = None,
    host_cache_bytes: Annotated[int | None, typer.Option(help="Memory for KV that left the device.")] = None,
    file_cache_bytes: Annotated[int | None, typer.Option(help="Disk for KV that left memory.")] = None,
    file_cache_folder: Annotated[str | None, typer.Option(help="Where on disk.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens of one KV block.")] = None,
    prefix_caching: Annotated[bool, typer.Option(help="Keep the KV of prompts for others that begin alike.")] = True,
    speculative_tokens: Annotated[int, typer.Option(help="Tokens guessed for each sequence and step.")] = 0,
    num_threads: Annotated[int | None, typer.Option(help="Threads of tensor operations.")] = None,
    seed: Annotated[int | None, typer.Option(help="For requests without one.")] = None,
    max_queue: Annotated[int, typer.Option(help="Completions that may wait; more get status 503.", min=0)] = 1024,
    max_body_bytes: Annotated[int, typer.Option(help="Larger requests get status 413.", min=1)] = 32 << 20,
    cost_model: Annotated[
        Path | None, typer.Option(help="Of this engine, from calibrate or fit-cost: for fetching KV or computing it.")
    ] = None,
    grace_s: Annotated[float, typer.Option(help="How long answers may go on after SIGTERM.", min=0)] = 10.0,
    access_log: Annotated[bool, typer.Option(help="A line for each response, on stderr.")] = False,
    step_log: Annotated[Path | None, typer.Option(help="A file that gets a line for each step.")] = None,
    allow_sleep: Annotated[
        bool, typer.Option("--allow-sleep", help="Clients may send the engine to sleep: /sleep, /wake_up.")
    ] = False,
) -> None:
    """Serve a model over HTTP, with the API of OpenAI."""
    # Before torch is imported: waiting OpenMP threads would otherwise spin beside the thread that writes answers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .config import EngineConfig

    engine_config = EngineConfig(
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        cpu_backend=cpu_backend,
        device=device,
        max_model_len=max_model_len,
        max_num_sequences=max_num_sequences,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_bytes=kv_cache_bytes,
        host_cache_bytes=host_cache_bytes,
        file_cache_bytes=file_cache_bytes,
        file_cache_folder=file_cache_folder,
        block_size=block_size,
        enable_prefix_caching=prefix_caching,
        speculative_tokens=speculative_tokens,
        num_threads=num_threads,
        cost_model=cost_model,
        seed=seed,
        step_log=step_log,
    )
    from .server.app import ServerConfig  # with torch: after the options are known to be right
    from .server.process import Listening
    from .server.process import serve as serve_model

    if reasoning_parser not in ("auto", "none", "think"):
        raise InvalidConfigError(
            f"reasoning_parser {reasoning_parser!r} is not supported; supported: auto, none, think"
        )
    server_config = ServerConfig(
        names=tuple(served_model_name or ()),
        api_key=api_key,
        max_queue=max_queue,
        max_body_bytes=max_body_bytes,
        allow_sleep=allow_sleep,
        call_format=None if tool_call_parser == "auto" else tool_call_parser,
        reasoning=None if reasoning_parser == "auto" else reasoning_parser == "think",
    )
    serve_model(model, engine_config, server_config, Listening(host, port, grace_s, access_log))


@commands.command()
def bench(
    models: Annotated[
        str | None,
        typer.Option(help="small (0.6B, 8 GB of disk), tiny (14M), toy. Default: small,tiny; with --quick toy."),
    ] = None,
    only: Annotated[str, typer.Option(help="Of one,sixteen,shared,prompt,fresh,sleep,cost; with commas.")] = "",
    who: Annotated[str, typer.Option(help="Parts of names, separated by commas. Default: everybody.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each figure, in alternating order.")] = 3,
    minutes: Annotated[float, typer.Option(help="Then no further round of what takes long.")] = 15.0,
    subject_minutes: Annotated[float, typer.Option(help="What one of them may take in a round.")] = 5.0,
    quick: Annotated[bool, typer.Option("--quick", help="One round of few tokens, to see that it works.")] = False,
    complete: Annotated[bool, typer.Option("--complete", help="Also what takes a peer a minute.")] = False,
    peers: Annotated[bool, typer.Option("--peers", help="Also who `make bench-engine-peers` installed.")] = False,
    peers_folder: Annotated[Path | None, typer.Option(help="Where they are. Default: .bench-peers")] = None,
    prepare: Annotated[bool, typer.Option("--prepare", help="Only make the models and convert them.")] = False,
    output: Annotated[list[Path] | None, typer.Option(help="A file, .json or .md; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
) -> None:
    """Measure this machine: its limits, FlowServe and its peers in one run, on models with random weights."""
    from .bench.command import names, run
    from .bench.options import Options
    from .bench.subjects import PEER_ENVIRONMENTS, WORKS

    try:
        options = Options(
            models=names(models or ("toy" if quick else "small,tiny")),
            works=names(only) or WORKS,
            who=names(who),
            rounds=1 if quick else rounds,
            minutes=minutes,
            subject_minutes=subject_minutes,
            is_quick=quick,
            is_complete=complete,
            peers=(peers_folder or PEER_ENVIRONMENTS) if peers or peers_folder else None,
        )
        run(options, only_prepare=prepare, output=output or [], as_json=json)
    except InvalidConfigError as error:
        raise typer.BadParameter(str(error)) from None


@commands.command()
def pull(
    model: Annotated[str, typer.Argument(help="A hub id; a folder is only looked at.", metavar="ID")],
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of the folder.")] = False,
) -> None:
    """Fetch a model from the hub and print its folder. A connection that breaks goes on where it was; files that are
    there are not fetched again."""
    from .hub import resolve_model
    from .models.encoder_config import is_embedding_model

    folder = resolve_model(model)
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    size_bytes = sum(file.stat().st_size for file in files)
    about = {"folder": str(folder), "size_bytes": size_bytes, "embeds": is_embedding_model(folder)}
    print(dumps(about) if json else folder)


commands.command("fit-cost")(fit_cost)
commands.command()(calibrate)


def main() -> None:
    """Entry point of the console script: 0 fine, 1 the model or the address is at fault, 2 wrong usage."""
    _show_log()
    try:
        commands(prog_name="flowserve")
    except (FlowServeError, OSError) as error:
        print(f"flowserve: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _show_log() -> None:
    """On stderr. As a library the engine leaves that to the program around it, which here is this one; unseen, a first
    use that compiles or measures for a while would look like one that hangs."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("flowserve: %(message)s"))
    log = logging.getLogger("flowserve")
    log.setLevel(logging.INFO)
    log.handlers = [handler]
