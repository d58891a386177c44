from __future__ import annotations

from pathlib import Path

from mypy import api


def test_mypy_strict_sees_through_the_api(tmp_path: Path) -> None:
    source = Path(__file__).with_name("typed_user_code.py")
    report, errors, status = api.run(
        ["--strict", "--config-file=", f"--cache-dir={tmp_path}", "--follow-imports=silent", str(source)]
    )
    assert status == 0, report + errors
