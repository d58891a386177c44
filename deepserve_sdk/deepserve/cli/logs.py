"""`deepserve logs`."""

from __future__ import annotations

import signal
import sys

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK
from deepserve.cli.output import print_json


def show_logs(target: str, *, follow: bool, tail: int, as_json: bool) -> int:
    """Print the latest lines of `target`; with `follow`, what comes after them is pushed until Ctrl-C."""
    with connected() as client:
        answer = query(client, "logs", target=target, tail=tail, follow=follow)
        if as_json:
            print_json(answer)
            return OK
        sys.stdout.write(answer["text"])
        sys.stdout.flush()
        while follow:
            signal.pause()
    return OK
