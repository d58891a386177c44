"""The environment variables that the SDK reads; the only place that reads them.

| variable | meaning | default |
| --- | --- | --- |
| `DEEPSERVE_URL` | controller: `https://host:port`, `unix:///path`, `up`, `embedded` | a running `up`, else embedded |
| `DEEPSERVE_KEY` | key for an `https://` controller: what the file `key` of its state folder holds | none |
| `DEEPSERVE_CA` | file of certificates (PEM) to trust for it, besides the system's | the system's |
| `DEEPSERVE_STATE` | folder in which an embedded controller keeps what is to outlive it | none: nothing is kept |
| `DEEPSERVE_QUIET` | `1`: do not say on stderr which controller is used | say it |
| `DEEPSERVE_TIMINGS` | `1`: print the first call's timeline on stderr | do not |
| `DEEPSERVE_NO_NETWORK` | `1`: refuse the network to this process (set for pods by `deepserve.testing`) | do not |
| `DEEPSERVE_SCRIPTED_MODELS` | socket of the test that scripts models (set by `deepserve.testing`) | none |
| `DEEPSERVE_MAX_VALUE_BYTES` | largest argument, result or bundled value | 1 GiB |
| `DEEPSERVE_MAX_BUNDLE_BYTES` | largest code bundle | 64 MiB |
"""

from __future__ import annotations

import os
from typing import NamedTuple

from deepserve.errors import InvalidOption


class Settings(NamedTuple):
    url: str = ""
    quiet: bool = False
    timings: bool = False
    max_value_bytes: int = 1 << 30
    max_bundle_bytes: int = 64 << 20
    no_network: bool = False
    scripted_models: str = ""
    key: str = ""
    ca: str = ""
    state: str = ""

    def __repr__(self) -> str:
        """Without the key."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self._asdict().items() if name != 'key')})"


_settings: Settings | None = None


def current_settings() -> Settings:
    """Read from the environment once per process. Raises InvalidOption for a number that is none."""
    global _settings
    if _settings is None:
        _settings = Settings(
            url=os.environ.get("DEEPSERVE_URL", ""),
            key=os.environ.get("DEEPSERVE_KEY", ""),
            ca=os.environ.get("DEEPSERVE_CA", ""),
            state=state_path("DEEPSERVE_STATE", os.environ.get("DEEPSERVE_STATE", "")),
            quiet=_flag("DEEPSERVE_QUIET"),
            timings=_flag("DEEPSERVE_TIMINGS"),
            max_value_bytes=_size("DEEPSERVE_MAX_VALUE_BYTES", Settings._field_defaults["max_value_bytes"]),
            max_bundle_bytes=_size("DEEPSERVE_MAX_BUNDLE_BYTES", Settings._field_defaults["max_bundle_bytes"]),
            no_network=_flag("DEEPSERVE_NO_NETWORK"),
            scripted_models=os.environ.get("DEEPSERVE_SCRIPTED_MODELS", ""),
        )
    return _settings


def use_settings(settings: Settings | None) -> None:
    """Replace the settings; None reads the environment again. For tests and `init`."""
    global _settings
    _settings = settings


def runtime_folder() -> str:
    """Where this user's sockets lie; may not exist yet, and its owner is not checked here."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(base, "deepserve") if base else f"/tmp/deepserve-{os.getuid()}"


def state_folder() -> str:
    """Where this user's controller keeps deployed apps, its key and its log; may not exist yet."""
    base = os.environ.get("XDG_STATE_HOME", "") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "deepserve")


def state_path(name: str, given: str | os.PathLike[str]) -> str:
    """Absolute, as its controller's own folder may be another. Raises InvalidOption that names the option."""
    try:
        path = os.fspath(given)
    except TypeError:
        path = None
    if not isinstance(path, str) or "\0" in path:
        raise InvalidOption(f"{name}={given!r} is no path of a folder")
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false", "no")


def _size(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise InvalidOption(f"{name}={text!r} is no number of bytes")
    return int(text)
