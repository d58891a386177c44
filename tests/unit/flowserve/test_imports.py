"""What importing costs, and what is exported."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import flowserve

LIGHT = [
    "flowserve",
    "flowserve.chat_template",
    "flowserve.config",
    "flowserve.cost_model",
    "flowserve.detokenizer",
    "flowserve.errors",
    "flowserve.hub",
    "flowserve.models.config",
    "flowserve.models.registry",
    "flowserve.outputs",
    "flowserve.rtc.blocks",
    "flowserve.rtc.cache",
    "flowserve.rtc.contexts",
    "flowserve.rtc.index",
    "flowserve.rtc.rules",
    "flowserve.sampling_params",
    "flowserve.scheduling",
    "flowserve.sequence",
    "flowserve.step_log",
    "flowserve.template_sources",
    "flowserve.tokenizer",
    "flowserve.tool_calls",
]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_tokenizer_pod_needs_no_torch() -> None:
    """Nor numpy, transformers or llguidance: the modules a pod without the engine imports are light."""
    imports = "; ".join(f"import {name}" for name in LIGHT)
    code = f"import sys; {imports}; import flowserve as f; f.SamplingParams(); f.EngineConfig()"
    heavy = "'torch', 'numpy', 'transformers', 'llguidance', 'huggingface_hub'"
    assert python(f"{code}; print([m for m in ({heavy}) if m in sys.modules])") == "[]"


def test_whoever_serves_prompts_of_others_needs_no_template_engine() -> None:
    code = "import sys, flowserve.engine, flowserve.template_sources, flowserve.server.served_model"
    assert python(f"{code}; print('jinja2' in sys.modules)") == "False"


def test_importing_the_engine_starts_no_threads() -> None:
    """A template imports the engine and forks; a thread pool would not survive that."""
    code = "import flowserve.engine, flowserve.llm, os; print(len(os.listdir('/proc/self/task')))"
    assert python(code) == python("import torch, os; print(len(os.listdir('/proc/self/task')))")


@pytest.mark.parametrize("name", flowserve.__all__)
def test_exported_names_exist(name: str) -> None:
    assert getattr(flowserve, name) is getattr(import_module(f"flowserve.{flowserve._HOMES[name]}"), name)
    assert name in dir(flowserve)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        flowserve.Nonsense  # noqa: B018
