# SPDX-License-Identifier: BSD-3-Clause
"""Command lines for remote shells, and what is read from their answers."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssdag.errors import ConfigError
from ssdag.executors import BatchExecutor
from ssdag.providers import SlurmProvider
from ssdag.providers.ssh import SshRunner
from ssdag.providers.ssh_texts import (
    between,
    check_host,
    check_options,
    join,
    quote,
    remote_line,
)
from ssdag.tasks import Options

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
SHELLS = [
    name for name in ("sh", "bash", "dash", "zsh", "csh", "tcsh", "fish") if shutil.which(name)
]
HARD = ["", "-n", "~", "=ls", "%1", "a b", "it's", '"', "\\", "\\'", "!x", "!!", "$HOME", "`id`"]
HARD += ["{a,b}", "*", "[a]", "#", "a;b", "&", "|", "<>", "(x)", "^", "\t", "ü", "a\\", "'!\\'"]


@given(st.lists(WORDS, min_size=1, max_size=6))
@example(HARD)
@example(["a\nb", "\n"])
def test_a_line_parses_back_to_the_same_arguments(words: list[str]) -> None:
    assert shlex.split(join(words)) == words


@pytest.mark.parametrize("shell", SHELLS)
def test_every_login_shell_reads_the_same_arguments(shell: str) -> None:
    argv = ["/bin/sh", "-c", r'for a; do printf "%s\0" "$a"; done', "sh", *HARD]
    done = subprocess.run([shell, "-c", join(argv)], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == HARD


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=20, deadline=None)
@given(words=st.lists(WORDS.filter(lambda w: "\n" not in w), min_size=1, max_size=4))
def test_arguments_and_exit_codes_survive_a_shell(shell: str, words: list[str]) -> None:
    script = r'for a; do printf "%s\0" "$a"; done; exit 255'
    line = remote_line(["/bin/sh", "-c", script, "sh", *words], "MARK", 10, login=False)
    done = subprocess.run([shell, "-c", f"echo welcome; {line}"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found = between(done.stdout.decode(), "MARK")
    assert found is not None
    assert (found[0].split("\0")[:-1], found[1]) == (words, 255)


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 255))
def test_an_answer_is_what_stands_between_the_marks(noise: str, said: str, code: int) -> None:
    whole = f"{noise}MARK-7\n{said}\nMARK-7 {code}\n"
    assert between(whole, "MARK-7") == (said, code)
    for end in range(len(whole) - len(f" {code}\n")):
        assert between(whole[:end], "MARK-7") is None  # cut off


def test_a_nul_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b", "a;b", "$x", None, "a\n"])
def test_hosts_that_are_none(host: object) -> None:
    with pytest.raises(ConfigError, match="a host is needed"):
        check_host(host)


@pytest.mark.parametrize("host", ["me@login.site.org", "alias", "10.0.0.1", "fe80::1%eth0"])
def test_hosts(host: str) -> None:
    assert check_host(host) == host


@pytest.mark.parametrize("options", ["-p 22", 3, [3], [""], ["a\0"]])
def test_options_that_are_none(options: object) -> None:
    with pytest.raises(ConfigError, match="ssh_options"):
        check_options(options)


def test_options_of_a_provider_fit_together() -> None:
    with pytest.raises(ConfigError, match="ssh_folder= is needed"):
        SlurmProvider(ssh="host")
    with pytest.raises(ConfigError, match="add ssh="):
        SlurmProvider(ssh_folder="/x")
    with pytest.raises(ConfigError, match="absolute path"):
        SlurmProvider(ssh="host", ssh_folder="~/x")
    runner = SshRunner("host", "/x")
    with pytest.raises(ConfigError, match="exclude each other"):
        SlurmProvider(ssh="host", ssh_folder="/x", runner=runner)


def test_scripts_are_seen_without_a_connection() -> None:
    provider = SlurmProvider(ssh="me@far", ssh_folder="/scratch/me/", partition="gpu")
    job = provider.job("train", ["true"], "runs/a")
    assert job.folder.startswith("/scratch/me/a-")
    assert job.folder == provider.job("other", ["true"], "runs/a").folder
    assert job.folder != provider.job("train", ["true"], "other/a").folder
    assert provider.job("train", ["true"], "/scratch/me/own").folder == "/scratch/me/own"
    assert f"--output={job.folder}/train.out" in provider.script(job)


def test_a_batch_executor_needs_a_folder_that_both_machines_see() -> None:
    provider = SlurmProvider(ssh="me@far", ssh_folder="/scratch/me")
    told = BatchExecutor(provider, folder="runs").check(Options(), "bash")
    assert told is not None
    assert "PilotExecutor" in told
    assert BatchExecutor(provider, folder="/scratch/me/runs").check(Options(), "bash") is None
