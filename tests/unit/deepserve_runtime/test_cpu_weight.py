"""`cpu=` weighs a pod against others, by the kernel's own scale."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deepserve_runtime.cpu_weight import DEFAULT_CPU, nice_value


@pytest.mark.parametrize(
    ("cpu", "nice"), [(DEFAULT_CPU, 0), (DEFAULT_CPU / 1.25, 1), (DEFAULT_CPU / 2, 3), (1, -9), (1e-9, 19), (1e9, -20)]
)
def test_the_weight_is_the_kernels(cpu: float, nice: int) -> None:
    assert nice_value(cpu) == nice


def test_a_light_pod_and_its_children_are_nice() -> None:
    script = (
        "import os, subprocess, threading\n"
        "os.setpgid(0, 0)\n"
        "from deepserve_runtime.cpu_weight import weigh\n"
        "weigh(0.05)\n"
        "print(os.nice(0), subprocess.check_output(['nice'], text=True).strip())\n"
    )
    printed = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert [int(value) for value in printed] == [min(19, os.nice(0) + 4)] * 2
