# SPDX-License-Identifier: BSD-3-Clause
"""The client of the orchestrator; usable alone, in a simulation or any script.

Importing it costs numpy and little else; it pulls in no engine.
"""

from ssdag.client.client import Client
from ssdag.client.datasets.dataset import Dataset

__all__ = ["Client", "Dataset"]
