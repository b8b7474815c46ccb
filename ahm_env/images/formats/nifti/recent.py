"""What was decoded most recently, for threads that want parts of the same volume one after another."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ahm_env.errors import ImageError

T = TypeVar("T")


class LRUCache(Generic[T]):
    """Keeps the last few values made, one after the other; pickled, it is empty."""

    def __init__(self, most: int) -> None:
        """Start without values; `most` is how many are kept."""
        self._most, self._lock = most, threading.Lock()
        self._values = dict[Hashable, T | ImageError]()

    def __reduce__(self) -> tuple[type["LRUCache[T]"], tuple[int]]:
        return type(self), (self._most,)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of that key, made now if it is not kept; others wait while it is made.

        Raises:
            ImageError: It cannot be made, which is kept, too: nobody else need find out again.
        """
        with self._lock:
            self._values[key] = value = self._values.pop(key) if key in self._values else _made(make)
            if len(self._values) > self._most:
                del self._values[next(iter(self._values))]
        if isinstance(value, ImageError):
            raise ImageError(str(value))
        return value


def _made(make: Callable[[], T]) -> T | ImageError:
    try:
        return make()
    except ImageError as error:
        return ImageError(str(error))  # another one: the first keeps alive what was decoded before it
