# SPDX-License-Identifier: BSD-3-Clause
"""The client of a simulation or of a script, put together from its parts."""

from __future__ import annotations

from ssdag.client.admin_calls import AdminCalls
from ssdag.client.async_calls import AsyncCalls
from ssdag.client.datasets.lists import ListCalls
from ssdag.client.key_calls import KeyCalls
from ssdag.client.steering.calls import SteeringCalls
from ssdag.client.streams.calls import StreamCalls
from ssdag.client.tensors.sets import TensorSetCalls
from ssdag.client.waiting.calls import WaitCalls
from ssdag.client.waiting.pubsub_calls import PubSubCalls


class Client(
    AsyncCalls,
    WaitCalls,
    PubSubCalls,
    ListCalls,
    StreamCalls,
    SteeringCalls,
    TensorSetCalls,
    KeyCalls,
    AdminCalls,
):
    """Tensors, datasets and streams on a Redis or Valkey server, or on a cluster of them.

    It connects at the first call. Threads may share it (each busy thread has its own
    connection), a forked child may go on using it, and it pickles as the server's
    address and the name of the password file, never as the password.

    Parameters
    ----------
    address : str, optional
        ``host:port``, ``tcp://host:port`` or ``unix://path``; by default the
        environment variable ``SSDB``. Several with commas between are nodes of a
        cluster, of which the others are learned.
    password : str, optional
        Of the default user. A client with a password given so does not pickle.
    password_file : str or path, optional
        File that holds the password; by default ``SSDAG_PASSWORD_FILE``, if no address
        and no password is given.
    timeout_s : float, optional
        How long the server may be silent in any call, before StoreError; None for ever.
        Also how long a call waits for a cluster to come right (a replica takes over, a
        slot is moved), by default 30 s.
    cluster : bool, optional
        Whether it is a cluster; by default several addresses are, and what
        ``SR_DB_TYPE`` says beside ``SSDB``.
    identifier : str
        Which of several databases: ``SSDB_x``, ``SR_DB_TYPE_x``, ``SSKEYIN_x``,
        ``SSKEYOUT_x`` and ``SSDAG_PASSWORD_FILE_x`` are read for ``identifier="x"``.

    Raises
    ------
    ConfigError
        No address, or one that is not understood.
    """
