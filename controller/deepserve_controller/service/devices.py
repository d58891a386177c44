"""Which NPUs and GPUs this host has: read from /dev, /sys and /proc, and nothing is opened or asked.

`DEEPSERVE_DEVICES` says it instead, where DeepServe is to have other ones: `npu:910c:8`, several behind commas, or
`none`. `npu:910c:8@cpu` only pretends: pods hold them as if they were there, and models compute on the CPU, so that
placement can be tried without an NPU. The variables that hide devices from a process hide them here too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from glob import glob

from deepserve.protocol.specs import VISIBLE_DEVICES
from deepserve_controller.core.device import Device
from deepserve_controller.errors import ControllerError

DECLARATION = "DEEPSERVE_DEVICES"
_DECLARED = re.compile(r"(npu|gpu)(?::([A-Za-z0-9_.-]*))?(?::([1-9][0-9]*))?(?:@(cpu))?")
_HUAWEI = "0x19e5"
_NPU_MODELS = {"0xd801": "910", "0xd802": "910b", "0xd803": "910c", "0xd100": "310", "0xd500": "310p"}
"""By PCI device id, as Ascend's device plugin for Kubernetes has them."""


def host_devices(root: str = "/", environ: Mapping[str, str] = os.environ) -> tuple[Device, ...]:
    """`root`: where /dev, /sys and /proc are, for tests. Raises ControllerError for a malformed declaration."""
    if declared := environ.get(DECLARATION, ""):
        return tuple(_declared(declared))
    npus = [Device("npu", number, _npu_model(root)) for number in _numbers(root, "dev/davinci")]
    models = _gpu_models(root)
    gpus = [Device("gpu", number, models.get(number, "")) for number in _numbers(root, "dev/nvidia")]
    return (*_visible(npus, environ.get(VISIBLE_DEVICES["npu"])), *_visible(gpus, environ.get(VISIBLE_DEVICES["gpu"])))


def _declared(text: str) -> Iterator[Device]:
    counts: dict[str, int] = {}
    for part in [] if text == "none" else text.split(","):
        if (found := _DECLARED.fullmatch(part.strip())) is None:
            raise ControllerError(f"{DECLARATION}={text!r}: {part!r} is not kind[:model][:count], such as npu:910c:8")
        kind, model, count, engine = found.groups()
        for _ in range(int(count or 1)):
            yield Device(kind, str(counts.setdefault(kind, 0)), (model or "").lower(), engine or "")
            counts[kind] += 1


def _visible(devices: list[Device], listed: str | None) -> list[Device]:
    """Those that a variable lists, under the names it gives them; up to the first that is not there, as the drivers do
    it. A name that is no number (a GPU's UUID, a part of a GPU) is believed."""
    if listed is None:
        return devices
    by_id = {device.id: device for device in devices}
    found: list[Device] = []
    for name in filter(None, (part.strip() for part in listed.split(","))):
        if name not in by_id and (name.lstrip("-").isdigit() or not devices):
            break
        found.append(by_id.get(name) or Device(devices[0].kind, name, devices[0].model))
    return found


def _numbers(root: str, prefix: str) -> list[str]:
    """Of device files that are a prefix and a number, such as davinci0; not davinci_manager."""
    names = (os.path.basename(path) for path in glob(os.path.join(root, f"{prefix}[0-9]*")))
    numbers = (name.removeprefix(os.path.basename(prefix)) for name in names)
    return sorted((number for number in numbers if number.isdigit()), key=int)


def _npu_model(root: str) -> str:
    """Of the first one; a host's are all of one model."""
    for folder in sorted(glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        if _read(folder, "vendor") == _HUAWEI and (model := _NPU_MODELS.get(_read(folder, "device"))):
            return model
    return ""


def _gpu_models(root: str) -> dict[str, str]:
    """By the number in the device file's name: `NVIDIA H100 80GB HBM3` is h100-80gb-hbm3."""
    models = {}
    for folder in glob(os.path.join(root, "proc/driver/nvidia/gpus/*")):
        fields = dict(line.split(":", 1) for line in _read(folder, "information").splitlines() if ":" in line)
        words = fields.get("Model", "").lower().split()
        models[fields.get("Device Minor", "").strip()] = "-".join(word for word in words if word != "nvidia")
    return models


def _read(*path: str) -> str:
    try:
        with open(os.path.join(*path)) as file:
            return file.read().strip()
    except OSError:
        return ""
