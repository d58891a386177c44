"""Functions and classes that were deployed by another process, known here by name only."""

from __future__ import annotations

from typing import Any

import msgspec

from deepserve._autoscaler import Autoscaler, FunctionStats, stats_verb
from deepserve._callee import Callee
from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._function import Function
from deepserve._method import encode_params
from deepserve._pickling import NOTHING
from deepserve._query_verb import QueryVerb
from deepserve.errors import InvalidOption, NotFound
from deepserve.protocol.specs import FunctionSpec, function_id


class DeployedFunction(Function[..., Any]):
    """A Function, or a method of a deployed class, whose code is with the controller."""

    def __init__(self, app: str, name: str, definition: Definition, is_stream: bool, method: str = "") -> None:
        self.__name__ = self.__qualname__ = f"{definition.label}.{method}" if method else definition.label
        self._definition = definition
        self._is_stream = is_stream
        self._found_as = (app, name)
        self._method = method
        self._add_verbs(Callee(self.__name__, _unknown, lambda: definition, is_stream=is_stream, method=method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__name__} was found by name: its code is not here, call .remote(...)")

    def with_options(self, **options: Any) -> Any:
        """Raises InvalidOption: options stand beside the code."""
        raise InvalidOption(f"{self.__name__} was found by name: deploy it with other options")

    @property
    def autoscaler(self) -> Autoscaler:
        return Autoscaler(self.__name__, lambda: self._definition)

    @property
    def get_current_stats(self) -> QueryVerb[[], FunctionStats]:
        return stats_verb(self.__name__, lambda: self._definition)

    @property
    def spec(self) -> FunctionSpec:
        assert self._definition.spec is not None
        return self._definition.spec

    @property
    def definition(self) -> Definition:
        return self._definition

    @property
    def is_generator(self) -> bool:
        return self._is_stream

    @property
    def key(self) -> str:
        """It is in nobody's dump."""
        return ""

    def __repr__(self) -> str:
        return f"<deepserve.Function {self.__name__}>"

    def __reduce__(self) -> Any:
        if self._method:
            return _method_again, (*self._found_as, self.spec.params, self._method)
        return Function.from_name, self._found_as

    __deepserve_reduce__ = __reduce__


class Cls:
    """A deployed class: `Cls.from_name("papers", "Ranker")(model="large").score.remote("q", "d")`.

    (Modal: `modal.Cls`.)
    """

    def __init__(self, app: str, name: str, deployed: Definition) -> None:
        self._found_as = (app, name)
        self._deployed = deployed

    @staticmethod
    def from_name(app: str, name: str) -> Cls:
        """Raises NotFound."""
        definition = look_up_deployed(app, name)
        if definition.spec is None or definition.spec.kind != "class":
            raise NotFound(f"{app}/{name} is no class: use Function.from_name")
        return Cls(app, name, definition)

    def __call__(self, **parameters: Any) -> DeployedInstance:
        """An instance with these constructor arguments. Raises UnpicklableArgument, ValueTooLarge."""
        params = encode_params(self._deployed.label, parameters, NOTHING) if parameters else b""
        return self.with_params(params)

    def with_params(self, params: bytes) -> DeployedInstance:
        """An instance with encoded constructor arguments."""
        if not params:
            return DeployedInstance(*self._found_as, self._deployed)
        assert self._deployed.spec is not None
        spec = msgspec.structs.replace(self._deployed.spec, params=params)
        return DeployedInstance(*self._found_as, self._deployed._replace(function_id=function_id(spec), spec=spec))

    def __repr__(self) -> str:
        return f"<deepserve.Cls {self._deployed.label}>"

    def __reduce__(self) -> Any:
        return Cls.from_name, self._found_as


class DeployedInstance:
    """An instance of a deployed class: its methods have the remote verbs."""

    def __init__(self, app: str, name: str, definition: Definition) -> None:
        self._found_as = (app, name)
        self._definition = definition

    def __getattr__(self, name: str) -> DeployedFunction:
        if name.startswith("__"):
            raise AttributeError(name)
        spec = self._definition.spec
        assert spec is not None
        if name not in spec.methods:
            raise AttributeError(f"{spec.label} has no method {name!r} (it has: {', '.join(sorted(spec.methods))})")
        return DeployedFunction(*self._found_as, self._definition, spec.methods[name] == "stream", name)

    def __repr__(self) -> str:
        return f"<deepserve.Cls {self._definition.label}, an instance>"

    def __reduce__(self) -> Any:
        assert self._definition.spec is not None
        return _instance_again, (*self._found_as, self._definition.spec.params)


def look_up_deployed(app: str, name: str) -> Definition:
    """Raises NotFound."""
    answer = current_client().query("lookup", {"app": app, "name": name})
    spec = msgspec.convert(answer["spec"], FunctionSpec)
    return Definition(answer["function_id"], spec, None, f"{app}/{name}", NOTHING, is_found=True)


def find_function(app: str, name: str) -> DeployedFunction:
    """Raises NotFound."""
    definition = look_up_deployed(app, name)
    assert definition.spec is not None
    if definition.spec.kind == "class":
        raise NotFound(f"{app}/{name} is a class: use Cls.from_name")
    if definition.spec.kind == "model":
        raise NotFound(f"{app}/{name} is a model: use Model.from_name")
    return DeployedFunction(app, name, definition, definition.spec.is_generator)


def _instance_again(app: str, name: str, params: bytes) -> DeployedInstance:
    return Cls.from_name(app, name).with_params(params)


def _method_again(app: str, name: str, params: bytes, method: str) -> Any:
    return getattr(_instance_again(app, name, params), method)


def _unknown(*args: Any, **kwargs: Any) -> None: ...
