"""What the controller was started with; the only place that reads its arguments' defaults from the environment."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from deepserve_controller.errors import ControllerError
from deepserve_controller.model_policies import ModelPolicy, model_policy_named

Mode = Literal["embedded", "up"]


class Settings(NamedTuple):
    mode: Mode
    client_fd: int = -1
    """Embedded: this end of the socket pair is the owner's link and lifeline."""
    state_folder: str = ""
    """Empty: nothing is kept."""
    environment: str = "python"
    """Embedded: what the owner is about to call needs; its template starts first."""
    http_port: int = 0
    """Up: 0 lets the system choose."""
    http_host: str = "127.0.0.1"
    """Up: any other than a loopback address needs a certificate."""
    tls_certificate: str = ""
    tls_key: str = ""
    """Files in PEM form."""
    hello_timeout_s: float = 10.0
    shutdown_grace_s: float = 3.0
    """For the exit hooks of pods, when the controller ends."""
    kept_ttl_s: float = 3600.0
    kept_bytes: int = 1 << 30
    bundle_bytes: int = 1 << 30
    """Bundles held in memory; deployed ones lie in the state folder."""


def runtime_folder() -> str:
    """Where this user's sockets lie."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "deepserve") if base else f"/tmp/deepserve-{os.getuid()}"


def max_depth() -> int:
    """How many calls deep calls may be nested: `DEEPSERVE_MAX_DEPTH`. Raises ControllerError."""
    text = os.environ.get("DEEPSERVE_MAX_DEPTH", "") or "100"
    if not text.isdecimal() or int(text) < 1:
        raise ControllerError(f"DEEPSERVE_MAX_DEPTH={text!r} is no number from 1 on")
    return int(text)


def log_level() -> str:
    """What is told on stderr beside errors: `DEEPSERVE_LOG`, `debug` or nothing. Raises ControllerError."""
    text = os.environ.get("DEEPSERVE_LOG", "")
    if text not in ("", "debug"):
        raise ControllerError(f"DEEPSERVE_LOG={text!r} is neither empty nor 'debug'")
    return text


def model_policy() -> ModelPolicy:
    """How models are scaled: `DEEPSERVE_MODEL_POLICY`, for comparisons. Raises ControllerError."""
    text = os.environ.get("DEEPSERVE_MODEL_POLICY", "")
    try:
        return model_policy_named(text)
    except ValueError as error:
        raise ControllerError(f"DEEPSERVE_MODEL_POLICY: {error}") from None


def default_state_folder() -> str:
    base = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "deepserve")
