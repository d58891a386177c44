"""Halves of characters are named where they stand, in values and in bodies that both servers refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from deepserve_controller.service.openai.body import decode
from deepserve_controller.service.openai.fault import Fault
from deepserve_http.lone_surrogates import find_lone_surrogate, lone_surrogate_in_json
from flowserve.server.api_error import ApiError
from flowserve.server.body import decode_body


class Asked(msgspec.Struct):
    prompt: Any


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("a\ud800", ""),
        ({"a": 1, "messages": [{"content": "ok"}, {"content": "\udfff"}], "z": "\ud800"}, "messages[1].content"),
        ({"stop": ("ok", ["\ud83d"])}, "stop[1][0]"),
        ({"tools": {"\ud83d": "ok"}}, "a name in tools"),
    ],
)
def test_the_first_one_is_named(value: object, place: str) -> None:
    found = find_lone_surrogate(value)
    assert found is not None and found.place == place
    assert str(found).startswith(f"{place or 'the text'} holds the lone surrogate '\\u")
    str(found).encode()


def test_whole_characters_are_none() -> None:
    assert find_lone_surrogate({"a": ["\U0001f600", 1, None, 2.5]}) is None
    assert lone_surrogate_in_json(rb'{"a": "\ud83d\ude00"}') is None
    assert lone_surrogate_in_json(rb'{"a": "\ud83d"') is None, "no JSON at all"
    assert lone_surrogate_in_json(b'{"a": "\\ud83d"}' + b"[" * 100_000) is None


@pytest.mark.parametrize("text", [rb"\ud800", rb"\uD800 and more of it", rb"ab\udc00", rb"\ud83d\u0041 and more"])
def test_bodies_with_one_are_refused_with_its_place(text: bytes) -> None:
    body = b'{"prompt": ["ok", "' + text + b'"]}'
    with pytest.raises(ApiError) as refused:
        decode_body(body, Asked)
    assert (refused.value.status, refused.value.param) == (400, "prompt[1]")
    with pytest.raises(Fault) as faulty:
        decode(body, Asked)
    assert (faulty.value.status, faulty.value.param) == (400, "prompt[1]")
    assert "prompt[1] holds the lone surrogate" in str(refused.value) and "lone surrogate" in str(faulty.value)
