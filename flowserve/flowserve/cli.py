"""The command `flowserve`."""

from __future__ import annotations

import logging
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from .cost_commands import calibrate, fit_cost
from .errors import FlowServeError, InvalidConfigError
from .packages import require_packages
from .serve_command import serve
from .version import __version__

# Without rich, whose table cuts the names of options off where the terminal has 80 columns.
commands = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

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


commands.command()(serve)


@commands.command(short_help="Measure this machine, FlowServe and its peers.")
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
    require_packages("flowserve bench")
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


commands.command("fit-cost", short_help="Fit a cost model to a step log.")(fit_cost)
commands.command(short_help="Measure a model's steps and fit a cost model to them.")(calibrate)


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
