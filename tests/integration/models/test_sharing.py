"""Two models on a host that has memory for one: the idle one sleeps, and its next request wakes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepserve
from deepserve import _current_client
from deepserve_controller.service.host_memory import usable_memory_mib


def asleep(model: deepserve.Model) -> list[bool]:
    """Of each pod of the model."""
    client = _current_client.current_client()
    function_id = model.definitions()[0].function_id
    found: dict[str, Any] = client.query("function", {"function_id": function_id})
    return [pod["is_asleep"] for pod in found["pods"]]


def test_models_take_turns(folder: Path) -> None:
    memory = usable_memory_mib() * 6 // 10
    one = deepserve.Model("one", source=folder, memory=memory, max_pods=1)
    other = deepserve.Model("other", source=folder, memory=memory, max_pods=1)
    context = one.cache("Be brief.", ttl=60)
    before = one.chat("hi", context=context, max_tokens=8, temperature=0).text
    assert asleep(one) == [False]
    for _ in range(2):
        assert other.chat("hi", max_tokens=8, temperature=0).text
        assert (asleep(one), asleep(other)) == ([True], [False])
        assert one.chat("hi", context=context, max_tokens=8, temperature=0).text == before
        assert (asleep(one), asleep(other)) == ([False], [True])
