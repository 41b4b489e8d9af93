# SPDX-License-Identifier: BSD-3-Clause
"""Host lists: what schedulers write is read, and what we write reads back."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag.providers import hostlists, options


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("n[1-3,07],login", ["n1", "n2", "n3", "n07", "login"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("r[0-1]n[1-2]-ib", ["r0n1-ib", "r0n2-ib", "r1n1-ib", "r1n2-ib"]),
        ("a, b", ["a", "b"]),
        ("n[5]", ["n5"]),
        ("n1,n1", ["n1", "n1"]),
    ],
)
def test_lists_are_read(text: str, hosts: list[str]) -> None:
    assert hostlists.parse(text) == hosts


@pytest.mark.parametrize(
    "text", ["n[1", "n1]", "n[3-1]", "n[a-b]", "n[]", "a,,b", "a b", "n[0-99999999]", "n[[1]]"]
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host list"):
        hostlists.parse(text)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (["n1", "n2", "n3", "n7", "login"], "n[1-3,7],login"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n9", "n10"], "n[9-10]"),
        (["n1", "n01"], "n[1,01]"),
        (["a", "a"], "a,a"),
        (["n2", "n1"], "n[2,1]"),
        ([], ""),
    ],
)
def test_lists_are_written(hosts: list[str], text: str) -> None:
    assert hostlists.compress(hosts) == text


_HOSTS = st.lists(
    st.from_regex(r"\A[a-c]{0,2}[0-9]{0,3}(-[a-z])?[0-9]{0,3}\Z").filter(bool), max_size=30
)


@given(_HOSTS)
def test_what_is_written_reads_back(hosts: list[str]) -> None:
    assert hostlists.parse(hostlists.compress(hosts)) == hosts


@given(st.text(alphabet="n[]0123-, ", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        hosts = hostlists.parse(text)
    except ValueError:
        return
    assert all(hosts)


def test_repeated_numbers() -> None:
    assert hostlists.repeated("2(x2),4") == [2, 2, 4]
    assert hostlists.repeated("16") == [16]
    for text in ("", "x", "2(x)", "2(x2", "2,,3", "1(x9999999999)"):
        with pytest.raises(ValueError, match="not of the form"):
            hostlists.repeated(text)


def test_the_examples_of_the_documentation_are_true() -> None:
    for module in (hostlists, options):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed
