"""Where the numbers of a run come from: the command, the versions and the commit that made them."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("ahm-env", "torch", "numpy", "gymnasium", "opencv-python", "safetensors")


def provenance() -> dict[str, Any]:
    """Command, versions and git commit of this process."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    return {"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "versions": versions, "git_commit": _git_commit()}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """Commit of the code that runs, None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
