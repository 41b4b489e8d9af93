# SPDX-License-Identifier: BSD-3-Clause
"""The page "Coming from SmartRedis": all names are there, and what it promises exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import ssdag

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from_smartredis.md"

#: Public methods of SmartRedis 0.6.1's classes for Python, without inherited logging.
CLIENT = """
    append_to_list config_get config_set copy_dataset copy_list copy_tensor dataset_exists
    delete_dataset delete_list delete_model delete_model_multigpu delete_script
    delete_script_multigpu delete_tensor flush_db get_ai_info get_dataset get_dataset_list_range
    get_datasets_from_list get_db_cluster_info get_db_node_info get_list_length get_model
    get_script get_tensor key_exists model_exists poll_dataset poll_key poll_list_length
    poll_list_length_gte poll_list_length_lte poll_model poll_tensor put_dataset put_tensor
    rename_dataset rename_list rename_tensor run_model run_model_multigpu run_script
    run_script_multigpu save set_data_source set_function set_function_multigpu set_model
    set_model_chunk_size set_model_from_file set_model_from_file_multigpu set_model_multigpu
    set_script set_script_from_file set_script_from_file_multigpu set_script_multigpu
    tensor_exists use_dataset_ensemble_prefix use_list_ensemble_prefix use_model_ensemble_prefix
    use_tensor_ensemble_prefix
"""
DATASET = """
    add_meta_scalar add_meta_string add_tensor from_pybind get_data get_meta_scalars
    get_meta_strings get_metadata_field_names get_metadata_field_type get_name get_tensor
    get_tensor_dims get_tensor_names get_tensor_type set_data
    add_metadata_for_xarray transform_to_xarray
"""
OPTIONS = """
    create_from_environment get_integer_option get_string_option is_configured
    override_integer_option override_string_option set_configoptions from_pybind get_data
    LogContext log_data log_warning log_error get_context set_context
"""
ENVIRONMENT = """
    SSDB SR_DB_TYPE SSKEYOUT SSKEYIN SR_CONN_TIMEOUT SR_CONN_INTERVAL SR_CMD_TIMEOUT
    SR_CMD_INTERVAL SR_SOCKET_TIMEOUT SR_MODEL_TIMEOUT SR_THREAD_COUNT SR_LOG_FILE SR_LOG_LEVEL
"""


def rows(section: str) -> list[list[str]]:
    """Rows of the table of a section, without the two of its head."""
    part = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    (text,) = [one for one in part if one.startswith(f"{section}\n")]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    """Names in code of a cell, without their arguments and classes."""
    code = re.findall(r"`([^`]+)`", cell)
    return [text.partition("(")[0].rpartition(".")[2] for text in code]


@pytest.mark.parametrize(
    ("section", "theirs"),
    [
        ("Client", CLIENT),
        ("Dataset", DATASET),
        ("Options and logging", OPTIONS),
        ("The environment", ENVIRONMENT),
    ],
)
def test_every_name_of_smartredis_is_in_the_table_once(section: str, theirs: str) -> None:
    told = [name for row in rows(section) for name in names(row[0])]
    assert not set(theirs.split()) - set(told)
    twice = {name for name in told if told.count(name) > 1} - {"from_pybind", "get_data"}
    assert not twice


@pytest.mark.parametrize(
    ("section", "ours"), [("Client", ssdag.Client), ("Dataset", ssdag.Dataset)]
)
def test_what_is_said_to_be_here_is_here(section: str, ours: type[Any]) -> None:
    seen = 0
    for theirs, here, *_ in rows(section):
        if here == "—":
            assert not [name for name in names(theirs) if hasattr(ours, name)]
            continue
        seen += 1
        if here.startswith("the same"):
            absent = [name for name in names(theirs) if not callable(getattr(ours, name, None))]
            assert not absent
        for name, arguments in re.findall(r"`(\w+)\(([^)]*)\)`", here):
            call = ours if name == ours.__name__ else getattr(ours, name)
            known = inspect.signature(call).parameters
            asked = [word.strip().rstrip("=") for word in arguments.split(",") if word.strip()]
            assert not [word for word in asked if word not in known], name
    assert seen > 5


def test_no_method_of_smartredis_was_forgotten() -> None:
    assert len(CLIENT.split()) == 61


def test_what_only_the_other_tables_name_is_here() -> None:
    assert "identifier" in inspect.signature(ssdag.Client).parameters
    assert "timeout_s" in inspect.signature(ssdag.Client).parameters
    assert "threads" in inspect.signature(ssdag.AsyncClient).parameters
    for name in re.findall(r"~ssdag\.(\w+)", PAGE.read_text()):
        assert hasattr(ssdag, name)
