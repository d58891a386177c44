"""Under `up`: what one script spawned is read on, and passed on, by the next, with the SDK in both."""

from __future__ import annotations

import subprocess
import sys

from tests.integration.cli.conftest import Shell

MAKER = """
import app, deepserve
call = app.lines.spawn(1000)
for line in call.stream():
    if line == "line 99":
        break
print(call.id)
"""
READER = """
import sys, deepserve
call = deepserve.Call.from_id(sys.argv[1])
stream = call.stream(from_offset=int(sys.argv[2]), with_offset=True)
for offset, line in stream:
    assert line == f"line {offset}"
    if offset == int(sys.argv[3]) < 999:
        break
print(offset, call.done() and call.status())
"""


DEPENDS = """
import sys, deepserve
price = deepserve.Function.from_name("shop", "price")
if len(sys.argv) > 1:
    print(price.remote("b", deepserve.Call.from_id(sys.argv[1]).arg)["total"])
else:
    print(deepserve.Function.from_name("stock", "left").spawn().id)
"""


def script(shell: Shell, text: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text, *words],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_spawned_stream_is_read_on_from_the_middle_and_after_its_end(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    call_id = script(shell, MAKER)
    assert script(shell, READER, call_id, "50", "400") == "400 False"
    assert script(shell, READER, call_id, "401", "999") == "999 ok"
    assert script(shell, READER, call_id, "900", "999") == "999 ok"


def test_a_call_of_another_script_may_be_an_argument(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    assert script(shell, DEPENDS, script(shell, DEPENDS)).split()[-1] == "21"
