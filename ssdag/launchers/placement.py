# SPDX-License-Identifier: BSD-3-Clause
"""How many ranks of a step stand on which host."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssdag.launchers.step import Step


def host_counts(step: Step) -> list[tuple[str, int]]:
    """Return the hosts of a step, in their order, and its ranks on each of them."""
    hosts = step.hosts
    if not hosts:
        return []
    if step.ranks_per_node is not None:
        last = step.ranks - (len(hosts) - 1) * step.ranks_per_node
        return [*((host, step.ranks_per_node) for host in hosts[:-1]), (hosts[-1], last)]
    least, more = divmod(step.ranks, len(hosts))
    return [(host, least + (i < more)) for i, host in enumerate(hosts)]


def named_file(kind: str, text: str) -> dict[str, str]:
    """Return a text by a name that depends on nothing but the text."""
    return {f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}": text}
