"""What `deepserve model info` says of a start, and what `deepserve model deploy` takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from deepserve._model import Model
from deepserve.cli.model_commands import model_deploy
from deepserve.cli.model_info import entries_of, startup_in_words, template_in_words
from deepserve.cli.output import print_entry
from deepserve.protocol.scaling_steps import SCALING_STEPS


@pytest.mark.parametrize(
    ("startup", "text"),
    [
        (None, "in a time that its first start will show"),
        (
            {
                "seconds": 0.3,
                "source": "host memory",
                "by_source_s": {"host memory": 0.3, "file": 1.2345},
                "is_observed": True,
            },
            "in about 0.3 s (from host memory), 1.2 s from its file",
        ),
        (
            {
                "seconds": 0.02,
                "source": "fork",
                "by_source_s": {"fork": 0.02, "host memory": 0.3, "file": 12.4},
                "is_observed": True,
            },
            "in about 0.02 s (as a fork of its template), 0.3 s from host memory, 12 s from its file",
        ),
        (
            {
                "seconds": 145.2,
                "source": "file",
                "by_source_s": {"host memory": 0.3, "file": 145.2},
                "is_observed": True,
            },
            "in about 145 s (from its file), 0.3 s from host memory",
        ),
        (
            {"seconds": 1.0, "source": "file", "by_source_s": {"file": 1.0}, "is_observed": False},
            "in a time that its first start will show, 1 s at least (from its file)",
        ),
    ],
)
def test_a_start_in_words(startup: dict[str, Any] | None, text: str) -> None:
    assert startup_in_words(startup) == text


TEMPLATE = {
    "template_id": "template-1-7f3a", "pid": 12, "state": "loading", "age_s": 42.4,
    "latest_line": "compiling the kernels", "source": "", "source_reason": "",
}  # fmt: skip


def test_a_template_that_loads_says_for_how_long_and_what_it_does() -> None:
    assert template_in_words(TEMPLATE) == "template-1-7f3a (pid 12), loading for 42 s: compiling the kernels"
    assert template_in_words({**TEMPLATE, "latest_line": ""}) == "template-1-7f3a (pid 12), loading for 42 s"
    ready = {**TEMPLATE, "state": "ready", "source": "host memory", "source_reason": "a flat file is there"}
    assert template_in_words(ready) == "template-1-7f3a (pid 12), ready: host memory (a flat file is there)"


FOUND = {
    "app": "model-small", "function_id": "fn-0123456789abcdef", "model": {"source": "weights/small"},
    "accelerators": ["cpu"], "memory_mib": 0, "queued": 0, "running": 0, "reason": "0 queued + 6 running tasks",
    "settings": {"min_pods": 0, "max_pods": 8, "buffer_pods": 0, "scaledown_window_s": 60.0}, "reason_age_s": 31.7,
    "memory": {"pod_mib": 300, "kv_mib": 512, "least_kv_mib": 64, "weights_mib": 40}, "broken_because": "",
    "startup": None, "templates": [TEMPLATE],
    "pods": [{
        "pod_id": "pod-12-3456789abcdef0", "pid": 77, "state": "bound", "is_asleep": False, "is_busy": True,
        "memory_mib": 1812, "kv_mib": 512, "pinned_blocks": 3, "source": "fork",
        "source_reason": "its template holds the weights", "steps_ms": dict.fromkeys(SCALING_STEPS, 1234.0),
    }],
    "routes": [{
        "at": 0.0, "request_id": "rq-0123456789abcdef-000001", "pod_id": "pod-12-3456789abcdef0",
        "reason": "the least work before it: 0 blocks, of which 12 are preserved there",
    }],
    "decisions": [{
        "at": 0.0, "from_pods": 0, "to_pods": 1, "reason": "1 queued + 0 running tasks", "ready": 0, "starting": 1,
        "draining": 0, "queued": 1, "running": 0,
    }],
}  # fmt: skip


def test_no_id_and_no_step_is_cut_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = entries_of("small", FOUND)
    for entry, depth in entries:
        print_entry(entry, depth=depth)
    piped = capsys.readouterr().out
    assert piped.splitlines() == ["  " * depth + entry for entry, depth in entries], "one line each in a pipe"
    assert "because   0 queued + 6 running tasks (decided 32 s ago)" in piped

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for entry, depth in entries:
        print_entry(entry, depth=depth)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and shown.split() == piped.split()
    whole = {"pod-12-3456789abcdef0", "pod-12-3456789abcdef0:", "rq-0123456789abcdef-000001", *SCALING_STEPS}
    assert whole <= set(shown.split())


def test_deploy_takes_what_a_model_takes() -> None:
    named = (p.name for p in inspect.signature(Model).parameters.values() if p.kind is not p.VAR_KEYWORD)
    options = {"window" if name == "scaledown_window" else name for name in named}
    assert options - set(inspect.signature(model_deploy).parameters) == {"tensor_parallel"}, "of which there is only 1"
