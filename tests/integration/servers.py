# SPDX-License-Identifier: BSD-3-Clause
"""The servers on which tests of data run: the packaged Valkey, and Debian's Redis."""

from __future__ import annotations

import shutil

import pytest

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
