# SPDX-License-Identifier: BSD-3-Clause
"""Steps that each launcher can express, as strategies: for the tests of all launchers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from ssdag.launchers import (
    AprunLauncher,
    FluxLauncher,
    JsrunLauncher,
    MpiexecLauncher,
    MpirunLauncher,
    PalsLauncher,
    SingleLauncher,
    SrunLauncher,
    Step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.launchers import Launcher

MIB = 1 << 20
HOSTS = tuple(f"nid{i:05d}" for i in range(1, 9))

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
WORDS = st.one_of(TEXT, st.sampled_from(["", ":", "-n", "--", "=", "a b", "x,y", "'", '"', "$A"]))
VALUES = st.one_of(
    TEXT, st.sampled_from(["", ":", "1", "2.0", "x,y", "a b", "l1\nl2", "a=b", "$A"])
)
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)


@dataclass(frozen=True)
class Case:
    """A launcher, and what it can express in one step and in several."""

    launcher: Launcher
    one: Callable[[st.DrawFn], Step]
    several: Callable[[st.DrawFn], tuple[Step, ...]] | None = None


def _base(draw: st.DrawFn, words: st.SearchStrategy[str] = WORDS) -> dict[str, Any]:
    executable = draw(st.sampled_from(["./sim", "/a b/sim", "sim=1", "a:b", "é"]))
    names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,4}", fullmatch=True)
    return {
        "argv": (executable, *draw(st.lists(words, max_size=4))),
        "env": draw(st.dictionaries(names, VALUES if words is WORDS else words, max_size=4)),
        "cwd": draw(st.sampled_from([None, "/scratch", "/a b", "rel,x"])),
        "options": tuple(
            draw(st.lists(st.sampled_from(["--foo=bar baz", "-v", "--x="]), max_size=2))
        ),
    }


def _layout(
    draw: st.DrawFn, hosts: tuple[str, ...] = HOSTS, *, even: bool = False
) -> dict[str, Any]:
    """Ranks; ranks on each node; or both and the hosts."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return {"ranks": draw(st.integers(1, 999))}
    per_node = draw(st.integers(1, 8))
    nodes = draw(st.integers(1, len(hosts)))
    last = per_node if even else draw(st.integers(1, per_node))
    found = {"ranks": (nodes - 1) * per_node + last, "ranks_per_node": per_node}
    return found | ({"hosts": hosts[:nodes]} if kind == 2 else {})


def _binding(draw: st.DrawFn, per_node: int | None) -> dict[str, Any]:
    """Nothing; or cores, to which ranks are bound or not; or named cores."""
    kind = draw(st.sampled_from(["default", "none", "core", "named"]))
    if kind != "named":
        return {"binding": kind}
    size, ranks = draw(st.integers(1, 3)), per_node or draw(st.integers(1, 4))
    cores = draw(
        st.lists(st.integers(0, 127), min_size=size * ranks, max_size=size * ranks, unique=True)
    )
    named = tuple(c for i in range(0, len(cores), size) for c in sorted(cores[i : i + size]))
    return {"binding": named, "cores_per_rank": size if size > 1 else None}


def _maybe(draw: st.DrawFn, **ranges: st.SearchStrategy[Any]) -> dict[str, Any]:
    return {name: draw(st.none() | values) for name, values in ranges.items()}


def _single(draw: st.DrawFn) -> Step:
    bound = draw(st.lists(st.integers(0, 63), max_size=3, unique=True))
    found = _base(draw) | _maybe(draw, gpus_per_rank=st.integers(0, 4)) | {"options": ()}
    if bound:
        found |= {"binding": tuple(bound), "cores_per_rank": len(bound)}
    return Step(**found)


def _srun(draw: st.DrawFn) -> Step:
    found = _base(draw) | _layout(draw)
    found |= _maybe(
        draw,
        cores_per_rank=st.integers(1, 64),
        gpus_per_rank=st.integers(0, 8),
        het_group=st.integers(0, 3),
        memory_per_node_bytes=st.integers(0, 9999).map(MIB.__mul__),
        walltime_s=st.integers(1, 999_999).map(float),
    )
    if draw(st.booleans()):
        found["nodes"] = len(found.get("hosts", ())) or None
    found |= _binding(draw, found.get("ranks_per_node"))
    share = draw(st.sampled_from([{"exclusive": True}, {"exclusive": False}, {"overlap": True}]))
    return Step(**found | share)


def _srun_several(draw: st.DrawFn) -> tuple[Step, ...]:
    """Programs of one layout, for a file; or of any."""
    if draw(st.booleans()):
        return tuple(replace(_srun(draw), het_group=i) for i in range(draw(st.integers(2, 3))))
    shared = _maybe(
        draw,
        cores_per_rank=st.integers(1, 64),
        gpus_per_rank=st.integers(0, 8),
        walltime_s=st.integers(1, 999).map(float),
    )
    shared |= {"overlap": draw(st.booleans()), "options": ("--label",)}
    return tuple(
        Step(**_base(draw, LINE) | {"ranks": draw(st.integers(1, 99))} | shared)
        for _ in range(draw(st.integers(2, 3)))
    )


def _mpirun(draw: st.DrawFn) -> Step:
    found = _base(draw) | _layout(draw)
    found |= _maybe(
        draw,
        gpus_per_rank=st.integers(0, 8),
        cores_per_rank=st.integers(1, 64),
        walltime_s=st.integers(1, 999_999).map(float),
    )
    found |= _binding(draw, found.get("ranks_per_node"))
    if isinstance(found["binding"], tuple):
        # A rank file says each rank's host and cores, and nothing else.
        nodes, per_node = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        size = found["cores_per_rank"] or 1
        cores = tuple(range(3, 3 + size * per_node))
        found |= {"ranks": nodes * per_node, "hosts": HOSTS[:nodes], "binding": cores}
        found.pop("ranks_per_node", None)
    return Step(**found)


