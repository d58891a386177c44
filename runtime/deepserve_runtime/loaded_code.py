"""The user's function or class instance, loaded: by a pod for itself, or in a template for all pods forked from it."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.bundle_store import BundleStore
from deepserve_runtime.code_loader import load_entry
from deepserve_runtime.hooks import ClassHooks, WaitFor
from deepserve_runtime.step_clock import StepClock


class LoadedCode:
    """`hooks` is None for functions."""

    def __init__(self, spec: FunctionSpec, store: BundleStore, wait_for: WaitFor, steps: StepClock) -> None:
        """Imports the code, makes the instance and runs its `enter(snap=True)` hooks. Raises what they raise."""
        self.hooks: ClassHooks | None = None
        if spec.code.transport == "bundle":
            store.files(spec.code.digest)
            steps.mark("fetch")
        self.entry = load_entry(spec.code, store)
        steps.mark("import")
        if spec.kind == "class":
            self.hooks = ClassHooks(self.entry.target, spec.params, wait_for)
            self.hooks.enter(snap=True)
            steps.mark("enter")

    @property
    def has_pod_hooks(self) -> bool:
        return self.hooks is not None and self.hooks.has_enter(snap=False)

    def settle(self) -> None:
        """Before pods are forked: all that they share is there from the start."""

    def enter_pod(self, wait_for: WaitFor, steps: StepClock) -> None:
        """What each pod does for itself, forked or not."""
        if self.hooks is not None:
            self.hooks.wait_for = wait_for
            if self.hooks.enter(snap=False):
                steps.mark("enter pod")
