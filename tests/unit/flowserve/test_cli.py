"""The command line as its help shows it, and what its options are to an engine."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
import typer.main
from typer.testing import CliRunner

from flowserve.cli import commands
from flowserve.config import EngineConfig
from flowserve.cost_commands import calibrate
from flowserve.serve_command import serve

COMMANDS = ("serve", "bench", "pull", "fit-cost", "calibrate")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_readable_at_80_columns(name: str) -> None:
    """Whole: a name that is cut off cannot be typed."""
    shown = CliRunner().invoke(commands, [name, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    command = typer.main.get_group(commands).commands[name]
    options = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
    assert len(options) > 1
    for option in options:
        assert option.startswith("--") is False or option in shown.replace(",", " ").split()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80


def test_all_commands_are_listed_whole() -> None:
    shown = CliRunner().invoke(commands, ["--help"], env={"COLUMNS": "80"}).output
    assert all(f"  {name} " in shown for name in COMMANDS) and "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("command", [serve, calibrate])
def test_options_have_the_engine_s_defaults(command: object) -> None:
    """They reach the engine by their names."""
    given = inspect.signature(command).parameters  # type: ignore[arg-type]
    shared = [field for field in fields(EngineConfig) if field.name in given]
    assert len(shared) >= 8
    for field in shared:
        assert given[field.name].default == field.default, field.name


def test_the_kv_cache_by_the_names_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("flowserve.serve_command._serve", given.update)
    words = ["--kv-cache-memory-bytes", "5", "--num-gpu-blocks-override", "7", "--memory-bytes", "9"]
    assert CliRunner().invoke(commands, ["serve", "folder", *words]).exit_code == 0
    assert (given["kv_cache_bytes"], given["num_kv_blocks"], given["memory_bytes"]) == (5, 7, 9)