def _mpirun_several(draw: st.DrawFn) -> tuple[Step, ...]:
    shared = _maybe(draw, walltime_s=st.integers(1, 999).map(float))
    hosts = list(HOSTS)
    named = draw(st.booleans())
    steps = []
    for _ in range(draw(st.integers(2, 3))):
        found = _base(draw) | shared | {"ranks": draw(st.integers(2, 9))}
        if named:
            found["hosts"] = tuple(hosts.pop() for _ in range(draw(st.integers(1, 2))))
        steps.append(Step(**found))
    return tuple(steps)


def _hydra(draw: st.DrawFn) -> Step:
    found = _base(draw) | _layout(draw)
    found |= _maybe(draw, gpus_per_rank=st.integers(0, 8))
    bound = _binding(draw, found.get("ranks_per_node"))
    if bound["binding"] == "default":
        bound |= _maybe(draw, cores_per_rank=st.integers(1, 64))
    return Step(**found | bound)


def _hydra_several(draw: st.DrawFn) -> tuple[Step, ...]:
    shared = _binding(draw, None)
    named = draw(st.booleans())
    steps = []
    for _ in range(draw(st.integers(2, 3))):
        found = _base(draw) | shared | {"ranks": draw(st.integers(1, 99))}
        if named:
            per_node, nodes = draw(st.integers(1, 8)), draw(st.integers(1, 4))
            found |= {"ranks": nodes * per_node, "hosts": HOSTS[:nodes], "ranks_per_node": per_node}
        steps.append(Step(**found))
    return tuple(steps)


def _pals(draw: st.DrawFn) -> Step:
    found = _base(draw) | _layout(draw)
    found |= _maybe(draw, cores_per_rank=st.integers(1, 64), gpus_per_rank=st.integers(0, 8))
    return Step(**found | _binding(draw, found.get("ranks_per_node")))


def _aprun(draw: st.DrawFn) -> Step:
    found = _base(draw) | _layout(draw) | _maybe(draw, cores_per_rank=st.integers(1, 64))
    found |= _binding(draw, found.get("ranks_per_node"))
    if per_node := found.get("ranks_per_node"):
        each = draw(st.none() | st.integers(0, 9999))
        found["memory_per_node_bytes"] = None if each is None else each * per_node * MIB
    return Step(**found)


def _jsrun(draw: st.DrawFn) -> Step:
    found = _base(draw)
    if draw(st.booleans()):
        return Step(**found | _placed(draw, HOSTS))
    found |= _maybe(draw, cores_per_rank=st.integers(1, 42), gpus_per_rank=st.integers(0, 6))
    found |= {"binding": draw(st.sampled_from(["default", "none", "core"]))}
    per_node, nodes = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    if draw(st.booleans()):
        each = draw(st.none() | st.integers(0, 9999))
        found |= {"ranks_per_node": per_node}
        found |= {"memory_per_node_bytes": None if each is None else each * per_node * MIB}
    return Step(**found | {"ranks": per_node * nodes})


def _placed(draw: st.DrawFn, hosts: tuple[str, ...]) -> dict[str, Any]:
    per_node, nodes = draw(st.integers(1, 4)), draw(st.integers(1, len(hosts)))
    found = _maybe(draw, gpus_per_rank=st.integers(1, 3)) | _binding(draw, per_node)
    if not isinstance(found["binding"], tuple):
        found = {"binding": tuple(range(per_node)), "cores_per_rank": None}
    where = {"hosts": hosts[:nodes], "ranks_per_node": per_node, "ranks": per_node * nodes}
    return found | where


def _jsrun_several(draw: st.DrawFn) -> tuple[Step, ...]:
    first = _base(draw, LINE)
    second = _base(draw, LINE) | {"options": ()}
    return (
        Step(**first | _placed(draw, HOSTS[:4])),
        Step(**second | _placed(draw, HOSTS[3:])),
    )


def _flux(draw: st.DrawFn) -> Step:
    found = _base(draw)
    found |= _maybe(
        draw,
        cores_per_rank=st.integers(1, 64),
        gpus_per_rank=st.integers(0, 8),
        walltime_s=st.integers(1, 999_999).map(float),
    )
    nodes = draw(st.none() | st.integers(1, 8))
    found |= {"nodes": nodes, "ranks": (nodes or 1) * draw(st.integers(1, 8))}
    if nodes and draw(st.booleans()):
        found["hosts"] = HOSTS[:nodes]
    return Step(**found | _binding(draw, None))


def _any_of(one: Callable[[st.DrawFn], Step]) -> Callable[[st.DrawFn], tuple[Step, ...]]:
    return lambda draw: tuple(one(draw) for _ in range(draw(st.integers(2, 3))))


CASES = [
    Case(SingleLauncher(), _single),
    Case(SrunLauncher(mpi="pmix", jobid="7"), _srun, _srun_several),
    Case(MpirunLauncher(), _mpirun, _mpirun_several),
    Case(
        MpirunLauncher(version=5, allow_run_as_root=True, oversubscribe=True),
        _mpirun,
        _mpirun_several,
    ),
    Case(MpiexecLauncher(options=("-launcher", "ssh")), _hydra, _hydra_several),
    Case(PalsLauncher(), _pals, _any_of(_pals)),
    Case(AprunLauncher(options=("-q",)), _aprun, _any_of(_aprun)),
    Case(JsrunLauncher(hosts=HOSTS, threads_per_core=4), _jsrun, _jsrun_several),
    Case(FluxLauncher(), _flux),
]
