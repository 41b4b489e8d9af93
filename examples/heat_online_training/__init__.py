# SPDX-License-Identifier: BSD-3-Clause
"""Example: a network learns from simulations while they run, and stops them.

Run it with ``python -m examples.heat_online_training``; see its ``README.md``.
"""
