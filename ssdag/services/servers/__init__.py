# SPDX-License-Identifier: BSD-3-Clause
"""The servers of an orchestrator: their programs, places, cluster and figures."""
