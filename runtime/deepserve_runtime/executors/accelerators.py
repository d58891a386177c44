"""From the accelerators that a user prefers to a device of the engine."""

from __future__ import annotations

from deepserve_runtime.executors.flowserve_parts import DEVICES, InvalidConfigError


def device_of(accelerators: tuple[str, ...]) -> str:
    """The first that the engine has, of `kind[:model][:count]` in order of preference. Raises InvalidConfigError."""
    for accelerator in accelerators:
        if (kind := accelerator.partition(":")[0]) in DEVICES:
            return kind
    if accelerators:
        raise InvalidConfigError(f"accelerator {', '.join(accelerators)} is not supported; supported: cpu")
    return "auto"
