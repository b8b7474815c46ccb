import os
from pathlib import Path

import pytest

from ahm_env.images.formats.files import ASTRAY, CLOSED, walk
from ahm_env.images.formats.fingerprint import digest_tree


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("a", "b/c", "b/d/e", ".hidden", ".git/f", "Thumbs.db"):
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "top"


def found(top: Path, within: Path | None = None) -> dict[str, str]:
    return {each.relative: each.trouble for each in walk(top, within or top)}


def test_all_files_but_hidden_ones_are_found(top: Path) -> None:
    assert found(top) == {"a": "", "b/c": "", "b/d/e": ""}
    assert {each.path for each in walk(top, top)} == {str(top / name) for name in ("a", "b/c", "b/d/e")}


def test_a_file_is_itself_and_nothing_is_nothing(top: Path) -> None:
    assert found(top / "a") == {"a": ""}
    assert found(top / "none") == {}


def test_links_are_followed_to_files_within_only(top: Path) -> None:
    (top.parent / "outside").write_text("secret")
    for name, target in (("in", "a"), ("out", "../outside"), ("none", "nowhere"), ("loop", "b"), ("self", "self")):
        (top / name).symlink_to(target)
    troubles = {name: trouble for name, trouble in found(top).items() if trouble}
    assert troubles == dict.fromkeys(("out", "none", "loop", "self"), ASTRAY)
    assert found(top)["in"] == ""
    assert found(top, top.parent)["out"] == ""


def test_what_is_no_file_is_not_opened(top: Path) -> None:
    os.mkfifo(top / "pipe")
    assert "pipe" not in found(top)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_not_passed_over(top: Path) -> None:
    (top / "b").chmod(0)
    assert found(top) == {"a": "", "b": CLOSED}
    (top / "b").chmod(0o700)


def test_the_digest_follows_names_contents_and_where_the_folder_lies(top: Path) -> None:
    before = digest_tree(top, top)
    (top.parent / "link").symlink_to(top)
    assert digest_tree(top.parent / "link", top.parent / "link") == digest_tree(top, top) == before
    moved = top.rename(top.parent / "moved")
    seen = [before, digest_tree(moved, moved)]
    (moved / "b" / "c").rename(moved / "b" / "g")
    seen.append(digest_tree(moved, moved))
    (moved / "b" / "g").write_text("longer than before")
    assert len({*seen, digest_tree(moved, moved)}) == 4
