# SPDX-License-Identifier: BSD-3-Clause
"""What an orchestrator has written down about data that were lost with a server.

It stands under one key as JSON, ``[{"time_s": 1795290117.2, "shard": 1, "slots": [5461,
10921], "reason": "killed by SIGKILL"}, ...]``, so that a process that misses data can say
why, whoever it is.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ssdag.client.transport.resp import key_bytes
from ssdag.client.transport.slots import slot_of
from ssdag.errors import DataFormatError, MissingDataError, StoreError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

KEY = b".ssdag.losses"


def explained(client: ClientBase, name: object, error: MissingDataError) -> MissingDataError:
    """Return the error for missing data that were there once, with what is known of it.

    Parameters
    ----------
    client : Client
        Of the server.
    name : str
        What the data are called.
    error : MissingDataError
        What a get said.
    """
    try:
        slot = slot_of(key_bytes(name))
        text = client.call("GET", KEY)
        losses: list[dict[str, Any]] = json.loads(text) if text else []
        for loss in reversed(losses):
            first, last = loss["slots"]
            if first <= slot <= last:
                when = time.strftime("%H:%M:%S", time.localtime(loss["time_s"]))
                return MissingDataError(
                    f"{error}; its server died at {when} ({loss['reason']}), and the data in slots "
                    f"{first} to {last} were lost with it"
                )
    except (StoreError, DataFormatError, ValueError, KeyError, TypeError):
        pass  # the error itself says enough
    return error
