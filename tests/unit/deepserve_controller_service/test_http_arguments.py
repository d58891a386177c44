"""What an HTTP body may be."""

from __future__ import annotations

import pytest

from deepserve_controller.service.http_port import HttpError, parse_arguments


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", {"args": [], "kwargs": {}}),
        (b"{}", {"args": [], "kwargs": {}}),
        (b'{"args": [1]}', {"args": [1], "kwargs": {}}),
        (b'{"kwargs": {"x": 1}}', {"args": [], "kwargs": {"x": 1}}),
        (b'{"x": 1}', {"args": [], "kwargs": {"x": 1}}),
        (b'{"args": 1, "x": 2}', {"args": [], "kwargs": {"args": 1, "x": 2}}),
    ],
)
def test_arguments(body: bytes, expected: object) -> None:
    assert parse_arguments(body) == expected


DEEP = b'{"a":' * 100 + b"1" + b"}" * 100


@pytest.mark.parametrize("body", [b"{", b"[]", b"3", b"null", b'{"args": {}}', b'{"kwargs": []}', b"\xff", DEEP])
def test_what_is_no_arguments(body: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        parse_arguments(body)
    assert caught.value.status == 400
