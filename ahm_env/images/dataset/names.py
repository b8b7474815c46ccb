"""The names of the images of a set, in flat memory."""

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


class Names(Sequence[str]):
    """Names in one block of bytes, decoded when asked for."""

    def __init__(self, block: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self._block, self._ends = block, ends

    def __len__(self) -> int:
        """Count the names."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return the name at an index, or a list of the names in a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        start = self._ends[position - 1] if position else 0
        return self._block[start : self._ends[position]].tobytes().decode("utf-8", "surrogateescape")
