# SPDX-License-Identifier: BSD-3-Clause
"""Waiting for data and messages: by notification, never by polling."""
