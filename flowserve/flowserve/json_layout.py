"""Where white space may stand in JSON that a grammar lets a model write."""

from __future__ import annotations

from typing import Any

# At most one blank after a separator: with free white space a weak model can emit blanks until it is cut off.
JSON_LAYOUT: dict[str, Any] = {"whitespace_flexible": False, "key_separator": ": ?", "item_separator": ", ?"}
"""As llguidance takes it, beside a schema or in its `x-guidance`."""
