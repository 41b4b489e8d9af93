# SPDX-License-Identifier: BSD-3-Clause
"""Runs on a login host: takes connections of nodes, and passes them on through a socket.

ssh has tied that socket to a port of the driver. This file is sent there as text and run by
any Python from 3.7 on, without ssdag. It writes one line, with a mark in front: at which
addresses and port it listens. Then it returns what its input says, a line at a time; when
that ends or falls silent, the driver is gone, and so are we.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import sys

_ADDRESS_OF_INTERFACE = 0x8915  # Linux's SIOCGIFADDR
_PART_BYTES = 1 << 18


def own_addresses() -> list[str]:
    """Return the addresses of this machine, that of its name first and loopback last."""
    found = []
    with contextlib.suppress(OSError):
        found.append(socket.gethostbyname(socket.gethostname()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(any_socket.fileno(), _ADDRESS_OF_INTERFACE, asked)
                found.append(socket.inet_ntoa(answer[20:24]))
    others = [address for address in dict.fromkeys(found) if not address.startswith("127.")]
    return [*others, "127.0.0.1"]


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while True:
            part = await source.read(_PART_BYTES)
            if not part:
                break
            target.write(part)
            await target.drain()
        target.write_eof()
    except OSError:
        target.close()


async def serve(path: str, port: int, silence_s: float, mark: str) -> None:
    """Serve until the driver is gone.

    Parameters
    ----------
    path : str
        The socket that leads to the driver.
    port : int
        Where to listen; 0 for any.
    silence_s : float
        The driver is gone if it says nothing for so long.
    mark : str
        What stands in front of our line.
    """

    async def link(near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            far, ask = await asyncio.open_unix_connection(path)
        except OSError:
            answer.close()
            return
        await asyncio.gather(_pass_on(near, ask), _pass_on(far, answer))
        ask.close()
        answer.close()

    server = await asyncio.start_server(link, "0.0.0.0", port)
    listens = server.sockets[0].getsockname()[1]
    about = {"host": socket.gethostname(), "port": listens, "addresses": own_addresses()}
    sys.stdout.write(mark + json.dumps(about) + "\n")
    sys.stdout.flush()
    beats = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(beats), sys.stdin
    )
    while True:
        try:
            beat = await asyncio.wait_for(beats.readline(), silence_s)
        except asyncio.TimeoutError:  # noqa: UP041 - not the same one before Python 3.11
            break
        if not beat:
            break
        sys.stdout.write(beat.decode())
        sys.stdout.flush()


def main() -> None:
    """Serve as the command line says: path, port, seconds, mark."""
    path, port, silence_s, mark = sys.argv[1:]
    if not os.path.exists(path):
        sys.exit("sshd here forwards no sockets (AllowStreamLocalForwarding, AllowTcpForwarding)")
    try:
        asyncio.run(serve(path, int(port), float(silence_s), mark))
    except BrokenPipeError:  # the driver is gone
        return
    except OSError as error:
        sys.exit(f"{socket.gethostname()} cannot listen at port {port}: {error}")


if __name__ == "__main__":
    main()
