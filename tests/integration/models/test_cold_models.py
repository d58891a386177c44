"""Executors of a large model that is not in memory serve while it is read, and are replaced where it cannot be."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve.errors import ModelLoadError
from deepserve.protocol.specs import function_id
from deepserve_controller.core.startup_book import DISK_BYTES_PER_S
from flowserve import LLM, SamplingParams
from flowserve.loading.residency import IN_MEMORY_SHARE, resident_share
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of more than 64 MiB, from where on a file is read ahead of its mapping."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    return make_model(tmp_path_factory.mktemp("large") / "large", "qwen3", **sizes)


@pytest.fixture(scope="module")
def expected(large: Path) -> str:
    llm = LLM(large, num_threads=1)
    [output] = llm.generate(["The quick"], SamplingParams(temperature=0, max_tokens=8))
    return output.outputs[0].text


@pytest.fixture
def flat(large: Path, expected: str) -> Path:
    """The converted weights."""
    place = f"{large.name}-{hashlib.sha256(str(large.resolve()).encode()).hexdigest()[:12]}"
    [path] = (Path(os.environ["FLOWSERVE_CACHE"]) / "weights" / place).glob("*.flat")
    assert path.stat().st_size > 64 * 2**20
    return path


def evict(path: Path) -> None:
    """It is not in memory then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_share(path) >= IN_MEMORY_SHARE:
        pytest.skip("this file system keeps its files in memory")


def ask(llm: deepserve.Model) -> str:
    return llm.generate("The quick", max_tokens=8, temperature=0)


def entries(llm: deepserve.Model, kind: str = "pods") -> list[dict[str, Any]]:
    model = function_id(llm.spec)
    return [each for each in current_client().query("status")[kind] if each["function_id"] == model]


def test_the_first_executor_reads_what_its_template_maps(large: Path, expected: str, flat: Path) -> None:
    evict(flat)
    llm = deepserve.Model("cold", source=large)
    assert ask(llm) == expected
    [template], [pod] = entries(llm, "templates"), entries(llm)
    assert template["source"] == "file" and "of the converted weights were in memory" in template["source_reason"]
    assert pod["source"] == "fork"
    assert pod["source_reason"].endswith("not in memory; later layers are read while it serves")
    assert ask(llm) == expected
    startup = current_client().query("function", {"function_id": function_id(llm.spec)})["startup"]
    fork_s, memory_s, file_s = (startup["by_source_s"][source] for source in ("fork", "host memory", "file"))
    assert startup["source"] == "fork" and startup["seconds"] == fork_s < memory_s < file_s
    size_bytes = startup["weights_bytes"]
    assert size_bytes == flat.stat().st_size and file_s - memory_s != pytest.approx(size_bytes / DISK_BYTES_PER_S)


def test_weights_that_break_on_the_way_are_an_error_and_the_next_request_is_served(
    large: Path, expected: str, flat: Path
) -> None:
    whole = flat.read_bytes()
    kept = len(whole) // 4 * 3
    damaged = flat.with_suffix(".partial-1")  # another file: what is mapped, as by the model above, stays in memory
    damaged.write_bytes(whole[:kept] + bytes(len(whole) - kept))  # the last layers are lost
    evict(damaged)
    damaged.replace(flat)
    llm = deepserve.Model("broken", source=large)
    with pytest.raises(ModelLoadError, match=r"its weights did not come: .*is damaged; it is made anew"):
        ask(llm)
    assert ask(llm) == expected
    [pod] = [pod for pod in entries(llm) if pod["state"] == "bound"]
    assert pod["source"] == "conversion" and "were replaced before they were read" in pod["source_reason"]
    assert flat.read_bytes() == whole


FIRST_CALL = """
import sys
from pathlib import Path

import deepserve
from deepserve._current_client import current_client

if __name__ == "__main__":
    deepserve.Model("first", source=sys.argv[1]).generate("a", max_tokens=1)
    [template] = current_client().query("status")["templates"]
    environment = Path(f"/proc/{template['pid']}/stat").read_text().rpartition(")")[2].split()[1]
    print(Path(f"/proc/{environment}/cmdline").read_text().replace("\\0", " "))
"""


def test_a_script_whose_first_call_is_a_models_begins_with_the_engine(large: Path, tmp_path: Path) -> None:
    """Its environment is a fork of the controller that has hardly begun: an interpreter of its own would come later."""
    script = tmp_path / "first.py"
    script.write_text(FIRST_CALL)
    environment = {**os.environ, "DEEPSERVE_QUIET": "1", "DEEPSERVE_URL": "embedded"}
    command = [sys.executable, str(script), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "deepserve_controller --embedded" in done.stdout and "--environment flowserve" in done.stdout
