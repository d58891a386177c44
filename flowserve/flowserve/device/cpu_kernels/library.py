"""KernelLibrary: the compiled kernels as Python calls them. The structures mirror those of csrc/decoder.h."""

from __future__ import annotations

import ctypes
import logging
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path

from ...errors import KernelsUnavailableError
from .build import built_library

_logger = logging.getLogger("flowserve")


class Kind(IntEnum):
    """How the values of a packed matrix are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    INT4 = 3
    FLOAT16 = 4


class Matrix(Structure):
    """[n outputs, k inputs], packed; bias: n float32 or None."""

    _fields_ = [("kind", c_int32), ("n", c_int32), ("k", c_int32), ("data", c_void_p), ("bias", c_void_p)]


class LayerWeights(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("qkv", Matrix),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("output", Matrix),
        ("mlp_norm", c_void_p),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("window", c_int32),
        ("reserved", c_int32),
    ]


class CacheShape(Structure):
    _fields_ = [(name, c_int32) for name in ("num_layers", "kv_heads", "head_dim", "block_size", "int8")]


class DecoderSpec(Structure):
    _fields_ = [
        *[
            (name, c_int32)
            for name in ("hidden", "num_heads", "kv_heads", "head_dim", "intermediate", "vocab", "num_layers")
        ],
        *[(name, c_int32) for name in ("rotary_dim", "max_tokens", "max_logits", "num_threads", "parts_there")],
        ("eps", c_float),
        ("scale", c_float),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("embedding", Matrix),
        ("head", Matrix),
        ("final_norm", c_void_p),
        ("layers", POINTER(LayerWeights)),
        ("cache", CacheShape),
        ("cache_data", c_void_p),
    ]


class StepArrays(Structure):
    _fields_ = [
        *[(name, c_int32) for name in ("num_tokens", "num_sequences", "num_logits", "reserved")],
        *[(name, c_void_p) for name in ("token_ids", "positions", "query_starts", "tables", "table_starts")],
        ("logit_rows", c_void_p),
        ("logits", c_void_p),
        ("hidden", c_void_p),
        ("best", c_void_p),
    ]


class KernelLibrary:
    """One loaded library. instructions: what it was compiled for; unit: inputs that lie together in integer panels."""

    def __init__(self, path: Path) -> None:
        try:
            self.c = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelsUnavailableError(f"the compiled CPU kernels cannot be loaded: {error}") from error
        described = (c_int32 * 8)()
        self.c.fs_describe(described)
        self.lanes, self.unit, self.group = described[0], described[1], described[2]
        sizes = [ctypes.sizeof(kind) for kind in (Matrix, LayerWeights, DecoderSpec, StepArrays, CacheShape)]
        if list(described[3:]) != sizes:
            raise KernelsUnavailableError(f"{path} has structures of {list(described[3:])} bytes, expected {sizes}")
        self.c.fs_instructions.restype = c_char_p
        self.instructions = self.c.fs_instructions().decode()
        for name, result, arguments in _SIGNATURES:
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def matrix_bytes(self, kind: Kind, n: int, k: int) -> int:
        return int(self.c.fs_panel_bytes(kind, k)) * -(-n // self.lanes)


_SIGNATURES = (
    ("fs_panel_bytes", c_int64, [c_int32, c_int32]),
    ("fs_block_bytes", c_int64, [POINTER(CacheShape)]),
    ("fs_pack", c_int64, [c_int32, c_void_p, c_int64, c_int32, c_void_p]),
    ("fs_unpack_row", None, [POINTER(Matrix), c_int32, c_void_p]),
    ("fs_multiply", None, [POINTER(Matrix), c_void_p, c_int32, c_void_p]),
    ("fs_decoder_create", c_void_p, [POINTER(DecoderSpec)]),
    ("fs_decoder_destroy", None, [c_void_p]),
    ("fs_decoder_note_parts", None, [c_void_p, c_int32]),
    ("fs_decoder_step", c_int32, [c_void_p, POINTER(StepArrays)]),
)


@cache
def kernel_library() -> KernelLibrary:
    """The library of this machine, compiled if need be. Raises KernelsUnavailableError."""
    path = built_library()
    try:
        return KernelLibrary(path)
    except KernelsUnavailableError as error:
        _logger.warning("compiling the CPU kernels anew: %s", error)
        path.unlink(missing_ok=True)
    return KernelLibrary(built_library())
