# SPDX-License-Identifier: BSD-3-Clause
"""Prefixes of key names, by which the members of an ensemble share one server.

What a client writes gets its own prefix, what it reads that of the chosen source, both
followed by a dot. The rules, the environment variables and the defaults are SmartRedis's.
"""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from ssdag.errors import ConfigError

#: What a client writes is put under this prefix.
ENV_OUT = "SSKEYOUT"
#: Prefixes that may be read from, with commas between; the first is the active one.
ENV_IN = "SSKEYIN"

#: What a prefix applies to; models include scripts.
Kind: TypeAlias = Literal["tensor", "dataset", "list", "model"]


class Prefixes:
    """Which prefixes a client uses, and for what.

    Parameters
    ----------
    out : str
        Of what is written; empty for none.
    sources : sequence of str
        Those that may be read from.
    """

    def __init__(self, out: str = "", sources: tuple[str, ...] = ()) -> None:
        self.out = out
        self.sources = sources
        #: The source that is read from; empty for none.
        self.source = sources[0] if sources else ""
        self._used: dict[str, bool] = {
            "tensor": True,
            "dataset": True,
            "list": True,
            "model": False,
        }

    @classmethod
    def from_environment(cls, identifier: str = "") -> Prefixes:
        """Return what ``SSKEYOUT`` and ``SSKEYIN`` say, with ``_identifier`` behind each."""
        end = f"_{identifier}" if identifier else ""
        sources = os.environ.get(ENV_IN + end, "")
        return cls(os.environ.get(ENV_OUT + end, ""), tuple(p for p in sources.split(",") if p))

    def copy(self) -> Prefixes:
        """Return the same rules, to be changed apart from these."""
        made = Prefixes(self.out, self.sources)
        made.source = self.source
        made._used = dict(self._used)
        return made

    def write(self, kind: Kind, name: str) -> str:
        """Return the name under which `name` is written."""
        return f"{self.out}.{name}" if self.out and self._used[kind] else name

    def read(self, kind: Kind, name: str) -> str:
        """Return the name under which `name` is read."""
        return f"{self.source}.{name}" if self.source and self._used[kind] else name

    def use(self, kind: Kind, on: bool) -> None:
        """Say whether names of this kind get a prefix."""
        self._used[kind] = bool(on)

    def choose(self, source: str) -> None:
        """Read from this source from now on.

        Raises
        ------
        ConfigError
            It is none of those that ``SSKEYIN`` names.
        """
        if source not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise ConfigError(f"data source {source!r} is not one of those in {ENV_IN} ({known})")
        self.source = source
