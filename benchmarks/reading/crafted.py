"""Crafted files: `python -m benchmarks.reading.crafted` (Linux; needs the extra `medical`).

Makes files that ask for more than there is, or for what they must not have – bombs, sizes of 100,000 x 100,000,
pickles, links that lead out of the folder – and reads each as the product does. Each must be refused, within a second
and 500 MB.
"""

import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ahm_env.errors import AHMError
from benchmarks.speed.memory import in_use
from tests.crafted import make, read_source

SECONDS, MEGABYTES = 1.0, 500


def main() -> None:
    """Read and print."""
    table = Table("what", "how it ends", "s", "MB")
    fine = True
    with tempfile.TemporaryDirectory() as name:
        files = make(Path(name))
        for kind in ("png", "nii", "dcm"):
            read_source(Path(name) / f"harmless-{kind}")  # what is imported on the way is not counted
        for what, (path, read) in files.items():
            Path("/proc/self/clear_refs").write_text("5")  # the largest memory is counted from here
            before, begin = in_use("VmRSS"), time.perf_counter()
            try:
                read(path)
                end = "READ"
            except AHMError as error:
                end = str(error).replace(name, "")
            taken, grown = time.perf_counter() - begin, in_use("VmHWM") - before
            fine &= end != "READ" and taken < SECONDS and grown < MEGABYTES
            table.add_row(what, end, f"{taken:.2f}", f"{grown:.0f}")
    Console().print(table)
    raise SystemExit(not fine)


if __name__ == "__main__":
    main()
