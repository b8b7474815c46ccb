"""Python code that `torchrun` runs in several processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone")


def torchrun(folder: Path, code: str, *words: str, ranks: int = 2) -> "subprocess.CompletedProcess[str]":
    """Write code into a folder, and run it by so many ranks on this machine."""
    script = folder / "ranks.py"
    script.write_text(code, encoding="utf-8")
    python = [sys.executable, *LAUNCHER, f"--nproc-per-node={ranks}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*python, str(script), *words], capture_output=True, text=True, timeout=540, env=env)
