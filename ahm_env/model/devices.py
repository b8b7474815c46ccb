"""Where to compute, and in which precision."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ahm_env.errors import SettingsError

PRECISIONS = ("auto", "fp32", "bf16")

_starting = threading.Lock()  # one thread at a time hides the script

# A forked process has PyTorch's pool of threads, but not the threads: without this it would wait for them for ever.
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def find_device(name: str | torch.device) -> torch.device:
    """Find the device of this name; `auto` is the best that this machine has.

    Raises:
        SettingsError: Not a device of this machine.
    """
    if name == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingsError(f"--device {name} is not on this machine; use cpu, or auto") from None


@contextmanager
def without_script(*parts: object) -> Iterator[None]:
    """Start processes that do not run the user's script once more, which would begin again what it has begun.

    Args:
        parts: What they need that may be of the script itself, and not of a module that they import: functions, or
            names of classes, `__main__:Class`. Where one is, they do run the script, which then needs a guard.
    """
    with _starting:
        script = sys.modules["__main__"]
        known: dict[str, Any] = {name: vars(script)[name] for name in ("__file__", "__spec__") if name in vars(script)}
        try:
            if not any(map(_is_of_script, parts)):
                vars(script).update(dict.fromkeys(known))  # by these a process would find it
            yield
        finally:
            vars(script).update(known)


def _is_of_script(part: object) -> bool:
    if isinstance(part, str):
        return part.startswith("__main__:")
    part = getattr(part, "func", part)  # of a partial
    return "__main__" in (getattr(part, "__module__", None), type(part).__module__)


def count_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_precision(name: str, device: torch.device) -> str:
    """Choose the precision of a network's layers; `auto` is bf16 if the device has instructions for it, else fp32.

    Raises:
        SettingsError: Unknown precision.
    """
    if name not in PRECISIONS:
        raise SettingsError(f"precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16: PyTorch computes with it elsewhere, too, but more slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False  # by the kernels in use, which the environment may have lowered
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def describe_precision(precision: str, device: torch.device) -> str:
    """Describe a precision for people, with the reason if bf16 would not pay."""
    reason = "" if precision == "bf16" or has_bf16(device) else f": no instructions for bf16 on this {device.type}"
    return f"{precision}{reason}"


def as_tensor(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Move an array to the device in PyTorch's default precision; pinned and asynchronous where that pays."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, torch.get_default_dtype())
