"""Predictions for new images, as a person asks for them: what is written, and what is not lost."""

import errno
import os
import resource
import signal
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from filelock import FileLock

from ahm_env import RunError
from ahm_env.files import atomic
from ahm_env.images.dataset.builder import AHEAD, THREADS, in_order
from ahm_env.images.formats.fingerprint import stamp
from ahm_env.images.formats.pictures import folder
from ahm_env.images.formats.pictures.picture import Picture, read_picture
from ahm_env.images.source import Sample
from downstream.evaluation.cropping import crop
from downstream.evaluation.segmentation import BATCH, segment
from downstream.models.model import Model
from downstream.models.resizing import to_original, to_square
from downstream.prediction import prediction
from downstream.prediction.inputs import find_images
from downstream.prediction.prediction_table import GrowingTable
from tests.downstream.prediction.examples import rows
from tests.downstream.tiny import make_model

SIZES = {"a.png": (20, 30, 3), "b.jpg": (48, 33, 3), "c.tif": (25, 40), "d.bmp": (16, 16, 3), "e.png": (1, 50)}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def call(call: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Run `ahm predict --from tuned --device cpu …` in this process: status, output, errors."""
    return lambda *words, tuned="tuned": call("predict", "--from", tuned, "--device", "cpu", *words)


@pytest.fixture
def model() -> Model:
    return make_model(Path("tuned/model.safetensors"))


def write_image(path: Path, shape: tuple[int, ...], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, *shape[2:]), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(pixels, shape[1::-1], interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def scans() -> Path:
    for seed, (name, shape) in enumerate(SIZES.items()):
        write_image(Path("scans") / name, shape, seed)
    return Path("scans")


def read_png(path: Path | str) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def sample(path: Path) -> Sample:
    return Sample(path.name, str(path), read_picture(path).pixels)


def temporaries() -> list[Path]:
    return [path for path in Path("out").rglob("*") if path.name.endswith(".tmp")]


# What is written


@pytest.mark.slow
def test_masks_have_the_size_of_the_images_and_are_what_the_model_finds(call, scans: Path, model: Model):
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert "out/predictions.csv: 5 of 5 images" in out
    found = {one.sample.name: one for one in segment(model, [sample(scans / name) for name in sorted(SIZES)])}
    assert 0.05 < np.mean(found["b.jpg"].mask) < 0.95
    table = rows()
    assert list(table[0]) == ["image", "area", "area_share", "p background", "p foreground"]
    assert [row["image"] for row in table] == sorted(SIZES)
    for row in table:
        one, stem = found[row["image"]], Path(row["image"]).stem
        mask = read_png(f"out/masks/{stem}.png")
        assert mask.shape == SIZES[row["image"]][:2]
        np.testing.assert_array_equal(mask, one.mask * 255)
        assert read_png(f"out/overlays/{stem}.png").shape == (*mask.shape, 3)
        assert int(row["area"]) == np.count_nonzero(mask)
        assert float(row["area_share"]) == pytest.approx(np.mean(mask == 255), rel=1e-5)
        assert [float(row[f"p {name}"]) for name in model.spec.classes] == pytest.approx(one.probabilities, rel=1e-4)
    assert not Path("out/problems.csv").exists()
    assert not temporaries()


@pytest.mark.slow
def test_masks_of_several_classes_hold_the_numbers_that_they_had_in_training(call, scans: Path):
    model = make_model(Path("tuned/model.safetensors"), classes=("background", "7", "3"), values=(0, 7, 3))
    assert call("scans", "--out", "out", "--no-overlays")[0] == 0
    assert not Path("out/overlays").exists()
    seen = set()
    for row, found in zip(rows(), segment(model, [sample(scans / name) for name in sorted(SIZES)]), strict=True):
        mask = read_png(f"out/masks/{Path(row['image']).stem}.png")
        np.testing.assert_array_equal(mask, np.array([0, 7, 3])[found.mask])
        assert [int(row["area 7"]), int(row["area 3"])] == [np.count_nonzero(mask == value) for value in (7, 3)]
        assert float(row["area_share 3"]) == pytest.approx(np.mean(mask == 3), rel=1e-5)
        seen |= set(mask.ravel().tolist())
    assert seen == {0, 3, 7}


@pytest.mark.slow
def test_links_out_of_a_folder_are_not_followed_but_those_that_are_given(call, scans: Path, model: Model):
    write_image(Path("elsewhere/secret.png"), (20, 24), 3)
    (scans / "link.png").symlink_to(Path("elsewhere/secret.png").resolve())
    status, out, _ = call(str(scans), "--out", "found")
    assert status == 1
    assert "link.png: is a link that leads out of the folder" in " ".join(out.split())
    assert "link.png" not in {row["image"] for row in rows("found/predictions.csv")}
    assert call(str(scans / "link.png"), "--out", "given")[0] == 0
    assert {row["image"] for row in rows("given/predictions.csv")} == {"link.png"}


@pytest.mark.slow
def test_test_time_augmentation_is_the_mean_over_mirror_images(call, scans: Path, model: Model):
    assert call("scans", "--out", "out", "--tta")[0] == 0
    differ = 0
    for name in SIZES:
        image = read_picture(scans / name).pixels
        square = to_square(image, model.spec)[None]
        maps = np.mean(
            [np.flip(model.probabilities(np.flip(square, axes).copy()), axes) for axes in ((), (2,), (3,), (2, 3))],
            axis=0,
        )
        wide = to_original(np.ascontiguousarray(maps[0]), *image.shape[:2], model.spec)
        mask = read_png(f"out/masks/{Path(name).stem}.png") == 255
        sure = abs(wide[1] - wide[0]) > 1e-5
        np.testing.assert_array_equal(mask[sure], (wide[1] > wide[0])[sure])
        (plain,) = segment(model, [sample(scans / name)])
        differ += np.count_nonzero(plain.mask != mask)
    assert differ > 0


def test_a_classifier_writes_classes_and_probabilities_and_no_pictures(call, scans: Path):
    model = make_model(Path("tuned/model.safetensors"), "classification", ("keratosis", "melanoma", "naevus"), ())
    assert call("scans", "--out", "out")[0] == 0
    table = rows()
    assert list(table[0]) == ["image", "prediction", "p keratosis", "p melanoma", "p naevus"]
    for row in table:
        shares = model.probabilities(to_square(read_picture(scans / row["image"]).pixels, model.spec)[None])[0]
        assert [float(row[f"p {name}"]) for name in model.spec.classes] == pytest.approx(shares, rel=1e-4)
        assert row["prediction"] == model.spec.classes[shares.argmax()]
    assert len({row["prediction"] for row in table}) > 1
    assert not Path("out/masks").exists()
    assert not Path("out/overlays").exists()


@pytest.mark.slow
def test_a_classifier_of_lesions_sees_what_its_segmenter_finds(call, scans: Path):
    model = make_model(Path("tuned/model.safetensors"), "classification", ("mel", "nev"), ())
    assert call("scans", "--out", "plain")[0] == 0
    segmenter = make_model(Path("tuned/segmenter.safetensors"), background=2.0)
    make_model(Path("tuned/model.safetensors"), "classification", ("mel", "nev"), (), cropped=True)
    assert call("scans", "--out", "out")[0] == 0
    for row in rows():
        seen = crop(sample(scans / row["image"]), segmenter).image
        shares = model.probabilities(to_square(seen, model.spec)[None])[0]
        assert float(row["p mel"]) == pytest.approx(shares[0], rel=1e-4)
    assert [row["p mel"] for row in rows()] != [row["p mel"] for row in rows("plain/predictions.csv")]


@pytest.mark.slow
def test_a_source_is_read_without_its_masks_and_labels_and_a_file_counts_once(call, scans: Path, model: Model):
    Path("source/masks").mkdir(parents=True)
    Path("source/masks/a.png").write_bytes(b"not a mask")
    Path("source/labels.csv").write_text("nonsense")
    scans.rename("source/images")
    assert call("source", "source/images/a.png", "source/images", "--out", "out")[0] == 0
    assert [row["image"] for row in rows()] == sorted(SIZES)


# What is wrong


@pytest.mark.slow
def test_masks_among_images_are_not_predicted(call, scans: Path, model: Model):
    for name in ("a_mask.png", "a_mask_1.png", "c_segmentation.png"):
        assert cv2.imwrite(str(scans / name), np.zeros((20, 30), np.uint8))
    status, told, _ = call("scans", "--out", "found")
    assert status == 0
    assert "scans: masks of other files by their names, which are left out: 3" in told.replace("\n", " ")
    expected = sorted(f"{Path(name).stem}.png" for name in SIZES)
    assert sorted(path.name for path in Path("found/masks").iterdir()) == expected


def test_masks_among_volumes_are_not_predicted(call, model: Model):
    nibabel = pytest.importorskip("nibabel")
    Path("volumes").mkdir()
    for name in ("a_flair", "a_seg", "b", "b-seg"):
        values = np.random.default_rng(0).integers(1, 99, (9, 8, 2)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), f"volumes/{name}.nii.gz")
    status, told, _ = call("volumes", "--out", "found")
    assert status == 0
    assert "volumes: masks of other files by their names, which are left out: 2" in told.replace("\n", " ")
    assert sorted(path.name for path in Path("found/masks").glob("*.nii.gz")) == ["a_flair.nii.gz", "b.nii.gz"]


def test_a_bad_file_is_told_and_the_same_command_adds_it_when_it_is_mended(call, scans: Path, model: Model):
    good = (scans / "b.jpg").read_bytes()
    (scans / "b.jpg").write_bytes(good[:200])
    cv2.imwrite(str(scans / "f.tif"), np.full((9, 9), np.nan, np.float32))
    status, out, _ = call("scans", "--out", "out")
    assert status == 1
    assert [row["image"] for row in rows("out/problems.csv")] == ["b.jpg", "f.tif"]
    assert "truncated" in rows("out/problems.csv")[0]["problem"]
    assert "no finite value" in rows("out/problems.csv")[1]["problem"]
    assert "problem      scans/b.jpg: truncated" in out
    assert "out/problems.csv: 2 images" in out
    assert [row["image"] for row in rows()] == ["a.png", "c.tif", "d.bmp", "e.png"]
    (scans / "b.jpg").write_bytes(good)
    (scans / "f.tif").unlink()
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert "1 images to predict, 4 done before" in out
    assert sorted(row["image"] for row in rows()) == sorted(SIZES)
    assert not Path("out/problems.csv").exists()


@pytest.mark.parametrize("junk", ["scans/bad\udcff.png", "volumes/bad\udcff.nii.gz", "odd\udcff/bad.png"])
def test_bad_files_are_told_whose_names_are_not_utf8(call, model: Model, junk: str):
    write_image(Path("scans/ok.png"), (10, 12), 0)
    try:
        Path(junk).parent.mkdir(exist_ok=True)
        Path(junk).write_bytes(b"no image")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    status, out, _ = call("scans", *{str(Path(junk).parent)} - {"scans"}, "--out", "out")
    assert status == 1
    assert r"\udcff" in out
    assert [row["image"] for row in rows()] == ["ok.png"]
    assert [r"\udcff" in row["problem"] for row in rows("out/problems.csv")] == [True]


@pytest.mark.slow
def test_images_that_are_all_bad_leave_an_empty_table(call, model: Model):
    Path("scans").mkdir()
    for number in range(30):
        Path(f"scans/{number:02}.png").write_bytes(b"x")
    status, out, _ = call("scans", "--out", "out")
    assert status == 1
    assert Path("out/predictions.csv").read_text() == "image,area,area_share,p background,p foreground\n"
    assert len(rows("out/problems.csv")) == 30
    assert "and 10 more" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["nowhere"], ["nowhere", "no such file"]),
        (["scans", "nowhere.png"], ["nowhere.png", "no such file"]),
        (["notes.txt"], ["notes.txt", "not an image"]),
        (["empty"], ["empty", "no image directly in it"]),
        (["scans", "other"], ["scans/b.jpg", "other/b.png"]),
        (["scans", "upper"], ["scans/a.png", "upper/A.png"]),
        (["scans", "--from", "scans"], ["scans", "holds no model.safetensors"]),
    ],
)
def test_what_cannot_be_used_is_one_line_before_anything_is_written(
    call, scans: Path, model: Model, words: list[str], texts: list[str]
):
    Path("notes.txt").write_text("x")
    Path("empty").mkdir()
    write_image(Path("other/b.png"), (8, 8), 0)
    write_image(Path("upper/A.png"), (8, 8), 0)
    status, _, err = call(*words, "--out", "out")
    assert (status, err.count("\n")) == (2, 1)
    for text in texts:
        assert text in err
    assert not Path("out").exists()


@pytest.mark.slow
def test_two_endings_of_one_stem_are_refused_too(call, scans: Path, model: Model):
    write_image(scans / "a.jpg", (8, 8), 0)
    status, _, err = call("scans", "--out", "out")
    assert status == 2
    assert "scans/a.jpg" in err
    assert "scans/a.png" in err
    assert not Path("out").exists()


# What is there already


@pytest.mark.slow
def test_an_interrupted_run_is_whole_and_the_same_command_finishes_it(
    call, model: Model, monkeypatch: pytest.MonkeyPatch
):
    for number in range(40):
        write_image(Path(f"scans/{number:02}.png"), (12, 14, 3), number)
    written = []

    def save_then_stop(path: Path, picture: np.ndarray) -> None:
        written.append(path)
        if len(written) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        keep(path, picture)

    keep = prediction.save_picture
    monkeypatch.setattr(prediction, "save_picture", save_then_stop)
    status, out, _ = call("scans", "--out", "out")
    assert status == 130
    assert "The same command goes on" in out
    done = rows()
    assert 1 <= len(done) < 40
    assert all(None not in row.values() and read_png(f"out/masks/{row['image']}") is not None for row in done)
    assert not temporaries()

    monkeypatch.setattr(prediction, "save_picture", keep)
    stamps = {row["image"]: Path(f"out/masks/{row['image']}").stat().st_mtime_ns for row in done}
    time.sleep(0.01)
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert f"{40 - len(done)} images to predict, {len(done)} done before" in out
    assert all(Path(f"out/masks/{name}").stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert call("scans", "--out", "straight")[0] == 0
    assert [row["image"] for row in rows()] == [f"{number:02}.png" for number in range(40)]
    for one, other in zip(rows(), rows("straight/predictions.csv"), strict=True):
        assert one["image"] == other["image"]
        assert float(one["p foreground"]) == pytest.approx(float(other["p foreground"]), rel=1e-4)

    before = Path("out/predictions.csv").read_bytes()
    assert call("scans", "--out", "out")[0] == 0  # nothing is left to do
    assert Path("out/predictions.csv").read_bytes() == before


@pytest.mark.slow
def test_a_row_that_a_power_cut_tore_is_made_again(call, scans: Path, model: Model):
    assert call("scans", "--out", "out")[0] == 0
    whole = Path("out/predictions.csv").read_bytes()
    for torn in (whole[:-3], whole[: whole.rindex(b"e.png") + 7], whole[: whole.rindex(b"d.bmp") - 1]):
        Path("out/predictions.csv").write_bytes(torn)
        Path("out/masks/.e.png.1.tmp").write_bytes(b"torn as well")
        assert call("scans", "--out", "out")[0] == 0
        assert [row["image"] for row in rows()] == sorted(SIZES)
        assert [float(row["p foreground"]) for row in rows()] == pytest.approx(
            [float(line.split(b",")[-1]) for line in whole.splitlines()[1:]], rel=1e-4
        )
        assert not temporaries()


@pytest.mark.slow
def test_a_folder_may_grow(call, scans: Path, model: Model):
    assert call("scans", "--out", "out")[0] == 0
    write_image(scans / "new.png", (10, 10), 9)
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert "1 images to predict, 5 done before" in out
    assert len(rows()) == 6


@pytest.mark.parametrize("seconds", [-9, 2])  # a copy may have the time of its original
def test_an_image_that_has_changed_since_is_not_taken_for_predicted(call, scans: Path, model: Model, seconds: int):
    assert call("scans", "--out", "out")[0] == 0
    table = rows()
    write_image(scans / "b.jpg", (50, 90), 9)
    time = Path("out/predictions.csv").stat().st_mtime + seconds
    os.utime(scans / "b.jpg", (time, time))
    status, _, error = call("scans", "--out", "out")
    assert (status, rows()) == (2, table)
    assert "an image has changed since, the first is b.jpg; choose another --out" in error
    assert call("scans", "--out", "other")[0] == 0


def test_an_image_that_changes_while_others_are_predicted_is_not_taken_for_predicted(scans: Path, model: Model):
    found = prediction.predict("tuned", ["scans"], "out", device="cpu")
    changed = [write_image(scans / "a.png", (50, 90), 9) for one in found if one.name == "a.png"]
    assert (len(changed), len(rows())) == (1, len(SIZES))
    with pytest.raises(RunError, match=r"an image has changed since, the first is a\.png; choose another --out"):
        prediction.predict("tuned", ["scans"], "out", device="cpu")


def test_a_volume_that_changes_while_it_is_predicted_is_not_taken_for_predicted(model: Model):
    nibabel = pytest.importorskip("nibabel")
    Path("volumes").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((9, 8, 20)), np.eye(4)), "volumes/a.nii.gz")
    loads = find_images([Path("volumes")], model.spec.pixels).loads(())
    before = next(loads)()
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(1).random((9, 8, 20)), np.eye(4)), "volumes/a.nii.gz")
    assert {load().stamp for load in loads} == {before.stamp}
    assert stamp(Path("volumes/a.nii.gz")) != before.stamp


def test_rows_count_only_with_what_their_files_were_like(call, scans: Path, model: Model):
    assert call("scans", "--out", "out")[0] == 0
    files = Path("out/files.csv")
    files.write_text("".join(files.read_text().splitlines(keepends=True)[:-1]))
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert "1 images to predict, 4 done before" in out
    assert sorted(row["image"] for row in rows()) == sorted(SIZES)
    files.unlink()
    status, _, error = call("scans", "--out", "out")
    assert status == 2
    assert "out/files.csv: is missing, so that images may have changed since; choose another --out" in error


@pytest.mark.slow
def test_the_longest_of_names_is_predicted(call, model: Model):
    name = "c" * 246 + ".png"
    write_image(Path("scans") / name, (10, 10), 0)
    assert call("scans", "--out", "out")[0] == 0
    assert Path("out/masks", name).is_file()


@pytest.mark.slow
def test_what_is_not_predicted_of_a_file_is_told(call, model: Model):
    pages = [np.full((8, 8), shade, np.uint8) for shade in (10, 200)]
    Path("scans").mkdir()
    tifffile.imwrite("scans/pages.tif", pages[0])
    tifffile.imwrite("scans/pages.tif", pages[1], append=True)
    status, out, _ = call("scans", "--out", "out")
    assert status == 0
    assert "note         1 images of several pages, of which the first is read" in out


@pytest.mark.slow
def test_predictions_of_something_else_are_left_alone(call, scans: Path, model: Model):
    assert call("scans", "--out", "out")[0] == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    write_image(Path("other/a.png"), (8, 8), 0)
    make_model(Path("second/model.safetensors"), seed=1)
    Path("file").write_text("x")
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("x")
    for words, tuned, text in [
        (["scans", "--out", "out"], "second", "another model"),
        (["scans", "--out", "out", "--tta"], "tuned", "another tta"),
        (["other", "--out", "out"], "tuned", "another folder"),
        (["scans/a.png", "--out", "out"], "tuned", "an image that is not given"),
        (["scans", "--out", "file"], "tuned", "not an empty directory"),
        (["scans", "--out", "full"], "tuned", "not an empty directory"),
        (["scans", "--out", "scans"], "tuned", "not an empty directory"),
    ]:
        status, _, err = call(*words, tuned=tuned)
        assert (status, err.count("\n")) == (2, 1), words
        assert text in err
    with FileLock("out/.lock"):
        status, _, err = call("scans", "--out", "out")
    assert status == 2
    assert "another process" in err
    assert before == {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert [path.name for path in Path("full").iterdir()] == ["thesis.txt"]
    Path("out/predictions.csv").write_text("image,remark\na.png,fine\n")
    assert "changed" in call("scans", "--out", "out")[2]
    assert Path("out/predictions.csv").read_text() == "image,remark\na.png,fine\n"


# What runs out


@pytest.mark.slow
def test_on_a_full_disk_all_that_was_written_is_whole(call, model: Model, monkeypatch: pytest.MonkeyPatch):
    for number in range(30):
        write_image(Path(f"scans/{number:02}.png"), (12, 14, 3), number)
    keep = prediction.save_picture

    def save_until_full(path: Path, picture: np.ndarray) -> None:
        if path.stem >= "08":  # by name, since threads write in any order
            with atomic(path) as temporary:
                temporary.write_bytes(b"\x89PNG")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        keep(path, picture)

    monkeypatch.setattr(prediction, "save_picture", save_until_full)
    status, _, err = call("scans", "--out", "out")
    assert (status, err.count("\n")) == (2, 1)
    assert "disk is full" in err
    assert not temporaries()
    masks = {path.name: read_png(path) for path in Path("out/masks").iterdir()}
    assert masks
    assert all(mask is not None and mask.shape == (12, 14) for mask in masks.values())
    done = rows()
    assert done
    assert {row["image"] for row in done} <= masks.keys()
    assert all(len(row) == 5 and None not in row.values() for row in done)
    assert Path("out/predictions.csv").read_text().endswith("\n")
    monkeypatch.setattr(prediction, "save_picture", keep)
    assert call("scans", "--out", "out")[0] == 0
    assert [row["image"] for row in rows()] == [f"{number:02}.png" for number in range(30)]


def test_a_row_that_does_not_fit_on_the_disk_leaves_the_table_as_it_was(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with GrowingTable(tmp_path / "table.csv") as table:
        table.append(["a" * 40, "1"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
        try:
            with pytest.raises(OSError) as caught:
                table.append(["b" * 40, "2"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.filename == str(tmp_path / "table.csv")
        assert (tmp_path / "table.csv").read_text() == "a" * 40 + ",1\n"
        table.append(["c", "3"])
    assert (tmp_path / "table.csv").read_text().splitlines() == ["a" * 40 + ",1", "c,3"]


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_images(call, model: Model, monkeypatch: pytest.MonkeyPatch):
    Path("scans").mkdir()
    content = cv2.imencode(".png", np.zeros((6, 6, 3), np.uint8))[1].tobytes()
    for number in range(300):
        Path(f"scans/{number:03}.png").write_bytes(content)
    alive, most = set[int](), 0

    def read(path: Path) -> Picture:
        nonlocal most
        image = read_picture(path).pixels.copy()
        key = object()
        alive.add(id(key))
        weakref.finalize(image, lambda held: alive.discard(id(held)), key)
        most = max(most, len(alive))
        return Picture(image)

    monkeypatch.setattr(folder, "read_picture", read)
    assert call("scans", "--out", "out", "--no-overlays")[0] == 0
    assert len(rows()) == 300
    # decoded ahead, in the network, on the way back to their size, and on the way to the disk
    assert BATCH <= most <= 4 * BATCH + 3 * THREADS


def test_calls_are_made_ahead_but_not_far_and_their_results_keep_their_order():
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    results = in_order(partial(work, number) for number in range(100))
    for number in range(100):
        assert next(results) == number
        if number in (0, 40):
            time.sleep(0.2)  # the threads could go on meanwhile
            assert len(started) == number + AHEAD
    with pytest.raises(StopIteration):
        next(results)


def test_what_a_call_raises_comes_in_its_place_and_ends_the_rest():
    made = []

    def work(number: int) -> int:
        made.append(number)
        if number == 5:
            raise OSError(errno.ENOSPC, "full")
        return number

    results = in_order(partial(work, number) for number in range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="full"):
        next(results)
    assert len(made) <= 5 + AHEAD


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_threads_come_behind_a_caller_that_computes():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    call = partial(os.getpriority, os.PRIO_PROCESS, 0)  # of the thread that calls it
    assert set(in_order([call] * 4)) == {own}
    assert set(in_order([call] * 4, behind=True)) == {min(19, own + 10)}
    assert call() == own
