"""Deployed apps: functions that anyone may call by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deepserve.protocol.specs import FunctionSpec, Scaling
from deepserve_controller.errors import QueryError, StoreUnwritable
from deepserve_controller.service.bundles import Bundle, Bundles
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.kept_bounds import KeptBounds
from deepserve_controller.service.store import App, Store

EMBEDDED_HINT = (
    ": this is an embedded controller, which ends with its script; what other processes find is deployed by "
    "`deepserve deploy` or `deepserve model deploy` on one that `deepserve up` starts"
)


class Deployments:
    """What is in the store is defined in the cores, and nothing else is deployed."""

    def __init__(
        self,
        store: Store,
        functions: Functions,
        bundles: Bundles,
        why_never: Callable[[FunctionSpec], str],
        *,
        is_embedded: bool = False,
    ) -> None:
        """`why_never`: why no pod of a function could ever start on this host. is_embedded: who finds nothing here may
        have meant another controller. Raises StoreUnreadable."""
        self._store = store
        self._functions = functions
        self._bundles = bundles
        self._why_never = why_never
        self._hint = EMBEDDED_HINT if is_embedded else ""
        self._bounds = KeptBounds(store.bounds)
        functions.kept_scaling = self._bounds.of
        self.apps: dict[str, App] = {}

    def restore(self) -> None:
        """After a start: everything that was deployed can be called again."""
        for app in self._store.apps():
            self.apps[app.name] = app
            self._define(app)

    def deploy(
        self, name: str, functions: dict[str, str], entrypoints: dict[str, Any], schemas: dict[str, Any] | None = None
    ) -> App:
        """Replaces the app: names defined again change, names that are gone stop.

        Raises QueryError, changing nothing.
        """
        if not name or not functions:
            raise QueryError("invalid", "an app needs a name and at least one function")
        specs = self._specs_of(functions)
        self.check([(name, specs.values())])
        app = App(name, functions, specs, entrypoints, schemas or {})
        bundles = {digest: self._bundle(name, digest) for digest in app.digests()}
        before = self.apps.get(name)
        try:
            app = self._store.put_app(app, bundles)
        except OSError as error:
            raise QueryError("failed", f"app {name!r} could not be stored: {error}") from None
        self.apps[name] = app
        self._define(app)
        if before is not None:
            self._functions.replace(f"app:{name}", before.specs.keys() - app.specs.keys())
            for function_id in self._drop_bounds((before.specs.keys() - self._deployed()) | app.specs.keys()):
                if function_id in app.specs:
                    self._functions.scale(function_id, self._functions.specs[function_id].scaling)
        return app

    def check(self, apps: Iterable[tuple[str, Iterable[FunctionSpec]]]) -> None:
        """Whether apps of these names and functions could be deployed, one after the other. Raises QueryError."""
        owners = {model: app.name for model, (app, _) in self.models().items()}
        for name, specs in apps:
            owners = {model: owner for model, owner in owners.items() if owner != name}
            for spec in specs:
                if why_never := self._why_never(spec):
                    raise QueryError("invalid", why_never)
                if spec.kind == "model":  # found by its name alone
                    if owner := owners.get(spec.name):
                        raise QueryError("invalid", f"a model {spec.name!r} is deployed already, by app {owner!r}")
                    owners[spec.name] = name

    def stop(self, name: str) -> App:
        app = self.apps.get(name)
        if app is None:
            raise QueryError("not_found", f"no app {name!r} is deployed")
        self._store.remove_app(name)
        del self.apps[name]
        self._functions.stop(f"app:{name}", app.specs)
        self._drop_bounds(app.specs.keys() - self._deployed())
        return app

    def scale(self, function_id: str, scaling: Scaling) -> None:
        """Other bounds; those of a deployed function last until it is deployed again or stopped. Raises QueryError."""
        if function_id in self._deployed():
            try:
                self._bounds.keep(function_id, scaling)
            except StoreUnwritable as error:
                raise QueryError("failed", str(error)) from None
        self._functions.scale(function_id, scaling)

    def lookup(self, app_name: str, name: str) -> tuple[str, FunctionSpec]:
        """Raises QueryError(not_found), naming what there is."""
        app = self.apps.get(app_name)
        if app is None:
            there = ", ".join(sorted(self.apps)) or "none"
            raise QueryError("not_found", f"no app {app_name!r} is deployed (deployed: {there}){self._hint}")
        function_id = app.functions.get(name)
        if function_id is None:
            there = ", ".join(sorted(app.functions))
            raise QueryError("not_found", f"app {app_name!r} has no function {name!r} (it has: {there})")
        return function_id, app.specs[function_id]

    def models(self) -> dict[str, tuple[App, str]]:
        """The app and the function id of each deployed model, by the model's name."""
        return {
            spec.name: (app, function_id)
            for app in self.apps.values()
            for function_id in app.functions.values()
            if (spec := app.specs[function_id]).kind == "model"
        }

    def model(self, name: str) -> tuple[App, str]:
        """Raises QueryError(not_found), naming what there is."""
        models = self.models()
        if name not in models:
            there = ", ".join(models) or "none"
            raise QueryError("not_found", f"no model {name!r} is deployed (deployed: {there}){self._hint}")
        return models[name]

    def _deployed(self) -> set[str]:
        return {function_id for app in self.apps.values() for function_id in app.specs}

    def _drop_bounds(self, function_ids: set[str]) -> list[str]:
        """Returns those that were scaled. Raises QueryError."""
        try:
            return self._bounds.drop(function_ids)
        except StoreUnwritable as error:
            raise QueryError("failed", str(error)) from None

    def _specs_of(self, functions: dict[str, str]) -> dict[str, FunctionSpec]:
        """Of the named functions and of what they need besides."""
        specs: dict[str, FunctionSpec] = {}
        pending = list(functions.values())
        while pending:
            function_id = pending.pop()
            spec = self._functions.specs.get(function_id)
            if spec is None:
                raise QueryError("not_found", f"function {function_id} was not defined before it was deployed")
            if function_id not in specs:
                specs[function_id] = spec
                if spec.tokenizer:
                    pending.append(spec.tokenizer)
        return specs

    def _bundle(self, name: str, digest: str) -> Bundle:
        bundle = self._bundles.get(digest)
        if bundle is None:
            raise QueryError("not_found", f"bundle {digest} of app {name!r} was not put before it was deployed")
        return bundle

    def _define(self, app: App) -> None:
        for function_id, spec in app.specs.items():
            self._functions.define(f"app:{app.name}", function_id, spec)
