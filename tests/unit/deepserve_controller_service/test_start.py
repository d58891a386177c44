"""How the controller is started: the quick way of the SDK and the parsed one mean the same."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deepserve_controller import __main__ as entry
from deepserve_controller.__main__ import embedded_settings, first_templates, parse
from deepserve_controller.pod_providers.template_process import MAX_POD_ID_CHARS, POD_VARIABLE, TemplateProcess


def test_the_sdks_arguments_are_read_without_a_parser():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = ["--embedded", "--client-fd", str(ours.fileno())]
        assert embedded_settings(arguments) == parse(arguments)
        kept = [*arguments, "--state", "/tmp/s"]
        assert embedded_settings(kept) == parse(kept)
        for more in (["--environment", "flowserve"], ["--state", "/tmp/s", "--environment", "flowserve"]):
            begun = [*arguments, *more]
            assert embedded_settings(begun) == parse(begun)
        for others in (["--http-port", "80"], ["--state"], ["--state", "/tmp/s", "--state", "/tmp/t"]):
            assert embedded_settings([*arguments, *others]) is None  # the parser's
    assert embedded_settings(["--up"]) is None


def test_what_the_owner_calls_first_is_loaded_first(monkeypatch: pytest.MonkeyPatch):
    started: list[str] = []

    def start(environment: str) -> TemplateProcess:
        started.append(environment)
        return TemplateProcess(1, socket.socket())

    monkeypatch.setenv(POD_VARIABLE, "-" * MAX_POD_ID_CHARS)
    monkeypatch.setattr(entry, "fork_template", start)
    first_templates(["--embedded", "--client-fd", "3"])
    first_templates(["--embedded", "--client-fd", "3", "--environment", "flowserve"])
    first_templates(["--embedded", "--client-fd", "3", "--environment", "python"])
    assert started == ["python", "flowserve", "python", "python"]


def test_embedded_needs_an_inherited_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with open(tmp_path / "file", "w") as file:
        arguments = ["--embedded", "--client-fd", str(file.fileno())]
        assert embedded_settings(arguments) is None
        with pytest.raises(SystemExit):
            parse(arguments)
    assert "an inherited socket" in capsys.readouterr().err


def test_an_embedded_controller_loads_nothing_slow():
    code = """
import sys
import deepserve_controller.__main__, deepserve_controller.service.controller
slow = "asyncio inspect typing_extensions _hashlib ssl pathlib argparse subprocess uvicorn sqlalchemy".split()
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
