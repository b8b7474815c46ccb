"""Devices and precisions: what is asked for, and what the machine decides."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.spawn import get_preparation_data
from types import ModuleType

import numpy as np
import pytest
import torch

from ahm_env import SettingsError
from ahm_env.model import devices
from ahm_env.model.devices import as_tensor, describe_precision, find_device, find_precision, has_bf16, without_script

CPU = torch.device("cpu")


def test_devices_by_name():
    assert find_device("cpu") == CPU
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(SettingsError, match="--device cuda:99 is not on this machine"):
        find_device("cuda:99")


def test_auto_is_bf16_where_there_are_instructions_and_nothing_else_is_decided(monkeypatch: pytest.MonkeyPatch):
    for there, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(devices, "has_bf16", lambda device, there=there: there)
        assert find_precision("auto", CPU) == expected
        assert find_precision("fp32", CPU) == "fp32"
        assert find_precision("bf16", CPU) == "bf16"
        assert describe_precision(expected, CPU) == ("bf16" if there else "fp32: no instructions for bf16 on this cpu")
    with pytest.raises(SettingsError, match="precision 'half' is unknown; choose one of auto, fp32, bf16"):
        find_precision("half", CPU)


@pytest.mark.parametrize(
    ("capability", "avx512_bf16", "amx", "expected"),
    [
        ("AVX2", True, True, False),  # lowered by the environment
        ("AVX512", False, False, False),
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
    ],
)
def test_pytorch_is_asked(monkeypatch, capability: str, avx512_bf16: bool, amx: bool, expected: bool):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bf16(CPU) is expected
    assert not has_bf16(torch.device("mps"))


def test_the_tests_are_not_computed_in_bf16_unasked():
    assert not has_bf16(CPU)


def test_a_process_does_not_find_the_script_unless_a_class_is_in_it(monkeypatch: pytest.MonkeyPatch):
    script = ModuleType("__main__")
    script.__file__ = "script.py"
    monkeypatch.setitem(sys.modules, "__main__", script)
    with without_script("a3c", None):
        assert get_preparation_data("child").keys() & {"init_main_from_path", "init_main_from_name"} == set()
    assert get_preparation_data("child")["init_main_from_path"].endswith("script.py")

    def mine() -> None: ...

    with without_script(partial(mine), len):
        assert "init_main_from_path" not in get_preparation_data("child")
    mine.__module__ = "__main__"
    for part in ("__main__:Mine", mine, partial(mine)):
        with without_script(None, part):
            assert get_preparation_data("child")["init_main_from_path"].endswith("script.py")


def test_threads_that_start_processes_at_once_leave_the_script_as_it_was(monkeypatch: pytest.MonkeyPatch):
    script = ModuleType("__main__")
    script.__file__ = "script.py"
    monkeypatch.setitem(sys.modules, "__main__", script)

    def start(_: int) -> None:
        with without_script():
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(8)))
    assert script.__file__ == "script.py"


@pytest.mark.parametrize(
    "array", [np.array([[0, 255]], np.uint8), np.array([True, False]), np.arange(8.0)[::2], np.zeros((0, 3), bool)]
)
def test_arrays_become_float_tensors_of_the_same_numbers(array):
    tensor = as_tensor(array, torch.device("cpu"))
    assert tensor.dtype == torch.float32
    assert np.array_equal(tensor.numpy(), array)
