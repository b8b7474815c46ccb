import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.dataset.patients import Groups, digest, fair_order, first_patients, refuse_leaks, round_robin
from ahm_env.images.privacy import SALT, pseudonym
from ahm_env.images.source import DatasetIndex, Entry

NUMBERS = st.lists(st.integers(0, 8), min_size=1, max_size=40).map(np.array)


# Pseudonyms


@pytest.mark.slow
def test_a_pseudonym_is_the_same_for_the_same_number_in_every_process_and_only_with_this_salt(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "from ahm_env.images.privacy import pseudonym; print(pseudonym('4711'))"
    project = Path(__file__).resolve().parents[4]
    running = [
        subprocess.Popen([sys.executable, "-c", script], cwd=project, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {process.communicate()[0].strip() for process in running} == {pseudonym("4711")}
    assert pseudonym("4711") != pseudonym("4712")
    assert "4711" not in pseudonym("4711")
    assert [path.name for path in cache.iterdir()] == [SALT]
    assert (cache / SALT).stat().st_mode & 0o077 == 0
    before = pseudonym("4711")
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "other"))
    assert pseudonym("4711") != before


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="AHM_CACHE"):
        pseudonym("4711")


# Groups and orders


@given(patients=NUMBERS)
def test_groups_hold_each_image_once_by_first_appearance(patients: np.ndarray) -> None:
    groups = Groups(patients)
    assert sorted(np.concatenate(groups)) == list(range(len(patients)))
    assert all(len(set(patients[group])) == 1 and list(group) == sorted(group) for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    assert len({int(patients[group[0]]) for group in groups}) == len(groups)


@pytest.mark.slow
@given(patients=NUMBERS, kinds=st.integers(1, 3), seed=st.integers(0, 20))
def test_a_fair_order_goes_patient_after_patient_and_every_beginning_is_like_the_whole(
    patients: np.ndarray, kinds: int, seed: int
) -> None:
    classes = patients % kinds
    order = fair_order(classes, patients, seed)
    assert sorted(order) == list(range(len(patients)))
    changes = np.flatnonzero(np.diff(patients[order])) + 1
    assert len(changes) + 1 == len(set(patients))
    of_patients = classes[order][np.concatenate([[0], changes])]
    shares = np.bincount(of_patients, minlength=kinds) / len(of_patients)
    for count in range(1, len(of_patients) + 1):
        assert abs(np.bincount(of_patients[:count], minlength=kinds) - count * shares).max() < 1


def test_a_patient_has_the_class_of_most_images() -> None:
    patients = np.array([0, 0, 0, 1, 1, 1])
    classes = np.array([1, 1, 0, 0, 0, 1])
    firsts = {tuple(fair_order(classes, patients, seed)[:3]) for seed in range(20)}
    assert firsts == {(0, 1, 2), (3, 4, 5)}


def test_no_image_has_an_order_too() -> None:
    assert fair_order(np.empty(0, int), np.empty(0, int), 0).tolist() == []


def test_the_first_patients_are_whole_and_as_many_as_is_nearest() -> None:
    patients, order = np.array([0, 0, 0, 1, 1, 2]), np.arange(6)
    found = [len(first_patients(patients, order, count)) for count in range(7)]
    assert found == [0, 0, 3, 3, 3, 5, 6]


# Sides


def refuse(*images: tuple[str, int]) -> None:
    """Refuse a leak among images of these patients, in these splits."""
    entries = [Entry("a", "a", lambda: None, split=split, patient=patient) for patient, split in images]
    patients = np.array([digest(patient) for patient, _ in images], np.uint64)
    refuse_leaks(
        "scans", DatasetIndex(len(images), entries), patients, np.array([split for _, split in images], np.uint8)
    )


def test_a_patient_on_two_sides_is_named_by_pseudonym_and_others_are_not() -> None:
    with pytest.raises(ImageError, match=r"^scans: patients .*: ab \(train and test\); .*ahm data split") as error:
        refuse(("ab", 0), ("cd", 0), ("ab", 2), ("", 0), ("", 1), ("cd", 0))
    assert "cd" not in str(error.value)
    refuse()
    refuse(("", 0), ("", 1), ("cd", 0), ("ab", 2))


def test_many_leaking_patients_are_counted() -> None:
    with pytest.raises(ImageError, match=r"p4 \(train and val\) and 4 more;"):
        refuse(*((f"p{number}", split) for number in range(9) for split in (0, 1)))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_leaking_table_is_refused_without_the_patients_number(make_folder, cache: Path, skip_bad: bool) -> None:
    table = "image,split,patient\n0000,train,MUELLER-4711\n0001,test,MUELLER-4711\n0002,test,\n"
    root = make_folder(3, table=table)
    with pytest.raises(ImageError, match="more than one split") as error:
        load_images(root, 8, skip_bad=skip_bad)
    assert pseudonym("MUELLER-4711") in str(error.value)
    assert "4711 (" not in str(error.value)
    assert "MUELLER" not in str(error.value)
    assert not any("MUELLER" in path.name for path in cache.rglob("*"))


def test_images_of_one_patient_have_one_number_and_others_their_own(make_folder, cache: Path) -> None:
    root = make_folder(5, table="image,patient\n0000,x\n0001,\n0002,y\n0003,x\n0004,\n")
    assert load_images(root, 8).patients(range(5)).tolist() == [0, 1, 2, 0, 4]
    plain = make_folder(3, name="plain")
    assert load_images(plain, 8).patients([2, 1]).tolist() == [2, 1]


# Rounds


@given(patients=NUMBERS, seed=st.integers(0, 100))
def test_nobody_comes_a_second_time_before_all_have_come_once(patients: np.ndarray, seed: int) -> None:
    order = round_robin(patients, seed)
    assert sorted(order) == list(range(len(patients)))
    counts = dict.fromkeys(patients.tolist(), 0)
    sizes = {patient: int((patients == patient).sum()) for patient in counts}
    for patient in patients[order].tolist():
        assert counts[patient] == min(count for other, count in counts.items() if count < sizes[other])
        counts[patient] += 1


def test_which_patient_and_which_image_come_first_is_left_to_chance() -> None:
    patients = np.repeat(np.arange(5), 4)
    firsts = {int(round_robin(patients, seed)[0]) for seed in range(200)}
    assert firsts == set(range(20))
    assert round_robin(patients, 3).tolist() == round_robin(patients, 3).tolist()
    assert round_robin(np.empty(0, np.int64), 0).tolist() == []


@pytest.mark.slow
@given(patients=NUMBERS, seed=st.integers(0, 20))
def test_rounds_are_fair_to_classes_where_these_are_known(patients: np.ndarray, seed: int) -> None:
    classes = np.arange(len(patients)) % 3
    order = round_robin(patients, seed, classes)
    assert sorted(order) == list(range(len(patients)))
    once = len(set(patients.tolist()))
    assert len(set(patients[order[:once]].tolist())) == once
    counts = np.cumsum(np.eye(3)[classes[order[:once]]], 0)
    shares = np.arange(1, once + 1)[:, None] * counts[-1] / once
    assert abs(counts - shares).max() < 1
    alone = np.arange(len(patients))
    assert round_robin(alone, seed, classes).tolist() == fair_order(classes, alone, seed).tolist()
