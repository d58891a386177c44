"""Whether models that are to be deployed could be loaded, as the machine that is to run them sees it."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._deployed import DeployedFunction
from deepserve._engine_packages import require_engine
from deepserve._model import Model
from deepserve.protocol.specs import CodeRef, FunctionSpec, function_id

_CHECK = FunctionSpec(
    app="deepserve",
    name="check_model",
    kind="function",
    code=CodeRef("builtin", "deepserve_runtime.executors.model_options", "check_definition"),
    environment="tokenizer",
)


def check_models(models: Sequence[Model]) -> list[Model]:
    """From config.json and the weights' headers. Those that the hub must have, because the machine has not.

    Raises MissingPackage, ModelLoadError, InvalidModelOption, and any call's errors.
    """
    if models:
        require_engine(current_client().controller)
    definition = Definition(function_id(_CHECK), _CHECK, None, _CHECK.label)
    check = DeployedFunction(_CHECK.app, _CHECK.name, definition, is_stream=False)
    return [model for model in models if not check.remote(model.spec)]
