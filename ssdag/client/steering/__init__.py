# SPDX-License-Identifier: BSD-3-Clause
"""Commands to running simulations, their steps and their checkpoints."""
