"""The commands below `deepserve model`; each one's work stands in its own file, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Source = Annotated[str, typer.Argument(help="A hub id, or a folder in Hugging Face layout.")]

model_commands = typer.Typer(help="Hosted language models.", no_args_is_help=True)


@model_commands.command("list")
def model_list(json: Json = False) -> int:
    """Deployed models, their pods and the bounds of these."""
    from deepserve.cli.models import list_models

    return list_models(as_json=json)


@model_commands.command("info")
def model_info(name: Name, json: Json = False) -> int:
    """A model's options, its pods with the steps that made them ready, and the last decisions about their number.

    The steps: Scaler-Pre makes a process, TE-Pre-Load an executor of nothing in it, TE-Load brings weights,
    TE-Post-Load KV, threads and a first step; at Scaler-Post routing knows of it.
    """
    from deepserve.cli.model_info import show_model

    return show_model(name, as_json=json)


@model_commands.command("pull")
def model_pull(source: Source, json: Json = False) -> int:
    """Fetch a model from the hub ahead of time. A connection that breaks goes on where it was."""
    from deepserve.cli.models import pull_model

    return pull_model(source, as_json=json)


@model_commands.command("deploy")
def model_deploy(
    name: Name,
    source: Source,
    accelerator: Annotated[
        list[str] | None, typer.Option(help="npu, gpu or cpu; repeat for more, in order of preference.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Of the weights: int8 or int4.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto, float32 or int8.")] = None,
    speculative_tokens: Annotated[int | None, typer.Option(help="Tokens guessed for each step; 0 is off.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Context in tokens. Default: the model's.")] = None,
    memory: Annotated[int | None, typer.Option(help="MiB of a pod, reserved and enforced.")] = None,
    min_pods: Annotated[int | None, typer.Option("--min", help="Pods that are always there.")] = None,
    max_pods: Annotated[int | None, typer.Option("--max", help="At most so many.")] = None,
    window: Annotated[float | None, typer.Option("--window", help="Seconds until an idle pod ends.")] = None,
    json: Json = False,
) -> int:
    """Put a model on this user's controller, starting it when none runs."""
    from deepserve.cli.models import deploy_model

    options = {
        "accelerator": accelerator or None, "dtype": dtype, "quantization": quantization,
        "kv_cache_dtype": kv_cache_dtype, "speculative_tokens": speculative_tokens, "max_model_len": max_model_len,
        "memory": memory, "min_pods": min_pods, "max_pods": max_pods, "scaledown_window": window,
    }  # fmt: skip
    return deploy_model(name, source, options, as_json=json)


@model_commands.command("chat")
def model_chat(
    name: Name,
    prompt: Annotated[str | None, typer.Argument(help="Without it: a conversation, or what is piped in.")] = None,
    system: Annotated[str, typer.Option(help="What the model is told first.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token always.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    json: Json = False,
) -> int:
    """Talk to a deployed model."""
    from deepserve.cli.model_chat import chat_with

    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return chat_with(name, prompt, system=system, sampling=sampling, as_json=json)


@model_commands.command("stop")
def model_stop(name: Name, json: Json = False) -> int:
    """Remove a model that was deployed by itself: it is no longer found, its pods end."""
    from deepserve.cli.models import stop_model

    return stop_model(name, as_json=json)


@model_commands.command("bench")
def model_bench(
    name: Name,
    requests: Annotated[int, typer.Option(help="Answers in all.")] = 32,
    clients: Annotated[int, typer.Option(help="Who ask at the same time.")] = 4,
    words: Annotated[int, typer.Option(help="Of each prompt.")] = 64,
    tokens: Annotated[int, typer.Option(help="Of each answer.")] = 64,
    json: Json = False,
) -> int:
    """How fast a deployed model answers several clients."""
    from deepserve.cli.model_bench import bench_model

    return bench_model(
        name, num_requests=requests, num_clients=clients, prompt_words=words, max_tokens=tokens, as_json=json
    )
