"""From what a user calls a model to a folder on this machine."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from .errors import InvalidConfigError, ModelNotFoundError
from .loading.throwaway import has_one_thread, run_apart

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TEXT_FILES = ["*.json", "*.jinja"]
_WEIGHTS_FILES = "*.safetensors"
HUB_ANSWER_S = 2.0
"""For the hub to say how large a model is: it is only an estimate that waits for that."""


def resolve_model(model: str | Path, with_weights: bool = True) -> Path:
    """A folder as it is; a Hugging Face id ("Qwen/Qwen3-0.6B") downloaded or from the cache.

    with_weights: False fetches only what templating and tokenising need.
    Raises ModelNotFoundError that says which of the two was tried and why it failed, InvalidConfigError for neither.
    """
    if (folder := local_folder(model)) is not None:
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        text = f"{model!r} is no folder, and huggingface_hub is not installed to fetch it"
        raise ModelNotFoundError(f"{text}: pip install 'deepserve[flowserve]'") from error
    patterns = [*_TEXT_FILES, _WEIGHTS_FILES] if with_weights else _TEXT_FILES
    try:
        return Path(snapshot_download(str(model), allow_patterns=patterns))
    except Exception as error:  # offline, unknown id, gated, disk full: each its own class, some of other packages
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelNotFoundError(f"{model!r} is no folder and could not be fetched from the hub: {reason}") from error


def local_folder(model: str | Path) -> Path | None:
    """A folder as it is; None for what may be a hub id. Raises ModelNotFoundError, InvalidConfigError for neither."""
    if not isinstance(model, str | Path) or not str(model).strip():  # "" would be the current folder
        raise InvalidConfigError(f"model must be a model folder or a hub id, got {model!r}")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(model, Path) or folder.is_file() or not _HUB_ID.fullmatch(model):
        what = "is a file, not a model folder" if folder.is_file() else "is no folder"
        raise ModelNotFoundError(f"{str(model)!r} {what}")
    return None


def known_folder(model: str | Path) -> Path | None:
    """As `resolve_model`, of what is on this machine already; None for what would have to be fetched."""
    if (folder := local_folder(model)) is not None:
        return folder
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(model), allow_patterns=_TEXT_FILES, local_files_only=True))
    except Exception:  # each of huggingface_hub's own classes: it was never fetched
        return None


def hub_bytes(model: str) -> int:
    """Of the weights files of a model of the hub, as that says where it does so soon; 0 where it does not."""
    try:
        from huggingface_hub import HfApi

        files = HfApi().model_info(model, files_metadata=True, timeout=HUB_ANSWER_S).siblings or []
    except Exception:  # offline, unknown, gated: whoever fetches it says so
        return 0
    return sum(file.size or 0 for file in files if fnmatchcase(file.rfilename, _WEIGHTS_FILES))


def bytes_to_fetch(model: str) -> int:
    """The same in a child, as `resolve_apart`, of a model that has to be fetched; 0 where weights of it are here, and
    where this process has other threads."""
    is_here = Path(model).expanduser().is_dir() or any(_cache_folder(model).glob(f"snapshots/*/{_WEIGHTS_FILES}"))
    if is_here or not has_one_thread():
        return 0
    return int(run_apart(f"asking how large {model} is", lambda: str(hub_bytes(model))) or 0)


def _cache_folder(model: str) -> Path:
    """Where huggingface_hub keeps what it has fetched of a model; known without its import, which takes long."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(cache).expanduser() / f"models--{model.replace('/', '--')}"


def resolve_apart(model: str | Path) -> Path:
    """As `resolve_model`, in a child where this process has one thread: a download leaves connections and threads
    behind, which a process that is to be forked must not have."""
    if not Path(model).expanduser().is_dir() and has_one_thread():
        if found := run_apart(f"fetching {model}", lambda: str(resolve_model(model))):
            return Path(found)
    return resolve_model(model)
