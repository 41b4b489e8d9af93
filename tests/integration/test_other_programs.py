# SPDX-License-Identifier: BSD-3-Clause
"""Programs that are no tasks: a plain script and redis-cli hand data to tasks, and get some."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ssdag
from ssdag import Orchestrator, python_app

DEADLINE_S = 60.0

SCRIPT = """\
import numpy as np
from ssdag.client import Client
with Client() as client:  # where it is says the environment
    client.put_tensor("field", np.arange(6.0).reshape(2, 3))
    client.wait_tensor("answer", 60)
    print(client.get_tensor("answer").tolist())
"""


@python_app
def scale(field: Any, factor: bytes, db: ssdag.Client) -> None:
    db.put_tensor("answer", field * float(factor))
    db.call("SET", "said", "done")


@pytest.mark.skipif(
    not shutil.which("redis-cli"), reason="no redis-cli: apt-get install redis-tools"
)
def test_a_script_and_redis_cli_work_with_a_task(tmp_path: Path) -> None:
    with ssdag.load(), Orchestrator() as db:
        task = scale(db.tensor("field"), db.key("factor"), db)
        env = {**os.environ, **db.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
        secret = Path(db.password_file).read_text().strip()

        def cli(*words: str) -> str:
            return subprocess.run(
                ["redis-cli", "-s", db.address.removeprefix("unix://"), *words],
                env={**os.environ, "REDISCLI_AUTH": secret}, cwd=tmp_path, text=True,
                capture_output=True, timeout=DEADLINE_S, check=True,
            ).stdout  # fmt: skip

        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE
        ) as script:
            assert cli("SET", "factor", "2") == "OK\n"
            task.result(DEADLINE_S)
            output, _ = script.communicate(timeout=DEADLINE_S)
        assert output == "[[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]\n"
        assert cli("GET", "said") == "done\n"
        assert cli("STRLEN", "answer") == f"{128 + 48}\n"  # an NPY file
