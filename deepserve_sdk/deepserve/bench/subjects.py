"""Who is measured by `deepserve bench calls`: scripts, each run by the Python that has what it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OURS = "DeepServe"
LIMIT = "limit: "
PEER_ENVIRONMENTS = Path(".bench-peers")
"""Made by `make bench-peers`."""


@dataclass(frozen=True)
class Subject:
    """`script`: in the folder `scripts`, or in `fresh` (a script from its start to its first result).

    environment: of a peer, whose name it is under PEER_ENVIRONMENTS; empty for this Python.
    """

    who: str
    script: str
    environment: str = ""
    needs_up: bool = False

    def python(self, environments: Path) -> str:
        inside = environments.absolute() / self.environment / "bin" / "python"
        return str(inside) if self.environment else sys.executable


STANDING = (
    Subject("limits", "on_limits.py"),
    Subject(OURS, "on_deepserve.py"),
    Subject("ProcessPoolExecutor", "on_pool.py"),
    Subject("loky", "on_loky.py", "pool"),
    Subject("Ray", "on_ray.py", "ray"),
    Subject("Dask", "on_dask.py", "dask"),
)
FRESH = (
    Subject("limit: bare Python", "bare.py"),
    Subject("limit: a fork", "fork.py"),
    Subject("limit: one more Python", "one_more.py"),
    Subject(OURS, "first_call.py"),
    Subject(f"{OURS}, `up` running", "first_call.py", needs_up=True),
    Subject("ProcessPoolExecutor", "pool_call.py"),
    Subject("loky", "loky_call.py", "pool"),
    Subject("Ray", "ray_call.py", "ray"),
    Subject("Dask", "dask_call.py", "dask"),
)


def chosen(subjects: tuple[Subject, ...], environments: Path | None) -> Iterator[Subject]:
    """Without the peers whose environment is not wanted (None) or not there."""
    for subject in subjects:
        if not subject.environment or (environments and Path(subject.python(environments)).exists()):
            yield subject


def missing(environments: Path) -> list[str]:
    """Environments that nobody has made."""
    names = dict.fromkeys(subject.environment for subject in STANDING if subject.environment)
    return [name for name in names if not (environments / name / ".installed").exists()]
