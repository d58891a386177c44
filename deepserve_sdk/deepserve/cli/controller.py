"""`deepserve up` and `deepserve down`: the user's controller as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from deepserve.cli.connection import connected, is_up, query
from deepserve.cli.exit_codes import OK, USAGE, UsageError
from deepserve.cli.output import complain, print_json
from deepserve.errors import ControllerUnreachable
from deepserve.settings import state_folder

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
LOOK_AGAIN_S = 0.02


class HttpOptions(NamedTuple):
    """Where the HTTP port listens; the certificate and its key are files."""

    port: int = 0
    host: str = "127.0.0.1"
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def arguments(self) -> list[str]:
        given = ["--http-port", str(self.port), "--host", self.host]
        for name, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None:
                given += [name, str(path.resolve())]
        return given


def start(options: HttpOptions, *, state: Path | None, foreground: bool, as_json: bool) -> int:
    if is_up():
        return report(already=True, as_json=as_json, options=options, state=state)
    command = controller_command(options, state)
    if foreground:
        sys.stdout.flush()
        os.execv(command[0], command)  # a supervisor's signals are for the controller itself
    start_in_background(command, state)
    return report(already=False, as_json=as_json)


def controller_command(options: HttpOptions | None = None, state: Path | None = None) -> list[str]:
    """-P: files of the folder that the command is given in shadow nothing."""
    command = [sys.executable, "-P", "-m", "deepserve_controller", "--up", *(options or HttpOptions()).arguments()]
    return [*command, "--state", str(state.resolve())] if state is not None else command


def start_in_background(command: list[str], state: Path | None = None) -> None:
    """Returns when it answers. Raises UsageError for options that it cannot follow, else ControllerUnreachable with
    the end of its log."""
    log = (state or Path(state_folder())) / "controller.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.touch(mode=0o600)  # as all that lies there
    with log.open("ab") as output:
        begins_at = output.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )
    gives_up_at_s = time.monotonic() + START_TIMEOUT_S
    while not is_up():
        if process.poll() is not None or time.monotonic() > gives_up_at_s:
            process.kill()
            said = log.read_bytes()[begins_at:].decode(errors="replace").strip()
            if process.returncode == USAGE:
                raise UsageError(said.removeprefix("deepserve: "))
            raise ControllerUnreachable(f"the controller did not start: {said or f'see {log}'}")
        time.sleep(LOOK_AGAIN_S)


def report(*, already: bool, as_json: bool, options: HttpOptions | None = None, state: Path | None = None) -> int:
    """options, state: what was asked for where one runs already, which is USAGE where it runs otherwise."""
    with connected() as client:
        status = query(client, "status")
    not_applied = options_not_applied(options or HttpOptions(), state, status)
    if as_json:
        print_json({"already_running": already, "not_applied": not_applied, **status})
    else:
        verb = "runs already" if already else "started"
        print(f"Controller {verb} (pid {status['pid']}, HTTP at {status.get('url') or 'no port'}).")
    if not_applied:
        complain(f"not applied, since it was started without: {', '.join(not_applied)} (deepserve down, then up again)")
        return USAGE
    return OK


def options_not_applied(options: HttpOptions, state: Path | None, status: dict[str, Any]) -> list[str]:
    """Those that differ from what a command without them takes, and from the controller that runs."""
    running, default = status.get("options", {}), HttpOptions()
    found = []
    if options.port and options.port != urlsplit(status.get("url") or "").port:
        found.append(f"--http-port {options.port}")
    if options.host not in (default.host, running.get("host")):
        found.append(f"--host {options.host}")
    for name, path in (("tls_cert", options.tls_cert), ("tls_key", options.tls_key), ("state", state)):
        if path is not None and str(path.resolve()) != running.get(name):
            found.append(f"--{name.replace('_', '-')} {path}")
    return found


def stop(*, as_json: bool) -> int:
    """Returns when the controller's process is gone, with all that ran on it."""
    if not is_up():
        if as_json:
            print_json({"stopped": False})
        else:
            print("No controller runs.")
        return OK
    with connected() as client:
        pid = query(client, "status")["pid"]
        query(client, "shutdown")
    wait_for_end(pid)
    if as_json:
        print_json({"stopped": True, "pid": pid})
    else:
        print(f"Controller stopped (pid {pid}). Deployed apps are kept for the next `deepserve up`.")
    return OK


def wait_for_end(pid: int) -> None:
    """Raises TimeoutError, after SIGKILL, where the controller does not end by itself."""
    gives_up_at_s = time.monotonic() + STOP_TIMEOUT_S
    while is_running(pid):
        if time.monotonic() > gives_up_at_s:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"the controller (pid {pid}) had to be killed")
        time.sleep(LOOK_AGAIN_S)


def is_running(pid: int) -> bool:
    """A zombie has ended: whoever started it has not looked yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
