"""Kernels for other processors than the one that runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowserve.device.cpu_kernels.build import FLAGS, compile_library, find_compiler
from flowserve.device.cpu_kernels.library import KernelLibrary

_EMULATED = Path(__file__).parent / "emulated"
_AVX512 = (f"-I{_EMULATED}", "-D__AVX512F__", "-D__AVX512BW__", "-D__AVX512VL__")
_VNNI = (*_AVX512, "-D__AVX512VNNI__")
_AMX = (*_VNNI, "-D__AMX_INT8__", "-D__AMX_BF16__", "-DFS_EMULATED")
OTHERS = {"generic": (), "avx512": _AVX512, "avx512-vnni": _VNNI, "amx": _AMX}
"""Kernels for other processors than this one: without vector instructions of their own, and for those that the tests
emulate in plain C++."""


@pytest.fixture(scope="session", params=OTHERS)
def other_library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    product = tmp_path_factory.mktemp("kernels") / f"{request.param}.so"
    flags = tuple("-O0" if flag == "-O3" else flag for flag in FLAGS if not flag.startswith("-march"))
    compile_library(find_compiler(), product, (*flags, *OTHERS[request.param]))
    library = KernelLibrary(product)
    assert library.instructions == request.param
    return library
