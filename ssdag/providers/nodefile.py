# SPDX-License-Identifier: BSD-3-Clause
"""Lists of hosts that schedulers leave for a job: a file with one line a slot, or pairs.

What they do not say, how many cores a node has that was asked for as a whole, is taken
from this machine: nodes of one job are alike.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from ssdag.errors import ProviderError
from ssdag.providers.base import Node
from ssdag.providers.gpus import visible_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.providers.options import BlockOptions


def read(path: str) -> dict[str, int]:
    """Return hosts and the number of their lines, in the order of the file.

    Raises
    ------
    ProviderError
        The file cannot be read, or is empty.
    """
    try:
        with open(path, encoding="utf-8") as file:
            hosts = Counter(line.strip() for line in file if line.strip())
    except OSError as error:
        raise ProviderError(
            f"the list of the job's nodes cannot be read: {path}: {error.strerror}"
        ) from error
    if not hosts:
        raise ProviderError(f"the list of the job's nodes is empty: {path}")
    return dict(hosts)


def nodes(
    slots: Mapping[str, int], env: Mapping[str, str], options: BlockOptions
) -> tuple[Node, ...]:
    """Return the nodes of an allocation.

    Parameters
    ----------
    slots : mapping of str to int
        Hosts, and the cores that the scheduler says are ours on each; 1 or less says
        nothing, since a whole node is often asked for by one slot.
    env : mapping
        For the GPUs, which are taken to be alike on all nodes.
    options : BlockOptions
        ``cores_per_node`` and ``gpus_per_node`` win over what is found.
    """
    own = len(os.sched_getaffinity(0))
    gpus = visible_gpus(env)
    if gpus is None:
        gpus = tuple(str(index) for index in range(options.gpus_per_node or 0))
    return tuple(
        Node(
            host,
            options.cores_per_node or (count if count > 1 else own),
            gpus,
            options.memory_per_node_bytes,
        )
        for host, count in slots.items()
    )
