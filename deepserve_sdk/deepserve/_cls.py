"""`@deepserve.cls`: classes whose instances live in pods, loaded once by `enter` and called by `method`s."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, dataclass_transform, overload

from deepserve._code_kind import is_coroutine_function
from deepserve._decorators import OptionArguments
from deepserve._entry import HOOK_ATTRIBUTE, SNAP_ATTRIBUTE, Batching, Entry
from deepserve._function import Definer, method_kinds
from deepserve._method import ENTERED_ATTRIBUTE, KWARGS_ATTRIBUTE, MethodDescriptor, method, refuse_bare
from deepserve._options import UNSET, Options, merge_options, refuse_stream_options, with_inputs
from deepserve.errors import InvalidOption

if TYPE_CHECKING:
    from deepserve._app import App

__all__ = ["Parameter", "cls", "enter", "exit", "method", "parameter"]

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])


class Parameter:
    """A constructor argument of a class; `UNSET` default where it must be given."""

    __slots__ = ("default",)

    def __init__(self, default: Any) -> None:
        self.default = default


def parameter(*, default: Any = UNSET) -> Any:
    """A constructor argument, given by keyword: other values mean other pods. (Modal: `modal.parameter`.)"""
    return Parameter(default)


def enter(target: None = None, /, *, snap: bool = False) -> Callable[[F], F]:
    """Run the method once in every pod before its first call; its time counts as startup. (Modal: `@modal.enter`.)

    snap: run it once for all pods instead, in a template process from which they are forked: they share the memory
    of what it leaves until they write to it. Then the hooks without `snap` run in each pod. Python's, numpy's and
    torch's global random generators are seeded anew in each pod; generator objects that the instance holds are
    copies of one another there, unless a hook without `snap` seeds them. What cannot be shared is found out (a thread
    that still runs, an open socket, file or device, a child process): then each pod runs the hook itself,
    and `deepserve function info` and the log say why.
    """
    refuse_bare(target, "enter")

    def decorate(target: F) -> F:
        hook = _hook(target, "enter")
        setattr(hook, SNAP_ATTRIBUTE, snap)
        return cast(F, hook)

    return decorate


def exit(target: None = None, /) -> Callable[[F], F]:
    """Run the method when a pod is stopped; not when it is killed. (Modal: `@modal.exit`.)"""
    refuse_bare(target, "exit")

    def decorate(target: F) -> F:
        return cast(F, _hook(target, "exit"))

    return decorate


def _hook(target: Any, kind: str) -> Any:
    """The method, noting on its instance that it ran, so that a local call does not run it again."""
    if is_coroutine_function(target):

        @functools.wraps(target)
        async def run_async(self: Any) -> Any:
            self.__dict__[ENTERED_ATTRIBUTE] = kind == "enter"
            return await target(self)

        hook: Any = run_async
    else:

        @functools.wraps(target)
        def run(self: Any) -> Any:
            self.__dict__[ENTERED_ATTRIBUTE] = kind == "enter"
            return target(self)

        hook = run
    setattr(hook, HOOK_ATTRIBUTE, kind)
    return hook


@overload
@dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
def cls(target: type[C], /) -> type[C]: ...
@overload
@dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
def cls(*, app: App | None = None, **options: Unpack[OptionArguments]) -> Callable[[type[C]], type[C]]: ...
@dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
def cls(target: Any = None, /, *, app: App | None = None, **options: Any) -> Any:
    """Make a class whose methods also run in pods: `Ranker(model="x").score.remote(...)`. (Modal: `@app.cls`.)

    The options are those of `deepserve.function`. A pod holds one instance, made with the same arguments; arguments
    are the class's `parameter`s, or those of its own `__init__`. Locally the first call runs the `enter` methods.
    `Ranker.with_options(memory=2048)` is the class with other options, unless it has a `with_options` of its own.
    Raises InvalidOption.
    """
    if target is None:
        return lambda decorated: _decorate(decorated, options, app)
    return _decorate(target, options, app)


def _decorate(target: Any, given: dict[str, Any], app: App | None) -> Any:
    if not isinstance(target, type):
        raise InvalidOption(f"@deepserve.cls takes a class, not {target!r}")
    qualname = target.__qualname__
    if not any(isinstance(member, MethodDescriptor) for member in _members(target).values()):
        raise InvalidOption(f"{qualname} has no @deepserve.method(): nothing of it could be called")
    options = merge_options(Options(name=qualname.replace("<locals>.", "")), qualname, given)
    options = with_inputs(options, qualname, target, _batch_sizes(target, qualname))
    if "stream" not in method_kinds(target).values():
        refuse_stream_options(options, qualname, "none of its methods is one")
    _install_init(target)
    if app is None:
        from deepserve._app import default_app

        app = default_app(target.__module__)
    entry = Entry(target, options.retry_on, options.never_on)
    attributes: Any = target
    attributes.__deepserve_entry__ = entry
    attributes.__deepserve_definer__ = Definer(app, entry, options, "class")
    if "with_options" not in _members(target):
        attributes.with_options = classmethod(_with_options)
    app.add(options.name, target, entry)
    return target


def _with_options(cls: Any, **options: Unpack[OptionArguments]) -> Any:
    """The class with other options, which means other pods. Raises InvalidOption. (Modal: `Cls.with_options`.)"""
    definer: Definer = cls.__deepserve_definer__
    merged = merge_options(definer.options, cls.__qualname__, dict(options))
    if "stream" not in method_kinds(cls).values():
        refuse_stream_options(merged, cls.__qualname__, "none of its methods is one")
    entry = definer.entry
    if (merged.retry_on, merged.never_on) != (entry.retry_on, entry.never_on):
        entry = Entry(entry.target, merged.retry_on, merged.never_on)
    other = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})
    attributes: Any = other
    attributes.__deepserve_definer__ = Definer(definer.app, entry, merged, "class", definer.key)
    return other


def _batch_sizes(target: type, qualname: str) -> list[int]:
    sizes = []
    for name, member in _members(target).items():
        if (batching := Batching.of(member)) is not None:
            if not isinstance(member, MethodDescriptor):
                raise InvalidOption(f"{qualname}.{name} is batched: put @deepserve.method() above it")
            sizes.append(batching.max_batch_size)
    return sizes


def _members(target: type) -> dict[str, Any]:
    """Class attributes, base classes first."""
    return {name: value for base in reversed(target.__mro__) for name, value in vars(base).items()}


def _install_init(target: type) -> None:
    """Let every instance know the keyword arguments that it was made with."""
    parameters = {name: value for name, value in _members(target).items() if isinstance(value, Parameter)}
    own_init: Any = target.__init__  # type: ignore[misc]
    if getattr(own_init, "__deepserve_init__", False):
        own_init = object.__init__
    if parameters and own_init is not object.__init__:
        raise InvalidOption(f"{target.__qualname__} has both deepserve.parameter()s and an __init__: keep one of them")
    init = _init_of_parameters(target.__qualname__, parameters) if parameters else _recording_init(own_init)
    init.__deepserve_init__ = True  # type: ignore[attr-defined]
    target.__init__ = init  # type: ignore[misc]


def _init_of_parameters(class_name: str, parameters: dict[str, Parameter]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if args and parameters:
            named = ", ".join(f"{name}=..." for name in parameters)
            raise TypeError(f"{class_name}() has named parameters only: give them by name, {class_name}({named})")
        if args:
            raise TypeError(f"{type(self).__qualname__}() takes no arguments")
        unknown = kwargs.keys() - parameters.keys()
        if unknown:
            raise TypeError(f"{class_name}() has no parameter {', '.join(sorted(unknown))}")
        for name, declared in parameters.items():
            value = kwargs.get(name, declared.default)
            if value is UNSET:
                raise TypeError(f"{class_name}() needs the parameter {name}")
            setattr(self, name, value)
        self.__dict__[KWARGS_ATTRIBUTE] = {name: kwargs[name] for name in parameters if name in kwargs}

    return __init__


def _recording_init(own_init: Any) -> Callable[..., None]:
    if own_init is object.__init__:
        return _init_of_parameters("this class", {})
    import inspect

    signature = inspect.signature(own_init)

    @functools.wraps(own_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs).arguments
        names = list(signature.parameters)
        kinds = {name: signature.parameters[name].kind for name in names}
        if any(
            kinds[name] in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY) for name in names[1:]
        ):
            raise InvalidOption(f"{type(self).__qualname__}.__init__ must take its arguments by name")
        recorded: dict[str, Any] = {}
        for name in list(bound)[1:]:
            if kinds[name] is inspect.Parameter.VAR_KEYWORD:
                recorded.update(bound[name])
            else:
                recorded[name] = bound[name]
        self.__dict__[KWARGS_ATTRIBUTE] = recorded
        own_init(self, *args, **kwargs)

    return __init__
