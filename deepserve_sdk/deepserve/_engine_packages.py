"""Whether models can run where they would, told before anything is started for them."""

from __future__ import annotations

from deepserve._controller_welcome import ControllerWelcome
from deepserve.errors import MissingPackage
from deepserve.protocol.engine_packages import missing_engine_packages

_INSTALL = "pip install 'deepserve[flowserve]'"
_found_here = False


def require_engine(controller: ControllerWelcome | None = None) -> None:
    """controller: whose pods would run the model; None for one that this process is about to start.

    Raises MissingPackage. An embedded controller and its pods have this process's packages; another one says which it
    lacks.
    """
    global _found_here
    if controller is not None and not controller.is_embedded:
        if controller.said is not None and (missing := controller.said.missing_packages):
            raise MissingPackage(
                f"models need {', '.join(missing)}, which the environment of the controller that runs has not: there, "
                f"{_INSTALL}"
            )
        return
    if _found_here:
        return
    if missing := missing_engine_packages():
        raise MissingPackage(f"models need {', '.join(missing)}, which this environment has not: {_INSTALL}")
    _found_here = True
