"""A script with two models on a host that has memory for one; run by test_sharing.py, on a controller of its own."""

from __future__ import annotations

import sys
from typing import Any

import deepserve
from deepserve import _current_client

folder, memory = sys.argv[1], int(sys.argv[2])
one = deepserve.Model("one", source=folder, memory=memory, max_pods=1)
other = deepserve.Model("other", source=folder, memory=memory, max_pods=1)


def asleep(model: deepserve.Model) -> list[bool]:
    """Of each pod of the model."""
    function_id = model.definitions()[0].function_id
    found: dict[str, Any] = _current_client.current_client().query("function", {"function_id": function_id})
    return [pod["is_asleep"] for pod in found["pods"]]


if __name__ == "__main__":
    context = one.cache("Be brief.", ttl=60)
    before = one.chat("hi", context=context, max_tokens=8, temperature=0).text
    assert asleep(one) == [False]
    for _ in range(2):
        assert other.chat("hi", max_tokens=8, temperature=0).text
        assert (asleep(one), asleep(other)) == ([True], [False]), (asleep(one), asleep(other))
        assert one.chat("hi", context=context, max_tokens=8, temperature=0).text == before
        assert (asleep(one), asleep(other)) == ([False], [True]), (asleep(one), asleep(other))
    print("took turns")
