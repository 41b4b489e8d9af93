# SPDX-License-Identifier: BSD-3-Clause
"""Python calls that travel by files: written here, run by an interpreter of their own.

That costs the start of an interpreter (some 0.1 s) for each call: for tasks that take
minutes, or that need ranks. The folder must be one that the other machine sees.
"""

from __future__ import annotations

from ssdag.executors.calls.pack import maker_of, mpi_program, python_program

__all__ = ["maker_of", "mpi_program", "python_program"]
