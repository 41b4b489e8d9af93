# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that knows names only: plain keys, and the prefixes of names."""

from __future__ import annotations

from ssdag.client.base import ClientBase, call
from ssdag.client.tensors import moving
from ssdag.client.transport.resp import command, key_bytes


class KeyCalls(ClientBase):
    """Keys as they are on the server, and which prefixes names get."""

    def key_exists(self, key: str) -> bool:
        """Return whether anything is stored under a key, which never gets a prefix."""
        name = key_bytes(key)
        line = command(b"EXISTS", name)
        return bool(self._run(f"look for key {key!r}", lambda c: call(c, line), key=name))

    def delete_key(self, key: str) -> bool:
        """Delete whatever is stored under a key; return whether there was anything.

        It is never sent twice: if the connection breaks before the answer, StoreError
        says so and nobody knows whether it is deleted.
        """
        name = key_bytes(key)
        line = command(b"DEL", name)
        what = f"delete of key {key!r}"
        return bool(self._run(what, lambda c: call(c, line), key=name, idempotent=False))

    def list_keys(self, pattern: str = "*") -> list[str]:
        """Return all keys of all servers that fit a pattern, sorted, without prefixes' rules.

        Looks through all names step by step, so it takes long where there are millions,
        and what is written or deleted meanwhile may be there or not.

        Parameters
        ----------
        pattern : str
            As :meth:`~ssdag.Client.list_tensors` takes it.
        """
        glob = pattern.encode("utf-8", "surrogateescape")
        return sorted(key.decode("utf-8", "surrogateescape") for key in moving.scan(self, glob))

    # -- prefixes ----------------------------------------------------------------------

    def set_data_source(self, source: str) -> None:
        """Read from this prefix from now on.

        Parameters
        ----------
        source : str
            One of those in ``SSKEYIN``.

        Raises
        ------
        ConfigError
            It is none of them.
        """
        self.prefixes.choose(source)

    def use_tensor_ensemble_prefix(self, use_prefix: bool) -> None:
        """Say whether names of tensors get a prefix; by default they do."""
        self.prefixes.use("tensor", use_prefix)

    def use_dataset_ensemble_prefix(self, use_prefix: bool) -> None:
        """Say whether names of datasets get a prefix; by default they do."""
        self.prefixes.use("dataset", use_prefix)

    def use_list_ensemble_prefix(self, use_prefix: bool) -> None:
        """Say whether names of aggregation lists get a prefix; by default they do."""
        self.prefixes.use("list", use_prefix)

    def use_model_ensemble_prefix(self, use_prefix: bool) -> None:
        """Say whether names of models and scripts get a prefix; by default they do not."""
        self.prefixes.use("model", use_prefix)
