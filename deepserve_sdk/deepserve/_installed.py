"""Which modules every pod has without their being shipped."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import lru_cache

OWN_PACKAGES = ("deepserve", "deepserve_controller", "deepserve_runtime", "flowserve", "deepserve_http")


def is_installed(module_name: str) -> bool:
    """Found in every pod without being shipped: the standard library, site-packages, DeepServe itself."""
    if module_name.partition(".")[0] in OWN_PACKAGES:
        return True
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return file is None and module_name != "__main__" or file is not None and is_installed_file(os.path.abspath(file))


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({spelled + os.sep for folder in folders for spelled in (folder, os.path.realpath(folder))})


def is_installed_file(file: str) -> bool:
    return (
        f"{os.sep}site-packages{os.sep}" in file
        or f"{os.sep}dist-packages{os.sep}" in file
        or file.startswith(_installed_folders())
    )
