# SPDX-License-Identifier: BSD-3-Clause
"""What stands on PATH for every command of a simulated scheduler: asks its server.

Started as ``python -I -S command.py FOLDER NAME ARGUMENTS...``, hundreds of times in a run
of the tests: so it imports nothing but C, which halves its time.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: A message is its length, in so many bytes, and a marshalled dictionary.
LENGTH_BYTES = 4


def packed(message: dict[str, Any]) -> bytes:
    """Return a message as it travels."""
    body = marshal.dumps(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def unpacked(data: bytes | bytearray) -> dict[str, Any] | None:
    """Return a message; None while it is not whole."""
    end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
    if len(data) < max(end, LENGTH_BYTES + 1):
        return None
    message: dict[str, Any] = marshal.loads(data[LENGTH_BYTES:end])
    return message


def ask(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the server of a folder and return its answer; blocks.

    Raises
    ------
    OSError
        No server answers.
    """
    here = os.getcwd()
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        os.chdir(folder)  # the name of a socket has at most 107 bytes
        try:
            connection.connect("socket")
        finally:
            os.chdir(here)
        connection.sendall(packed(request))
        data = b""
        while (answer := unpacked(data)) is None:
            part = connection.recv(1 << 20)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            data += part
    finally:
        connection.close()
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
