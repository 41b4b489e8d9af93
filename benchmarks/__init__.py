# SPDX-License-Identifier: BSD-3-Clause
"""Every figure that the documentation quotes, taken beside its peers in one run.

``python -m benchmarks`` measures and prints, ``python -m benchmarks.report`` writes
``docs/benchmarks.md`` from what was measured.
"""
