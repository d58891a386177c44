"""A model of a hub: how large it is is asked before it is fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.flowserve.test_pull import REPO, Hub

SCRIPT = """
import sys
import deepserve

if __name__ == "__main__":
    answers = {
        deepserve.Model(f"model-{number}", source=source).generate("hi", max_tokens=5, temperature=0)
        for number, source in enumerate(sys.argv[1:])
    }
    print(len(answers))
"""


def test_a_model_is_fetched_when_it_is_first_asked(folder: Path, tmp_path: Path) -> None:
    hub = Hub(folder, num_breaks=0)
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    (tmp_path / "script.py").write_text(SCRIPT)
    try:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), REPO, str(folder)],
            env={**os.environ, **own}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        hub.shutdown()
        hub.server_close()
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert hub.num_sizes_asked == 1 and len([name for name, _ in hub.asked if name == "model.safetensors"]) == 1
