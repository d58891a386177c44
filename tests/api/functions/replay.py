"""Streams that are tried again: no item comes twice, and none is lost."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import deepserve


@deepserve.function(retries=2, replay="resume", idle_timeout=30)
def lines(path: str, mark: str) -> Iterator[str]:
    for number, line in enumerate(Path(path).read_text().splitlines()):
        if number < deepserve.resume_offset():
            continue  # passed on by an earlier attempt
        if number == 500 and not os.path.exists(mark):
            Path(mark).touch()
            raise ConnectionError
        yield line


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        wanted = [f"line {number}" for number in range(1000)]
        (Path(folder) / "text").write_text("\n".join(wanted))
        call = lines.spawn(f"{folder}/text", f"{folder}/mark")
        assert list(call.stream()) == wanted
        assert call.timings is not None and call.timings.attempts == 2
    print("done")
