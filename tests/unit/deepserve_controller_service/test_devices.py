"""What is found of NPUs and GPUs in /dev, /sys, /proc and the environment of a host that is pretended."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepserve_controller.core.device import Device
from deepserve_controller.errors import ControllerError
from deepserve_controller.service.devices import host_devices


def ascend(root: Path, count: int = 8) -> Path:
    (root / "dev").mkdir(exist_ok=True)
    for name in [*(f"davinci{number}" for number in range(count)), "davinci_manager"]:
        (root / "dev" / name).touch()
    for address, vendor, device in (("0000:01:00.0", "0x8086", "0x1234"), ("0000:c1:00.0", "0x19e5", "0xd803")):
        folder = root / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "device").write_text(device + "\n")
    return root


def cuda(root: Path) -> Path:
    (root / "dev").mkdir(exist_ok=True)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    for minor, name in enumerate(("NVIDIA H100 80GB HBM3", "NVIDIA H200")):
        folder = root / f"proc/driver/nvidia/gpus/0000:{minor}"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ: 7\nDevice Minor: \t {minor}\n")
    return root


def test_a_host_without_any(tmp_path: Path) -> None:
    assert host_devices(str(tmp_path), {}) == ()
    assert host_devices(str(tmp_path), {"CUDA_VISIBLE_DEVICES": "0,1"}) == ()


def test_npus(tmp_path: Path) -> None:
    found = host_devices(str(ascend(tmp_path, 12)), {})
    assert found == tuple(Device("npu", str(number), "910c") for number in range(12))
    some = host_devices(str(tmp_path), {"ASCEND_RT_VISIBLE_DEVICES": "3, 1,99,2"})
    assert [device.id for device in some] == ["3", "1"], "up to the first that is not there"
    assert host_devices(str(tmp_path), {"ASCEND_RT_VISIBLE_DEVICES": ""}) == ()


def test_gpus(tmp_path: Path) -> None:
    assert host_devices(str(cuda(tmp_path)), {}) == (
        Device("gpu", "0", "h100-80gb-hbm3"),
        Device("gpu", "1", "h200"),
    )
    assert host_devices(str(tmp_path), {"CUDA_VISIBLE_DEVICES": "-1"}) == ()
    assert [each.id for each in host_devices(str(tmp_path), {"CUDA_VISIBLE_DEVICES": "1"})] == ["1"]
    [named] = host_devices(str(tmp_path), {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"})
    assert (named.kind, named.id) == ("gpu", "GPU-8932f937")


def test_what_is_declared_counts(tmp_path: Path) -> None:
    root = str(cuda(ascend(tmp_path)))
    found = host_devices(root, {"DEEPSERVE_DEVICES": "npu:910C:2, npu::1,gpu"})
    assert found == (Device("npu", "0", "910c"), Device("npu", "1", "910c"), Device("npu", "2"), Device("gpu", "0"))
    assert host_devices(root, {"DEEPSERVE_DEVICES": "none"}) == ()
    pretended = host_devices(root, {"DEEPSERVE_DEVICES": "npu:910b@cpu,npu:910c:2"})
    assert [(device.id, device.engine) for device in pretended] == [("0", "cpu"), ("1", ""), ("2", "")]
    with pytest.raises(ControllerError, match="'npu@gpu' is not kind"):
        host_devices(root, {"DEEPSERVE_DEVICES": "npu@gpu"})
    with pytest.raises(ControllerError, match=r"DEEPSERVE_DEVICES='npu:910c:8,tpu': 'tpu' is not kind"):
        host_devices(root, {"DEEPSERVE_DEVICES": "npu:910c:8,tpu"})
