# SPDX-License-Identifier: BSD-3-Clause
"""Example: a simulation that is watched while it computes, and stopped when it has said enough.

Run it with ``python -m examples.lbm_steer``; see its ``README.md``.
"""
