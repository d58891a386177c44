"""Which device an engine runs on."""

from __future__ import annotations

from ..errors import InvalidConfigError
from .base import DeviceAdapter


def select_device(name: str = "auto") -> DeviceAdapter:
    """The adapter for "auto" or a device's name; builds nothing on the device yet."""
    if name in ("auto", "cpu"):
        from .cpu import CpuDevice

        return CpuDevice()
    raise InvalidConfigError(f"device {name!r} is not supported; supported: auto, cpu")
