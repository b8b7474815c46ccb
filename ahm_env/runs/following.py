"""Under `torchrun` the first rank works in the run directory, the others in copies that are thrown away."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ahm_env.errors import RunError
from ahm_env.model import ranks


@contextmanager
def following() -> Iterator[Path | None]:
    """Connect the ranks until the block ends.

    Yields:
        None on the first rank, which opens a run. The others wait until it has called `ranks.leave_note`, and are given
        a copy of the run's directory, to go on with what is in it.

    Raises:
        RunError: The first rank could not open it.
    """
    with ranks.joined():
        if ranks.number() == 0:
            try:
                yield None
            except BaseException:
                ranks.leave_note("")  # where the others still wait, they need not
                raise
            return
        note = ranks.read_note()
        if not note:
            raise RunError(f"rank {ranks.number()}: the first rank could not begin, for the reason that it gives")
        with TemporaryDirectory(prefix="ahm-rank-") as copy:
            for path in [*Path(note).glob("*.json"), *sorted(Path(note).glob("checkpoints/[0-9]*"))[-1:]]:
                target = Path(copy) / path.relative_to(note)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)
            yield Path(copy)
