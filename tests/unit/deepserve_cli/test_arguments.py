"""Words of the command line become arguments of a signature."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel

from deepserve.cli.arguments import parse_arguments, usage_of
from deepserve.cli.exit_codes import UsageError


class Point(BaseModel):
    x: int
    y: int = 0


def target(
    path: str,
    n: int = 1,
    rate: float = 0.5,
    verbose: bool = False,
    names: list[str] = [],  # noqa: B006
    at: Point | None = None,
    mode: Literal["fast", "slow"] = "fast",
) -> None: ...


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.txt"], {"path": "a.txt"}),
        (["--path", "a", "--n", "3"], {"path": "a", "n": 3}),
        (["a", "7"], {"path": "a", "n": 7}),
        (["--n=4", "a"], {"path": "a", "n": 4}),
        (["a", "--verbose"], {"path": "a", "verbose": True}),
        (["a", "--no-verbose"], {"path": "a", "verbose": False}),
        (["a", "--verbose=true"], {"path": "a", "verbose": True}),
        (["a", "--verbose", "false"], {"path": "a", "verbose": False}),
        (["--verbose", "a"], {"path": "a", "verbose": True}),
        (["a", "--rate", "1e3"], {"path": "a", "rate": 1000.0}),
        (["a", "--names", '["x", "y"]'], {"path": "a", "names": ["x", "y"]}),
        (["a", "--at", '{"x": 1}'], {"path": "a", "at": Point(x=1)}),
        (["a", "--mode", "slow"], {"path": "a", "mode": "slow"}),
        (["123"], {"path": "123"}),
    ],
)
def test_words_are_read_by_the_type_hints(words: list[str], expected: dict[str, object]) -> None:
    assert parse_arguments("f", target, words) == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "needs path"),
        (["a", "--wrong", "1"], "no parameter 'wrong'"),
        (["a", "--n", "x"], "'x' for n: Input should be a valid integer"),
        (["a", "--n", "true"], "'true' for n"),
        (["a", "--names", "x"], r"""'x' for names: write it as JSON, such as --names '\["a", "b"\]'"""),
        (["a", "--n"], "--n needs a value"),
        (["a", "--mode", "other"], "'other' for mode"),
        (["a", "1", "2", "false", "[]", "null", "fast", "more"], "'more' is one argument too many"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_arguments("f", target, words)


def test_variadic_functions_are_refused() -> None:
    def variadic(*numbers: int) -> None: ...

    with pytest.raises(UsageError, match=r"\*numbers"):
        parse_arguments("f", variadic, ["1"])


def test_usage_shows_required_and_defaults() -> None:
    import inspect

    def small(path: str, max_n: int = 3) -> None: ...

    assert usage_of("small", inspect.signature(small)) == "small --path PATH [--max-n 3]"
