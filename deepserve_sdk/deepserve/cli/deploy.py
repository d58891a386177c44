"""`deepserve deploy`."""

from __future__ import annotations

from typing import Any

from deepserve._app import App
from deepserve._client import Client
from deepserve.cli import controller
from deepserve.cli.connection import connected, is_up, query
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.output import complain, print_json
from deepserve.cli.parameter_schema import schemas_of
from deepserve.cli.user_file import load_user_file, split_target
from deepserve.settings import current_settings


def deploy_file(file: str, *, name: str | None, as_json: bool) -> int:
    """Deploy every app of `file`. A name that is defined again replaces the old one, one that is gone ends."""
    path, target = split_target(file)
    if target:
        raise UsageError(f"deploy takes a whole file: {path.name}, without ::{target}")
    apps = [app for app in load_user_file(path).apps if app.functions or app.classes]
    if not apps:
        raise UsageError(f"{path.name} has no function or class of DeepServe to deploy")
    if name is not None and len(apps) != 1:
        raise UsageError(f"--name needs a file with one app; {path.name} has {', '.join(app.name for app in apps)}")
    if not current_settings().url and not is_up():
        controller.start_in_background(controller.controller_command())
        complain("started this user's controller, since none ran (stop it with: deepserve down)")
    with connected() as client:
        answers = [deploy_app(client, app, name or app.name) for app in apps]
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            print(f"Deployed {answer['app']}: {', '.join(sorted(answer['functions']))}")
    return OK


def deploy_app(client: Client, app: App, name: str) -> dict[str, Any]:
    """Code and definitions first, then the app's names in one step."""
    definitions = app.definitions()
    for definition in definitions.values():
        client.define(definition)
    function_ids = {key: definition.function_id for key, definition in definitions.items()}
    query(client, "deploy", app=name, functions=function_ids, schemas=schemas_of(app))
    return {"app": name, "functions": function_ids}
