import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import Files, files_in, is_image, stem_of
from ahm_env.images.formats.fingerprint import digest, stamp
from ahm_env.images.formats.limits import HARMLESS_BYTES, MOST_SWELLING, refuse_bomb

STEMS = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def pictures(folder: Path) -> Files:
    return Files(entry.name for entry in files_in(folder) if is_image(entry.name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(stems=st.sets(STEMS.filter(lambda stem: stem[0] != "." and len(stem.encode()) < 200), max_size=20))
def test_files_of_any_name_are_found_with_and_without_extension(
    tmp_path_factory: pytest.TempPathFactory, stems: set[str]
) -> None:
    folder = touch(tmp_path_factory.mktemp("any"), *(f"{stem}.png" for stem in stems))
    files = pictures(folder)
    assert sorted(stem_of(name).encode() for name in files) == sorted(stem.encode() for stem in stems)
    order = [stem_of(name) for name in files]
    for stem in stems:
        assert files.named(stem) == [f"{stem}.png"]
        assert files.position(f"{stem}.png") == order.index(stem)


def test_a_name_is_found_by_its_whole_self_only(tmp_path: Path) -> None:
    files = pictures(touch(tmp_path, "a.png", "a-1.png", "scan.2.tif", "b.JPG"))
    assert [stem_of(name) for name in files] == ["a", "a-1", "b", "scan.2"]
    assert files.position("a") == files.position("a.png") == 0
    assert files.position("scan.2") == files.position("scan.2.tif") == 3
    assert [files.position(name) for name in ("a.tif", "scan", "b.jpg", "", "z" * 300)] == [None] * 5


def test_files_of_the_same_stem_come_together(tmp_path: Path) -> None:
    files = pictures(touch(tmp_path, "a.png", "a.bmp", "ab.png"))
    assert files.named("a") == ["a.bmp", "a.png"]
    assert files.named("c") == []
    assert (files.position("a"), files.position("a.png")) == (None, 1)


def test_masks_without_an_image_are_found(tmp_path: Path) -> None:
    images = pictures(touch(tmp_path / "images", "b.jpg", "d.jpg"))
    masks = pictures(touch(tmp_path / "masks", "a.png", "b.png", "c.png", "d.png", "e.png"))
    assert masks.not_in(images) == ["a.png", "c.png", "e.png"]
    assert images.not_in(masks) == []
    assert images.not_in(pictures(tmp_path / "none")) == ["b.jpg", "d.jpg"]


def test_hidden_files_and_folders_and_other_types_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "notes.txt")
    (tmp_path / "folder.png").mkdir()
    assert list(pictures(tmp_path)) == ["a.png"]
    assert sorted(entry.name for entry in files_in(tmp_path)) == ["a.png", "notes.txt"]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert len(pictures(tmp_path / "none")) == 0


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match=rf"{tmp_path}: cannot be read \(Permission denied\)"):
        pictures(tmp_path)


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert list(pictures(tmp_path)) == [name]


def test_the_digest_follows_name_size_time_and_mode(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    seen = [digest(tmp_path)]
    assert digest(tmp_path) == seen[0]
    (tmp_path / "a.png").write_bytes(b"more")
    seen.append(digest(tmp_path))
    os.utime(tmp_path / "b.png", ns=(1, 1))
    seen.append(digest(tmp_path))
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    seen.append(digest(tmp_path))
    (tmp_path / "c.png").chmod(0o400)
    seen.append(digest(tmp_path))
    assert len(set(seen)) == 5


def test_the_stamp_of_a_file_follows_its_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    seen = [stamp(file)]
    for content, time in ((b"", 7), (b"more", 7), (b"less", 6)):
        file.write_bytes(content)
        os.utime(file, ns=(time, time))
        seen.append(stamp(file))
    file.chmod(0o400)
    os.utime(file, ns=(9, 6))
    assert stamp(file) == seen[-1]
    assert (seen[0], len(set(seen))) == ("", 4)


def test_a_link_to_nothing_is_listed_and_does_not_stop_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert list(pictures(tmp_path)) == ["a.png"]
    assert digest(tmp_path)


def test_what_swells_little_or_stays_small_is_no_bomb() -> None:
    refuse_bomb("a", HARMLESS_BYTES, 1)
    refuse_bomb("a", 3 * HARMLESS_BYTES, 3 * HARMLESS_BYTES // MOST_SWELLING + 1)
    for unpacked, packed in ((HARMLESS_BYTES + 1, 1), (3 * HARMLESS_BYTES, 3 * HARMLESS_BYTES // MOST_SWELLING)):
        with pytest.raises(ImageError, match=rf"a: {packed:,} bytes that unpack to {unpacked:,} are no images"):
            refuse_bomb("a", unpacked, packed)
