"""From what a user calls a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import InvalidConfigError, ModelNotFoundError
from .loading.throwaway import has_one_thread, run_apart

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TEXT_FILES = ["*.json", "*.jinja"]


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
        raise ModelNotFoundError(f"{model!r} is no folder, and huggingface_hub is not installed to fetch it") from error
    patterns = [*_TEXT_FILES, "*.safetensors"] if with_weights else _TEXT_FILES
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


def resolve_apart(model: str | Path) -> Path:
    """As `resolve_model`, in a child where this process has one thread: a download leaves connections and threads
    behind, which a process that is to be forked must not have."""
    if not Path(model).expanduser().is_dir() and has_one_thread():
        if found := run_apart(f"fetching {model}", lambda: str(resolve_model(model))):
            return Path(found)
    return resolve_model(model)
