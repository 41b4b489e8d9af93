# SPDX-License-Identifier: BSD-3-Clause
"""How commands reach the servers: connections, routes, and the map of a cluster."""
