# SPDX-License-Identifier: BSD-3-Clause
"""Brings files to where a task runs, and its outputs to where they belong.

``base.py`` is the contract and what all kinds of staging share, ``places.py`` the folder of
files that a node keeps, ``finding.py`` the way from a URL to a staging; each other module is
one kind.
"""

from __future__ import annotations

from ssdag.apps.staging.base import RemoteStaging, Staging
from ssdag.apps.staging.finding import find
from ssdag.apps.staging.local import LocalStaging

__all__ = ["LocalStaging", "RemoteStaging", "Staging", "find"]
