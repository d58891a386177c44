"""`python -m deepserve_controller --embedded --client-fd N` or `--up`."""

from __future__ import annotations

import gc
import os
import stat
import sys
from functools import partial
from typing import TYPE_CHECKING

from deepserve_controller.pod_providers.template_process import (
    MAX_POD_ID_CHARS,
    POD_VARIABLE,
    TemplateProcess,
    fork_template,
    start_template,
)

if TYPE_CHECKING:
    from deepserve_controller.settings import Settings

DEFAULT_ENVIRONMENT = "python"


def main() -> int:
    gc.disable()  # nothing that is imported is garbage; the controller turns it on again once it stands
    arguments = sys.argv[1:]
    started = first_templates(arguments) if "--embedded" in arguments else {}
    from deepserve_controller.errors import ControllerError, InvalidSettings

    settings = embedded_settings(arguments) or parse(arguments)
    try:
        from deepserve_controller.pod_providers.local import LocalPodProvider
        from deepserve_controller.service.controller import run_controller

        run_controller(settings, partial(LocalPodProvider, started=started))
    except ControllerError as error:
        if settings.mode == "embedded":
            from deepserve_controller.service.handshake import refuse_owner

            refuse_owner(settings.client_fd, error)
        else:
            print(f"deepserve: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidSettings) else 1
    return 0


def first_templates(arguments: list[str]) -> dict[str, TemplateProcess]:
    """By environment. A template's imports take as long as this process's own or longer: what both need first, then
    side by side. That of the function which the script is about to call, where it says so, begins before any other."""
    import deepserve.protocol.framing  # noqa: F401

    has_room = len(os.environ.get(POD_VARIABLE, "")) >= MAX_POD_ID_CHARS
    start = fork_template if has_room else start_template
    named = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == "--environment"]
    return {environment: start(environment) for environment in dict.fromkeys([*named, DEFAULT_ENVIRONMENT])}


def embedded_settings(arguments: list[str]) -> Settings | None:
    """For the one way in which the SDK starts an embedded controller: argparse takes 6 ms to import."""
    from deepserve_controller.settings import Settings

    match arguments:
        case ["--embedded", "--client-fd", fd, *rest] if fd.isdecimal() and is_socket(int(fd)):
            named = dict(zip(rest[::2], rest[1::2], strict=False))
            if len(rest) == 2 * len(named) and named.keys() <= {"--state", "--environment"}:
                state, environment = named.get("--state", ""), named.get("--environment", DEFAULT_ENVIRONMENT)
                return Settings("embedded", client_fd=int(fd), state_folder=state, environment=environment)
    return None


def parse(arguments: list[str]) -> Settings:
    import argparse

    from deepserve_controller.settings import Settings, default_state_folder

    parser = argparse.ArgumentParser(prog="deepserve_controller")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--embedded", action="store_true")
    mode.add_argument("--up", action="store_true")
    parser.add_argument("--client-fd", type=int, default=-1)
    parser.add_argument("--state", default="")
    parser.add_argument("--environment", default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    found = parser.parse_args(arguments)
    if found.embedded:
        if not is_socket(found.client_fd):
            parser.error("--embedded needs --client-fd: the number of an inherited socket")
        return Settings("embedded", client_fd=found.client_fd, state_folder=found.state, environment=found.environment)
    return Settings(
        "up",
        state_folder=found.state or default_state_folder(),
        http_port=found.http_port,
        http_host=found.host,
        tls_certificate=found.tls_cert,
        tls_key=found.tls_key,
        kept_ttl_s=7 * 86400.0,
    )


def is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


if __name__ == "__main__":
    exit_code = main()
    # Nothing is left to tidy up, and the script that ends waits for this process: skip the interpreter's own teardown.
    sys.stderr.flush()
    os._exit(exit_code)
