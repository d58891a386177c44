"""Two models on a host that has memory for one: the idle one sleeps, and its next request wakes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deepserve_controller.service.host_memory import usable_memory_mib

APP = Path(__file__).parent / "sharing_app.py"


def test_models_take_turns(folder: Path) -> None:
    memory_mib = usable_memory_mib() * 6 // 10
    done = subprocess.run(
        [sys.executable, str(APP), str(folder), str(memory_mib)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "took turns\n"), done.stderr
