"""What a host's memory is taken to be: the machine's, or the least that a control group above leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve_controller.errors import ControllerError
from deepserve_controller.service.host_memory import usable_memory_mib

GIB = 1 << 30


def host(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MACHINE = {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree: 1 kB\n"}
V2 = {**MACHINE, "proc/self/cgroup": "0::/user.slice/job\n"}
V1 = {**MACHINE, "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n"}


@pytest.mark.parametrize(
    ("files", "limit_bytes"),
    [
        (MACHINE, 8 * GIB),
        (V2, 8 * GIB),
        ({**V2, "sys/fs/cgroup/user.slice/job/memory.max": "max\n"}, 8 * GIB),
        ({**V2, "sys/fs/cgroup/user.slice/job/memory.max": f"{GIB}\n"}, GIB),
        ({**V2, "sys/fs/cgroup/user.slice/memory.max": f"{2 * GIB}\n"}, 2 * GIB),  # of the group above
        ({**V2, "sys/fs/cgroup/memory.max": f"{3 * GIB}\n"}, 3 * GIB),  # a container sees its own as the root
        ({**V2, "sys/fs/cgroup/user.slice/job/memory.max": f"{99 * GIB}\n"}, 8 * GIB),
        ({**V1, "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
        ({}, 0),  # nothing is known: no bound
    ],
)
def test_nine_tenths_of_the_least_limit(tmp_path: Path, files: dict[str, str], limit_bytes: int) -> None:
    assert usable_memory_mib(host(tmp_path, files), {}) == limit_bytes * 90 // 100 >> 20


def test_it_can_be_declared(tmp_path: Path) -> None:
    root = host(tmp_path, MACHINE)
    assert usable_memory_mib(root, {"DEEPSERVE_HOST_MEMORY": "700"}) == 700
    for text in ("much", "0", "-1", "1.5"):
        with pytest.raises(ControllerError, match=f"DEEPSERVE_HOST_MEMORY='{text}' is no number of MiB"):
            usable_memory_mib(root, {"DEEPSERVE_HOST_MEMORY": text})


def test_this_host_has_some() -> None:
    assert usable_memory_mib() > 0
