import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ahm_env.images.formats.nifti.recent import LRUCache


def test_the_last_values_are_kept_and_older_ones_made_again() -> None:
    recent, made = LRUCache[str](2), []

    def get(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "aabab"] == list("AABAB")
    assert made == ["a", "b"]
    get("c")  # b was wanted last, so a goes
    get("b")
    get("a")
    assert made == ["a", "b", "c", "a"]


def test_threads_wait_for_a_value_that_is_being_made() -> None:
    recent, made, others = LRUCache[int](1), [], threading.Barrier(4)

    def make() -> int:
        time.sleep(0.05)
        made.append(1)
        return 7

    def get(_: int) -> int:
        others.wait()
        return recent.get("key", make)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(get, range(4))) == [7] * 4
    assert made == [1]


def test_a_failure_is_raised_and_not_kept() -> None:
    recent = LRUCache[int](1)
    with pytest.raises(ZeroDivisionError):
        recent.get("key", lambda: 1 // 0)
    assert recent.get("key", lambda: 3) == 3


def test_pickled_it_is_empty() -> None:
    recent = LRUCache[int](1)
    recent.get("key", lambda: 1)
    assert pickle.loads(pickle.dumps(recent)).get("key", lambda: 2) == 2
    assert recent.get("key", lambda: 3) == 1
