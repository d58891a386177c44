"""What the controller says first, before it has come and after."""

from __future__ import annotations

import threading

import pytest

from deepserve._controller_welcome import ControllerWelcome
from deepserve.errors import ControllerLost
from deepserve.protocol.messages import Welcome


def test_who_asks_before_it_has_come_waits_for_it() -> None:
    controller, found = ControllerWelcome(None), list[str]()
    asks = threading.Thread(target=lambda: found.append(controller.segments()))
    asks.start()
    assert controller.is_embedded and controller.folder == ""
    controller.put(Welcome(1, "c", "up", folder="/f", segments="/s"))
    asks.join(30)
    assert found == ["/s"]
    assert not controller.is_embedded and controller.folder == "/f"


def test_a_controller_that_ended_without_a_word_is_told_of_by_its_error() -> None:
    controller = ControllerWelcome(None)
    controller.give_up(ControllerLost("no room"))
    controller.give_up(ControllerLost("closed"))
    with pytest.raises(ControllerLost, match="no room"):
        controller.segments()
