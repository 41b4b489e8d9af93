# SPDX-License-Identifier: BSD-3-Clause
"""Example: a campaign of simulations on blocks that come and go.

Run it with ``python -m examples.elastic_campaign``; see its ``README.md``.
"""
