# SPDX-License-Identifier: BSD-3-Clause
"""``ssdag plan``: what would be submitted and launched, with no scheduler present."""
