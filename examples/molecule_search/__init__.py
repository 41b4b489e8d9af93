# SPDX-License-Identifier: BSD-3-Clause
"""Find the molecules of highest ionization energy without computing all of them.

Run it with ``python -m examples.molecule_search --help``; ``README.md`` explains the
workflow. ``search.py`` is the loop, ``tasks.py`` the apps that it calls.
"""

import os

# Two workers on two cores: a quantum chemistry code that starts one thread a core in
# each of them only gets in its own way. OpenMP reads this once, when it is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
