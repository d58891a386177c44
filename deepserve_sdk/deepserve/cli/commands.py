"""The tree of commands; each command's work stands in its own file, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deepserve.cli.model_commands import model_commands
from deepserve.protocol.key_scopes import SCOPES

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Rest = Annotated[list[str] | None, typer.Argument(help="Arguments of the function or entry point.")]

root = typer.Typer(
    name="deepserve",
    help="Serverless functions, agents and language models on your own machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@root.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """Serverless functions, agents and language models on your own machine."""
    if version:
        from importlib.metadata import version as installed_version

        print(f"deepserve {installed_version('deepserve')}")
        raise SystemExit(0)


app_commands = typer.Typer(help="Deployed apps.", no_args_is_help=True)
root.add_typer(app_commands, name="app")

function_commands = typer.Typer(help="Deployed functions and their pods.", no_args_is_help=True)
root.add_typer(function_commands, name="function")
Target = Annotated[str, typer.Argument(help="APP/FUNCTION")]

root.add_typer(model_commands, name="model")

FORWARD: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def command_group() -> Any:
    """The click command that the console script runs."""
    return typer.main.get_command(root)


@root.command(context_settings=FORWARD)
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="app.py, or app.py::function")],
    arguments: Rest = None,
) -> int:
    """Run a file's entry point (or the file as a script), or one of its functions in a pod.

    The function's own --options follow the target; `deepserve run app.py::fn --help` shows them.
    """
    if target in ("--help", "-h"):
        print(context.get_help())
        return 0
    from deepserve.cli.run import run_target

    return run_target(target, arguments or [])


@root.command()
def deploy(
    file: Annotated[str, typer.Argument(help="app.py")],
    name: Annotated[str | None, typer.Option(help="Deploy under this name (only for a file with one app).")] = None,
    json: Json = False,
) -> int:
    """Put every app of a file on this user's controller, starting it when none runs."""
    from deepserve.cli.deploy import deploy_file

    return deploy_file(file, name=name, as_json=json)


@root.command()
def up(
    http_port: Annotated[int, typer.Option(help="Port of the HTTP API; 0 chooses a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Its address; others than this machine's own need TLS.")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (and its chain), a PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, a PEM file.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder that keeps deployed apps.")] = None,
    foreground: Annotated[bool, typer.Option(help="Stay attached and print the controller's log.")] = False,
    json: Json = False,
) -> int:
    """Start this user's controller, which outlives scripts."""
    from deepserve.cli.controller import HttpOptions, start

    options = HttpOptions(http_port, host, tls_cert, tls_key)
    return start(options, state=state, foreground=foreground, as_json=json)


@root.command()
def down(json: Json = False) -> int:
    """Stop this user's controller and everything that runs on it; deployed apps are kept for the next `up`."""
    from deepserve.cli.controller import stop

    return stop(as_json=json)


@root.command()
def status(json: Json = False) -> int:
    """What runs: the controller, its pods, its apps, the latest requests."""
    from deepserve.cli.status import show_status

    return show_status(as_json=json)


@root.command()
def call(
    target: Annotated[str, typer.Argument(help="APP/FUNCTION or APP/CLASS.METHOD")],
    arguments: Annotated[str, typer.Argument(help="JSON: an object of named arguments, or a list.")] = "{}",
    stream: Annotated[bool, typer.Option("--stream", help="Print items of a generator as they come.")] = False,
    detach: Annotated[bool, typer.Option("--async", help="Print the call's id and return at once.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait for the result.")] = None,
    json: Json = False,
) -> int:
    """Call a deployed function with JSON arguments."""
    from deepserve.cli.call import call_function

    return call_function(target, arguments, stream=stream, detach=detach, timeout_s=timeout, as_json=json)


@root.command()
def logs(
    target: Annotated[str, typer.Argument(help="APP, APP/FUNCTION or a pod's id")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what comes.")] = False,
    tail: Annotated[int, typer.Option(help="How many of the latest lines.")] = 200,
    json: Json = False,
) -> int:
    """What functions printed."""
    from deepserve.cli.logs import show_logs

    return show_logs(target, follow=follow, tail=tail, as_json=json)


@app_commands.command("list")
def app_list(json: Json = False) -> int:
    """Deployed apps and their functions."""
    from deepserve.cli.apps import list_apps

    return list_apps(as_json=json)


@app_commands.command("stop")
def app_stop(app: Annotated[str, typer.Argument(help="Name of the app")], json: Json = False) -> int:
    """Remove an app: its functions are no longer found, its pods end."""
    from deepserve.cli.apps import stop_app

    return stop_app(app, as_json=json)


@function_commands.command("list")
def function_list(
    app: Annotated[str | None, typer.Argument(help="Only of this app")] = None,
    json: Json = False,
) -> int:
    """Deployed functions, their pods and the bounds of these."""
    from deepserve.cli.functions import list_functions

    return list_functions(app, as_json=json)


@function_commands.command("info")
def function_info(target: Target, json: Json = False) -> int:
    """A function's options, its pods, and the last decisions about how many there are, with their reasons."""
    from deepserve.cli.functions import show_function

    return show_function(target, as_json=json)


@function_commands.command("scale")
def function_scale(
    target: Target,
    min_pods: Annotated[int | None, typer.Option("--min", help="Pods that are always there.")] = None,
    max_pods: Annotated[int | None, typer.Option("--max", help="At most so many; 0: the host's default.")] = None,
    buffer_pods: Annotated[int | None, typer.Option("--buffer", help="Idle pods beside the demand.")] = None,
    window: Annotated[float | None, typer.Option("--window", help="Seconds until an idle pod ends.")] = None,
    json: Json = False,
) -> int:
    """Change how many pods a function may have, until it is deployed again or stopped; a restart keeps it."""
    from deepserve.cli.functions import scale_function

    bounds = {"min_pods": min_pods, "max_pods": max_pods, "buffer_pods": buffer_pods, "scaledown_window_s": window}
    return scale_function(target, bounds, as_json=json)


@function_commands.command("schema")
def function_schema(target: Target, json: Json = False) -> int:
    """The JSON schema of a function's parameters."""
    from deepserve.cli.functions import show_schema

    return show_schema(target, as_json=json)


token_commands = typer.Typer(help="Keys of the OpenAI API.", no_args_is_help=True)
root.add_typer(token_commands, name="token")


@token_commands.command("new")
def token_new(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"What it may use: {', '.join(SCOPES)}; repeat for more.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use; repeat for more.")] = None,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    json: Json = False,
) -> int:
    """Make a key and print it; it is not shown again. Without scopes and models it may use all.

    Those who get it also need a base_url that stays: start the controller with `deepserve up --http-port N`.
    """
    from deepserve.cli.tokens import new_token

    return new_token(
        name,
        scopes=scope or [],
        models=model or [],
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        as_json=json,
    )


