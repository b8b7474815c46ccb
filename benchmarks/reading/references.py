"""Read real files with our readers and with others: `python -m benchmarks.reading.references [FOLDER …]`.

Without folders, all files that come with the packages that are installed; SimpleITK and scikit-image come with the
extra `dev`. Prints a table, what is listed and why, and what differs without being listed.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.ahm_env.images.references.comparison import READ, compare, packages, real_files


def main() -> None:
    """Compare and print; status 1 if something differs that is not listed."""
    roots = [Path(word) for word in sys.argv[1:]] or packages()
    warnings.simplefilter("ignore")
    table = Table("kind", "files", "equal", "refused", "listed", "different", "read by")
    listed, faults = list[str](), list[str]()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["AHM_CACHE"] = cache
        for kind in READ:
            counts = compare(kind, real_files(kind, roots))
            numbers = (counts.files, counts.equal, counts.refused, counts.listed.total(), len(counts.faults))
            others = ", ".join(f"{reader} {count}" for reader, count in counts.readers.items())
            table.add_row(kind, *map(str, numbers), others)
            listed += [f"{kind}: {count} listed: {reason}" for reason, count in counts.listed.items()]
            faults += counts.faults
    Console().print(table)
    print(*listed, *faults, sep="\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
