"""Real files that come with packages, read as others read them, or refused, or on a list with the reason.

`python -m benchmarks.reading.references` prints the counts as a table, of other folders, too.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ahm_env.images.references.comparison import compare, packages, real_files


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "package", "least"), [
    ("pictures", "PIL", 130),
    ("masks", "PIL", 15),
    ("NIfTI", "nibabel", 5),
    ("DICOM", "pydicom", 90),
])  # fmt: skip
def test_real_files_are_read_as_others_read_them(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    kind: str,
    package: str,
    least: int,
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("AHM_CACHE", str(tmp_path))
    counts = compare(kind, real_files(kind, packages()))
    assert counts.faults == []
    assert counts.equal + counts.refused + counts.listed.total() == counts.files
    assert counts.equal >= least
    others = ", ".join(f"{reader} {count}" for reader, count in counts.readers.items())
    told = f"{kind} of packages: {counts.files} files, {counts.equal} equal to what others read ({others})"
    record_property("summary", f"{told}, {counts.refused} refused, {counts.listed.total()} listed")
