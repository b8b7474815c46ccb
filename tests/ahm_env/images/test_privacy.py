from pathlib import Path

import pytest

from ahm_env.errors import SettingsError
from ahm_env.images.privacy import digests, identity, part_that_tells, refuse_path, words
from tests.dicom_file import item

pytest.importorskip("pydicom")

HEADER = {
    "PatientName": "Mu\u0308ller^Gerda^^Dr=M^G",
    "PatientID": "PID/00712",
    "OtherPatientIDs": ["12345678", "87654321"],
    "PatientBirthDate": "19470411",
    "AccessionNumber": "ACC5544",
    "InstitutionName": "St.Gerold Klinik",
    "ReferringPhysicianName": "Quack^Otto",
}


def known(**header: object) -> frozenset[int]:
    return digests(identity(item(**header)))


@pytest.mark.parametrize(
    "path",
    [
        "gerda",
        "M\u00dcLLER",
        "mu\u0308ller_2019",
        "GerdaM\u00fcller",
        "m\u00fcllerg/ct",
        "x-PID00712.old",
        "pid 00712",
        "87654321",
        "1947-04-11",
        "11.04.1947",
        "041147/04111947",
        "scans/acc5544b/ct",
        "St. Gerold Klinik",
        "dr_quack",
    ],
)
def test_a_path_that_holds_what_a_header_holds_tells(path: str) -> None:
    assert part_that_tells(path, known(**HEADER))
    assert part_that_tells(f"/data/{path}", known(**HEADER)) in (2, 3)


@pytest.mark.parametrize(
    "path", ["archive", "klinik", "00712", "1947", "doctor", "/home/somebody/ct", ".", "m/g", "dr"]
)
def test_other_paths_do_not(path: str) -> None:
    assert part_that_tells(path, known(**HEADER)) == 0


@pytest.mark.parametrize(
    ("name", "path"), [("TCGA-02-0003", "TCGA-GBM"), ("Anonymous", "anonymous"), ("Study^2019", "study_ct"), ("", "a")]
)
def test_what_stands_for_nobody_does_not_tell(name: str, path: str) -> None:
    assert part_that_tells(path, known(PatientName=name, PatientID=name)) == 0


def test_the_refusal_names_neither_path_nor_word() -> None:
    with pytest.raises(SettingsError, match=r"^part 2 of the path of these images holds a name") as caught:
        refuse_path("scans/Gerda", known(**HEADER))
    assert "Gerda" not in str(caught.value)
    refuse_path("scans/Gerda", frozenset())


def test_digests_are_of_this_computer_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = known(**HEADER)
    assert before == known(**HEADER)
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "other"))
    assert before.isdisjoint(known(**HEADER))


def test_words_are_compared_as_people_read_them() -> None:
    assert words("MU\u0308LLER_gerda-2.old") == words("m\u00fcller Gerda 2 OLD") == ["m\u00fcller", "gerda", "2", "old"]