@token_commands.command("list")
def token_list(json: Json = False) -> int:
    """The keys there are, and what they may do."""
    from deepserve.cli.tokens import list_tokens

    return list_tokens(as_json=json)


@token_commands.command("revoke")
def token_revoke(
    key: Annotated[str, typer.Argument(help="Its id as `token list` shows it, or its name where no other has it.")],
    json: Json = False,
) -> int:
    """A key is not accepted any more, and what it runs ends."""
    from deepserve.cli.tokens import revoke_token

    return revoke_token(key, as_json=json)


@root.command()
def simulate(
    scenario: Annotated[str | None, typer.Argument(help="Its name; without one, the scenarios there are.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is left to chance.")] = 1,
    cost: Annotated[
        str, typer.Option(help="Of engines' steps in models-*: assumed, small, tiny, or a file of flowserve calibrate.")
    ] = "assumed",
    json: Json = False,
) -> int:
    """Run a scaling scenario in simulated time: the policy in use beside the baseline."""
    from deepserve.cli.simulate import run_simulation

    return run_simulation(scenario, seed=seed, cost=cost, as_json=json)


bench_commands = typer.Typer(
    help="Measure this machine: its limits, peers and DeepServe in one run.", no_args_is_help=True
)
root.add_typer(bench_commands, name="bench")


@bench_commands.command("calls")
def bench_calls(
    only: Annotated[str, typer.Option(help="Works, separated by commas: warm,map,values,fresh.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each figure, in alternating order.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One round of few calls, to see that it works.")] = False,
    peers: Annotated[bool, typer.Option("--peers", help="Also those that `make bench-peers` installed.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Where a warm call's time goes, instead.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report to this file as JSON, too.")] = None,
    json: Json = False,
) -> int:
    """Calls, maps, large values and fresh scripts."""
    from deepserve.cli.bench import run_calls

    return run_calls(
        only=only,
        rounds=rounds,
        is_quick=quick,
        with_peers=peers,
        with_profile=profile,
        output=output,
        as_json=json,
    )


@bench_commands.command("scale")
def bench_scale(
    only: Annotated[str, typer.Option(help="Which pods, separated by commas: plain,torch.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each figure, in alternating order.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One round of few pods, to see that it works.")] = False,
    peers: Annotated[bool, typer.Option("--peers", help="Also those that `make bench-peers` installed.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report to this file as JSON, too.")] = None,
    json: Json = False,
) -> int:
    """From one pod to 64, and what an idle pod takes of memory."""
    from deepserve.cli.bench import run_scale

    return run_scale(only=only, rounds=rounds, is_quick=quick, with_peers=peers, output=output, as_json=json)


@bench_commands.command("models")
def bench_models(
    only: Annotated[str, typer.Option(help="Works, separated by commas: executors,cold,weights,gateway.")] = "",
    rounds: Annotated[int, typer.Option(help="Samples of each figure, in alternating order.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One round of toy models, to see that it works.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report to this file as JSON, too.")] = None,
    json: Json = False,
) -> int:
    """Hosted models: from one executor to 64, a cold model's first token, its weights from a file, the gateway."""
    from deepserve.cli.bench import run_models

    return run_models(only=only, rounds=rounds, is_quick=quick, output=output, as_json=json)
