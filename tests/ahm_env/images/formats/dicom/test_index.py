import pytest

from ahm_env.images.formats.dicom.index import DicomFiles, stem_of


def files(frames: dict[str, int]) -> DicomFiles:
    return DicomFiles(frames, ((count, 0, False) for count in frames.values()))


NAMES = {
    "s/b.dcm": 3,
    "s/a.dcm": 1,
    "1.2.840.9": 1,
    "1.2.840.10": 2,
    "s/a b.ima": 1,
    "s/c.dcm": 1,
    "s/c.ima": 1,
    "s": 1,
}


def test_files_come_by_stem_with_their_frames() -> None:
    found = files(NAMES)
    assert list(found) == sorted(NAMES, key=lambda name: (stem_of(name), name))
    assert [NAMES[name] for name in found] == found.known["frames"].tolist()
    assert len(files({})) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_found_by_its_name(name: str) -> None:
    assert list(files(NAMES))[files(NAMES).position(name)] == name


@pytest.mark.parametrize(("stem", "name"), [("s/a", "s/a.dcm"), ("s/a b", "s/a b.ima"), ("s/b", "s/b.dcm")])
def test_a_file_is_found_without_its_extension(stem: str, name: str) -> None:
    assert list(files(NAMES))[files(NAMES).position(stem)] == name


@pytest.mark.parametrize("name", ["s/c", "1.2.840", "1.2", "a", "s/", "s/b.dc", "s/a.ima", "", "zzz"])
def test_what_is_not_there_or_may_be_several_is_not_found(name: str) -> None:
    assert files(NAMES).position(name) is None
    assert files({}).position(name) is None


def test_numbers_are_no_extension() -> None:
    assert stem_of("1.2.840.113619") == "1.2.840.113619"
    assert stem_of("s/IM.0001") == "s/IM.0001"
    assert stem_of("s/IM.0001.dcm") == "s/IM.0001"
    assert stem_of("s.t/IM") == "s.t/IM"


@pytest.mark.parametrize("stem", ["s/a", "s/b_0001", "s/b_0003", "1.2.840.9", "1.2.840.10_0002"])
def test_the_stems_of_frames_are_known(stem: str) -> None:
    assert files(NAMES).has_frame(stem)


@pytest.mark.parametrize("stem", ["s/b", "s/b_0004", "s/b_0000", "s/b_1", "s/a_0001", "s/z", "1.2.840"])
def test_others_are_not(stem: str) -> None:
    assert not files(NAMES).has_frame(stem)
