import errno
import os
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from ahm_env.errors import SettingsError
from ahm_env.files import cache_root
from ahm_env.images.dataset import cache as cache_module
from ahm_env.images.dataset.cache import ArrayWriter, Meta, entry_key, locked, new_entry, read_meta, write_meta
from ahm_env.images.pixels.fit import PixelSettings

META = Meta(
    pixels=PixelSettings(8),
    channels=1,
    classes=("a", "b"),
    has_masks=False,
    masks_read=True,
    binary_masks=True,
    skipped=2,
    empty=0,
    images_content="a",
    content="ab",
)


def make_entry(root: Path, key: str = "key", content: bytes = b"12345") -> Path:
    root.mkdir(exist_ok=True)
    with locked(root, key), new_entry(root, key) as directory:
        (directory / "data").write_bytes(content)
        write_meta(directory, META)
    return root / key


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.suffix == ".tmp"]


def test_the_directory_is_the_argument_or_the_environment_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    monkeypatch.delenv("AHM_CACHE", raising=False)
    assert cache_root(None) == tmp_path / "user"
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "environment"))
    assert cache_root(None) == tmp_path / "environment"
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert (tmp_path / "argument").is_dir()
    monkeypatch.setenv("AHM_CACHE", "")
    assert cache_root(None) == tmp_path / "user"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_directory_that_cannot_be_made_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SettingsError, match=rf"{tmp_path}/a: .*{os.strerror(number)}.*; set AHM_CACHE"):
        cache_root(tmp_path / "a")


def test_a_file_in_place_of_the_directory_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for blocked in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(SettingsError, match="set AHM_CACHE to a directory"):
            cache_root(blocked)


def test_a_full_disk_is_not_mistaken_for_a_forbidden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        cache_root(tmp_path / "a")


def test_the_key_follows_content_settings_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [entry_key("a", {"size": 1}), entry_key("b", {"size": 1}), entry_key("a", {"size": 2})]
    assert keys[0] == entry_key("a", {"size": 1})
    monkeypatch.setattr(cache_module, "FORMAT", -1)
    keys.append(entry_key("a", {"size": 1}))
    assert len(set(keys)) == 4
    assert all(set(key) <= set("0123456789abcdef") for key in keys)


def test_what_an_entry_holds_is_read_back(tmp_path: Path) -> None:
    assert read_meta(make_entry(tmp_path)) == META
    assert leftovers(tmp_path) == []


def test_an_entry_that_is_absent_or_damaged_is_none(tmp_path: Path) -> None:
    assert read_meta(tmp_path / "absent") is None
    entry = make_entry(tmp_path, content=b"12345")
    for damage in (
        lambda: (entry / "data").write_bytes(b"1234"),
        lambda: (entry / "data").unlink(),
        lambda: (entry / "set.json").write_text("{}"),
        lambda: (entry / "set.json").write_text("[1]"),
        lambda: (entry / "set.json").write_text('{"meta": {"classes": []}, "sizes": {}}'),
        lambda: (entry / "set.json").write_bytes(b"\xff\xfe"),
        lambda: (entry / "set.json").unlink(),
    ):
        make_entry(tmp_path)
        damage()
        assert read_meta(entry) is None
    assert read_meta(make_entry(tmp_path)) == META
    assert leftovers(tmp_path) == []


def fail_half_way(root: Path) -> None:
    with new_entry(root, "key") as directory:
        (directory / "data").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_leaves_nothing_in_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        fail_half_way(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_the_entry_that_was_there(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        fail_half_way(tmp_path)
    assert read_meta(entry) == META


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "key.0123.tmp").mkdir()
    (tmp_path / "other.0123.tmp").mkdir()
    make_entry(tmp_path)
    assert leftovers(tmp_path) == ["other.0123.tmp"]


def test_losing_the_race_for_an_entry_is_no_error(tmp_path: Path) -> None:
    with new_entry(tmp_path, "key") as slow:
        (slow / "data").write_bytes(b"12345")
        write_meta(slow, META)
        fast = tmp_path / "fast"
        slow_copy = {path.name: path.read_bytes() for path in slow.iterdir()}
        fast.mkdir()
        for name, content in slow_copy.items():
            (fast / name).write_bytes(content)
        fast.rename(tmp_path / "key")
    assert read_meta(tmp_path / "key") == META
    assert leftovers(tmp_path) == []


def test_a_cache_that_forbids_writing_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SettingsError, match="set AHM_CACHE"), locked(tmp_path, "key"):
        pass


@pytest.mark.parametrize("row_shape", [(), (3,), (2, 4, 4)])
def test_an_array_written_row_by_row_is_a_plain_npy_file(tmp_path: Path, row_shape: tuple[int, ...]) -> None:
    array = np.arange(5 * int(np.prod(row_shape)), dtype=np.int32).reshape(5, *row_shape)
    writer = ArrayWriter(tmp_path / "a.npy", row_shape, np.int32)
    writer.append(array[0])
    writer.append(array[1:4])
    writer.append(array[4])
    writer.close()
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), array)


def test_an_array_without_rows_is_a_plain_npy_file(tmp_path: Path) -> None:
    ArrayWriter(tmp_path / "a.npy", (3,), np.uint8).close()
    assert np.load(tmp_path / "a.npy").shape == (0, 3)


def test_an_entry_is_for_its_owner_only(tmp_path: Path) -> None:
    with new_entry(tmp_path, "key") as directory:
        (directory / "data").write_bytes(b"pixels")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o700
