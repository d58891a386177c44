"""`deepserve model list|deploy|stop|pull`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deepserve._app import App
from deepserve._model import Model
from deepserve.cli.connection import connected, query
from deepserve.cli.deploy import check_before_deploy, deploy_app, start_if_none_runs
from deepserve.cli.exit_codes import INTERRUPTED, OK, UsageError
from deepserve.cli.functions import bounds
from deepserve.cli.output import print_json, print_table
from deepserve.errors import InvalidOption, ModelLoadError, NotFound

APP_PREFIX = "model-"
"""Of the app that a model is deployed as by itself."""


def list_models(*, as_json: bool) -> int:
    with connected() as client:
        models = query(client, "models")["models"]
    if as_json:
        print_json(models)
        return OK
    rows = [
        (
            each["name"],
            each["app"] or "(a script's)",
            each["model"]["source"],
            pods_in_words(each),
            bounds(each["settings"]),
        )
        for each in models
    ]
    empty = "No model is deployed. Deploy one: deepserve model deploy NAME SOURCE"
    print_table(("model", "app", "source", "pods", "bounds"), rows, empty=empty)
    return OK


def deploy_model(name: str, source: str, options: dict[str, Any], *, as_json: bool) -> int:
    """A model by itself: an app of its own. A folder is meant from the current one."""
    try:
        model = Model(name, source, **{key: value for key, value in options.items() if value is not None})
        model._source = model._source._replace(file="")  # it would be this one
        model.definitions()
    except InvalidOption as error:
        raise UsageError(str(error)) from None
    except ModelLoadError as error:
        raise NotFound(str(error)) from None
    start_if_none_runs([model])
    with connected() as client:
        check_before_deploy([model])
        answer = deploy_app(client, App(f"{APP_PREFIX}{name}"), f"{APP_PREFIX}{name}", [model])
    if as_json:
        print_json({"name": name, **answer})
    else:
        print(f"Deployed {name}. Ask it: deepserve model chat {name} Hello")
    return OK


def stop_model(name: str, *, as_json: bool) -> int:
    with connected() as client:
        found = query(client, "find_model", name=name)
        if found["app"] != f"{APP_PREFIX}{name}":
            raise UsageError(f"{name} is part of app {found['app']}: deepserve app stop {found['app']} stops all of it")
        answer = query(client, "stop_app", app=found["app"])
    if as_json:
        print_json(answer)
    else:
        print(f"Stopped {name}.")
    return OK


def pull_model(source: str, *, as_json: bool) -> int:
    """By the engine, which fetches models itself when they are first used; it shows its progress on stderr."""
    command = [sys.executable, "-P", "-m", "flowserve", "pull", source, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if sys.stderr.isatty() else subprocess.PIPE)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode != 0:
        said = (done.stderr or b"").decode(errors="replace").strip().splitlines()
        raise NotFound(said[-1].removeprefix("flowserve: ") if said else f"{source!r} could not be fetched")
    about = json.loads(done.stdout)
    if as_json:
        print_json({"source": source, **about})
    else:
        print(f"{source}: {about['size_bytes'] / 2**20:,.0f} MiB in {Path(about['folder'])}")
    return OK


def pods_in_words(found: dict[str, Any]) -> str:
    return f"{found['ready']} ready" + (f", {found['starting']} starting" if found["starting"] else "")
