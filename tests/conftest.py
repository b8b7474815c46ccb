"""For all tests: one thread a process, since tests run side by side, kernels that every CPU has, the command line."""

import os
import sys
from collections.abc import Callable

import pytest

# before PyTorch looks, so that no machine computes in bf16 unasked
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

import torch

import ahm

torch.set_num_threads(1)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `ahm` in this process: status, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ahm", *words])
        with pytest.raises(SystemExit) as ended:
            ahm.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call
