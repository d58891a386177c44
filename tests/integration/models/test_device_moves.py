"""A model gets the device that another one's running stream holds: the stream moves to another device first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.tiny_models import make_model

APP = Path(__file__).parent / "moving_app.py"


def test_a_stream_moves_away_for_another_model(tmp_path: Path) -> None:
    """And what becomes of a stream, and of the pods, when the controller is killed."""
    folder = make_model(tmp_path / "wide", "qwen3", max_position_embeddings=2048)
    environment = {**os.environ, "DEEPSERVE_DEVICES": "npu:910c@cpu,npu:910b@cpu"}
    done = subprocess.run(
        [sys.executable, str(APP), str(folder)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    says = r"for pod-\d+, which gives its devices to \w+/fast: ready in [\d.]+ s on npu:910c: pod-\d+ moves to npu:910b"
    reason, lost = done.stdout.splitlines()
    assert re.match(says, reason) and lost == "told, and no pod is left", done.stdout
