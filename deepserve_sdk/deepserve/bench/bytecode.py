"""What starts take depends on whether modules are read as bytecode or compiled: measured is the former."""

from __future__ import annotations

import compileall
import os
from collections.abc import Iterable
from importlib.util import find_spec

PACKAGES = ("deepserve", "deepserve_controller", "deepserve_runtime", "flowserve")


def compile_packages(names: Iterable[str] = PACKAGES) -> None:
    """Write the bytecode of all their modules beside them, as installing them with pip does: an editable install has
    it only of what was imported before, and none where PYTHONDONTWRITEBYTECODE is set. What is up to date stays; where
    nothing can be written, nothing is."""
    for name in names:
        spec = find_spec(name)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            compileall.compile_dir(os.path.realpath(folder), quiet=2)
