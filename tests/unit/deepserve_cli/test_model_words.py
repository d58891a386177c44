"""What `deepserve model info` says of a start, and what `deepserve model deploy` takes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from deepserve._model import Model
from deepserve.cli.model_commands import model_deploy
from deepserve.cli.models import startup_in_words


@pytest.mark.parametrize(
    ("startup", "text"),
    [
        (None, "in a time that its first start will show"),
        (
            {"seconds": 0.3, "source": "host memory", "by_source_s": {"host memory": 0.3, "file": 1.2345}},
            "in about 0.3 s (from host memory), 1.2 s from its file",
        ),
        (
            {"seconds": 0.02, "source": "fork", "by_source_s": {"fork": 0.02, "host memory": 0.3, "file": 12.4}},
            "in about 0.02 s (as a fork of its template), 0.3 s from host memory, 12 s from its file",
        ),
        (
            {"seconds": 145.2, "source": "file", "by_source_s": {"host memory": 0.3, "file": 145.2}},
            "in about 145 s (from its file), 0.3 s from host memory",
        ),
    ],
)
def test_a_start_in_words(startup: dict[str, Any] | None, text: str) -> None:
    assert startup_in_words(startup) == text


def test_deploy_takes_what_a_model_takes() -> None:
    named = (p.name for p in inspect.signature(Model).parameters.values() if p.kind is not p.VAR_KEYWORD)
    options = {"window" if name == "scaledown_window" else name for name in named}
    assert options - set(inspect.signature(model_deploy).parameters) == {"tensor_parallel"}, "of which there is only 1"
