"""The SDK and the controller do not import each other, but must look for the same folders."""

from __future__ import annotations

import pytest

from deepserve import settings as sdk
from deepserve_controller import settings as controller


@pytest.mark.parametrize("value", ["", "/tmp/elsewhere"])
def test_both_sides_name_the_same_folders(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", value)
    monkeypatch.setenv("XDG_STATE_HOME", value)
    assert sdk.runtime_folder() == controller.runtime_folder()
    assert sdk.state_folder() == controller.default_state_folder()
