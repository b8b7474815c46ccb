"""What was decoded most recently, for threads that want parts of the same volume one after another."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class LRUCache(Generic[T]):
    """Keeps the last few values made; who wants one that is being made waits for it.

    Pickled, it is empty: values stay where they were made.
    """

    def __init__(self, most: int) -> None:
        """Start without values; `most` is how many are kept."""
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def __reduce__(self) -> tuple[type["LRUCache[T]"], tuple[int]]:
        return type(self), (self._most,)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of that key, made now if it is not kept.

        Raises:
            Exception: What `make` raises, in every thread that waits for it; the next call tries again.
        """
        with self._lock:
            future = self._values.get(key)
            missing = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        if missing:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._values.get(key) is future:
                        del self._values[key]
                future.set_exception(error)
        return future.result()
