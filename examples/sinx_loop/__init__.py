# SPDX-License-Identifier: BSD-3-Clause
"""Example: a model in the loop, which is asked, checked by a simulation, and taught by a dear one.

Run it with ``python -m examples.sinx_loop``; see its ``README.md``.
"""
