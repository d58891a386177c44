"""The chat templates of a model as text. Needs no template engine: who only looks at them is spared its import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ChatTemplateError, ModelNotFoundError
from .models.json_fields import read_json


def read_templates(folder: str | Path) -> tuple[dict[str, str], dict[str, Any]]:
    """By name, and tokenizer_config.json: chat_template.jinja (and additional_chat_templates/), else `chat_template`
    in that file. Raises ModelNotFoundError, and ChatTemplateError where the model has none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model folder {str(folder)!r}")
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    templates = _templates_in_files(folder) or _templates_in_config(config.get("chat_template"))
    if not templates:
        raise ChatTemplateError(f"{folder}: the model has no chat template")
    return templates, config


def template_text(folder: str | Path) -> str:
    """All as one text: what they show of tool calls and reasoning tells how the model writes them. Raises the same."""
    return "\n".join(read_templates(folder)[0].values())


def _templates_in_files(folder: Path) -> dict[str, str]:
    paths = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        paths["default"] = folder / "chat_template.jinja"
    try:
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ChatTemplateError(f"{folder}: the chat template cannot be read: {error}") from error


def _templates_in_config(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        try:
            return {str(entry["name"]): str(entry["template"]) for entry in value}
        except (KeyError, TypeError) as error:
            raise ChatTemplateError("tokenizer_config.json: each chat template needs a name and a template") from error
    return {}
