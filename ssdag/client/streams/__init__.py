# SPDX-License-Identifier: BSD-3-Clause
"""Streams: records that some write and others read, within bounds."""
