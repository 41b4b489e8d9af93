# SPDX-License-Identifier: BSD-3-Clause
"""What stands on PATH for every command of a simulated scheduler: asks its server.

Started as ``python -I -S command.py FOLDER NAME ARGUMENTS...``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any


def ask(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the server of a folder and return its answer; blocks.

    Raises
    ------
    OSError
        No server answers.
    """
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as connection:
        os.chdir(folder)  # the name of a socket has at most 107 bytes
        try:
            connection.connect("socket")
        finally:
            os.chdir(here)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionResetError("the server closed the connection")
    answer: dict[str, Any] = json.loads(line)
    return answer


def main() -> int:
    """Ask, print the answer, return the exit code."""
    folder, name, *arguments = sys.argv[1:]
    request: dict[str, Any] = {
        "command": name,
        "argv": arguments,
        "cwd": os.getcwd(),
        "env": dict(os.environ),
    }
    try:
        answer = ask(folder, request)
        if answer.get("wants_stdin"):
            request["stdin"] = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
            answer = ask(folder, request)
    except OSError as error:
        sys.stderr.write(f"{name}: cannot reach the scheduler: {error}\n")
        return 255
    for stream, text in ((sys.stdout, answer["out"]), (sys.stderr, answer["err"])):
        stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        stream.flush()
    code: int = answer["rc"]
    return code


if __name__ == "__main__":
    sys.exit(main())
