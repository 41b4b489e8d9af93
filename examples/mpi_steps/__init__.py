# SPDX-License-Identifier: BSD-3-Clause
"""Example: MPI steps of mixed sizes, side by side on the cores of an allocation.

Run it with ``python -m examples.mpi_steps``; see its ``README.md``.
"""
