"""Compiling the kernels: once per machine, sources and compiler; every later process loads the cached library."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...cache_folder import cache_folder
from ...errors import KernelsUnavailableError

SOURCES = Path(__file__).parent / "csrc"
MAIN = "decoder.cpp"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
    "-pthread",
)

_logger = logging.getLogger("flowserve")


def built_library() -> Path:
    """The compiled library, compiled now (10 to 20 seconds) if the cache does not have it.

    Raises KernelsUnavailableError: no Linux, no C++ compiler, a failed compilation, a cache that cannot be written.
    """
    if platform.system() != "Linux":
        raise KernelsUnavailableError(f"the CPU kernels need Linux, this is {platform.system()}")
    compiler = find_compiler()
    folder = cache_folder() / "kernels"
    target = folder / f"flowserve-{_fingerprint(compiler)}.so"
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as build:
            product = Path(build) / target.name
            _logger.warning("compiling the CPU kernels with %s: once on this machine, up to a minute", compiler)
            compile_library(compiler, product)
            product.replace(target)  # atomic: two processes that compile at once both leave a whole file
    except OSError as error:
        raise KernelsUnavailableError(f"the CPU kernels cannot be kept in {folder}: {error}") from error
    return target


def compile_library(compiler: str, product: Path, flags: tuple[str, ...] = FLAGS) -> None:
    """Raises KernelsUnavailableError with the compiler's first words."""
    command = [compiler, *flags, str(SOURCES / MAIN), "-o", str(product)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailableError(f"{compiler} could not compile the CPU kernels: {error}") from error
    if done.returncode != 0:
        words = done.stderr.strip()[:500] or f"exit status {done.returncode}"
        raise KernelsUnavailableError(f"{compiler} could not compile the CPU kernels: {words}")


def find_compiler() -> str:
    """$CXX, or the first C++ compiler on the path. Raises KernelsUnavailableError."""
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "clang++", "c++"]:
        if found := shutil.which(name):
            return found
    raise KernelsUnavailableError(f"no C++ compiler ({named or 'g++, clang++ or c++'}) for the CPU kernels")


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on: sources, flags, compiler and the processor's instructions."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    # The compiler's file stands for its version: asking it would cost every start a process.
    compiler_file = Path(compiler).resolve()
    status = compiler_file.stat()
    digest.update(repr((FLAGS, str(compiler_file), status.st_size, status.st_mtime_ns, _instructions())).encode())
    return digest.hexdigest()[:16]


def _instructions() -> str:
    """The processor's model and features, as the kernel lists them for its first core."""
    wanted = ("model name", "flags", "Features", "CPU part")
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))
