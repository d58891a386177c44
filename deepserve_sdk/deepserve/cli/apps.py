"""`deepserve app list|stop`."""

from __future__ import annotations

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK
from deepserve.cli.output import print_json, print_table


def list_apps(*, as_json: bool) -> int:
    with connected() as client:
        apps = query(client, "apps")["apps"]
    if as_json:
        print_json(apps)
        return OK
    rows = [(app["app"], ", ".join(app["functions"])) for app in apps]
    print_table(("app", "functions"), rows, empty="No app is deployed. Deploy one: deepserve deploy app.py")
    return OK


def stop_app(app: str, *, as_json: bool) -> int:
    with connected() as client:
        answer = query(client, "stop_app", app=app)
    if as_json:
        print_json(answer)
    else:
        print(f"Stopped {app}.")
    return OK
