# SPDX-License-Identifier: BSD-3-Clause
"""The servers on which tests of data run: the packaged Valkey, and Debian's Redis."""

from __future__ import annotations

import shutil

import pytest

from ssdag.services.servers.node_facts import addresses_here

#: Parameters of fixtures, for ``Orchestrator(server=...)``.
SERVERS = [
    pytest.param(None, id="packaged"),
    pytest.param(
        "redis-server",
        id="redis",
        marks=pytest.mark.skipif(
            not shutil.which("redis-server"), reason="no redis-server on PATH"
        ),
    ),
]


def address_outside() -> str:
    """Return an address of this machine that is not loopback; skips if there is none."""
    found = [ips[0] for name, ips in addresses_here().items() if name != "lo"]
    if not found:
        pytest.skip("this machine has no network but loopback")
    return found[0].partition("/")[0]
