"""`deepserve deploy`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from deepserve._app import App, default_app
from deepserve._client import Client
from deepserve._definition import Definition
from deepserve._engine_packages import require_engine
from deepserve._model import Model
from deepserve._model_check import check_models
from deepserve.cli import controller
from deepserve.cli.connection import connected, is_up, query
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import complain, print_json
from deepserve.cli.parameter_schema import schemas_of
from deepserve.cli.user_file import UserFile, load_user_file, split_target
from deepserve.errors import DeepServeError, InvalidOption, ModelLoadError
from deepserve.settings import current_settings


def deploy_file(file: str, *, name: str | None, as_json: bool) -> int:
    """Deploy every app of `file`, and its models in its only app, or in the one that is named after it.

    A name that is defined again replaces the old one, one that is gone ends. Where one of them is refused, nothing
    is deployed.
    """
    path, target = split_target(file)
    if target:
        raise UsageError(f"deploy takes a whole file: {path.name}, without ::{target}")
    found = load_user_file(path)
    apps = [app for app in found.apps if app.functions or app.classes]
    home = home_of_models(found, apps)
    if found.models and home not in apps:
        apps.append(home)
    if not apps:
        raise UsageError(f"{path.name} has no function, class or model of DeepServe to deploy")
    if name is not None and len(apps) != 1:
        raise UsageError(f"--name needs a file with one app; {path.name} has {', '.join(app.name for app in apps)}")
    start_if_none_runs(found.models)
    with connected() as client:
        check_before_deploy(found.models)
        answers = deploy_all(
            client, [prepare(app, name or app.name, found.models if app is home else ()) for app in apps]
        )
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            print(f"Deployed {answer['app']}: {', '.join(sorted(answer['functions']))}")
    return OK


def home_of_models(found: UserFile, apps: list[App]) -> App:
    named_after_file = default_app(found.module.__name__)
    return (
        apps[0]
        if len(apps) == 1
        else next((app for app in apps if app.name == named_after_file.name), named_after_file)
    )


def start_if_none_runs(models: Sequence[Model]) -> None:
    """Raises MissingPackage where it could not run the models: then it is not started."""
    if not current_settings().url and not is_up():
        if models:
            require_engine()
        controller.start_in_background(controller.controller_command())
        complain("started this user's controller, since none ran (stop it with: deepserve down)")


def check_before_deploy(models: Sequence[Model]) -> None:
    """Says which of them will be fetched. Raises InvalidOption, UsageError: then nothing is deployed."""
    try:
        for model in check_models(models):
            complain(
                f"model {model.name!r}: there is no folder {model.source!r}, and it is not wholly in the hub's cache: "
                f"it will be fetched from the hub at its first start, or now: deepserve model pull {model.source}"
            )
    except InvalidOption:
        raise
    except ModelLoadError as error:
        raise UsageError(str(error)) from None


class Deployment(NamedTuple):
    """An app as it is to be deployed. tokenizers: of its models."""

    app: str
    definitions: dict[str, Definition]
    tokenizers: list[Definition]
    schemas: dict[str, Any]

    def everything(self) -> list[Definition]:
        return [*self.tokenizers, *self.definitions.values()]


def deploy_app(client: Client, app: App, name: str, models: Sequence[Model] = ()) -> dict[str, Any]:
    """Code and definitions first, then the app's names in one step. Raises UsageError, Refused."""
    return deploy_all(client, [prepare(app, name, models)])[0]


def prepare(app: App, name: str, models: Sequence[Model]) -> Deployment:
    """Raises UsageError, and where it cannot be sent UnpicklableFunction, ValueTooLarge, ModelLoadError."""
    deployment = Deployment(name, app.definitions(), [], schemas_of(app))
    for model in models:
        if model.name in deployment.definitions:
            raise UsageError(f"app {name}: two things are called {model.name!r}, one of them a model")
        deployment.definitions[model.name], tokenizer = model.definitions()
        deployment.tokenizers.append(tokenizer)
    return deployment


def deploy_all(client: Client, deployments: Sequence[Deployment]) -> list[dict[str, Any]]:
    """None of them where the controller would refuse one; where one fails all the same, it is said what is deployed.

    Raises Refused, ControllerLost.
    """
    checked = [
        {"app": each.app, "specs": [msgspec.to_builtins(one.spec, builtin_types=(bytes,)) for one in each.everything()]}
        for each in deployments
    ]
    query(client, "check_deploy", apps=checked)
    answers: list[dict[str, Any]] = []
    for deployment in deployments:
        try:
            answers.append(_deploy(client, deployment))
        except DeepServeError:
            if answers:
                names = [each.app for each in deployments]
                done, left = ", ".join(names[: len(answers)]), ", ".join(names[len(answers) :])
                complain(f"deployed by now: {done}; not deployed: {left}")
            raise
    return answers


def _deploy(client: Client, deployment: Deployment) -> dict[str, Any]:
    for definition in deployment.everything():
        client.define(definition)
    function_ids = {key: definition.function_id for key, definition in deployment.definitions.items()}
    query(client, "deploy", app=deployment.app, functions=function_ids, schemas=deployment.schemas)
    return {"app": deployment.app, "functions": function_ids}
