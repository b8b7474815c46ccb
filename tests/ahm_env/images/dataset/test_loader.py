import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset import builder
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import find_source, load_images, originals
from ahm_env.images.formats.pictures.picture import Picture
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import DatasetIndex, Decoded, Entry


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(builder, "_prepare", refuse)


def test_the_second_time_nothing_is_decoded(make_folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(5, masks=True)
    first = load_images(root, 8, cache_dir=cache)
    no_decoding(monkeypatch)
    second = load_images(str(root), 8, cache_dir=cache)
    assert first.content_key == second.content_key
    assert np.array_equal(first.images(range(5)), second.images(range(5)))


def test_a_cache_that_only_can_be_read_is_enough(make_folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(3)
    load_images(root, 8, cache_dir=cache)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ahm_env.images.dataset.loader.locked", refuse)
    assert len(load_images(root, 8, cache_dir=cache)) == 3


def test_each_setting_and_each_change_has_its_own_entry(make_folder, cache: Path) -> None:
    root = make_folder(3)
    load_images(root, 8, cache_dir=cache)
    load_images(root, 9, cache_dir=cache)
    load_images(root, 8, channels=1, cache_dir=cache)
    load_images(root, 8, fit="pad", cache_dir=cache)
    os.utime(root / "images" / "0000.png", ns=(5, 5))
    load_images(root, 8, cache_dir=cache)
    assert len(entries(cache)) == 5


def test_a_copy_has_the_same_content_and_a_changed_image_mask_name_or_split_has_not(
    make_folder, cache: Path, tmp_path: Path
) -> None:
    root = make_folder(3, masks=True, table="image,label,split\n0000,a,train\n0001,b,train\n0002,b,test\n")
    key = load_images(root, 30, cache_dir=cache).content_key

    def rename(copy: Path) -> None:
        for path in list(copy.glob("*/0001.png")):
            path.rename(path.with_stem("0009"))
        _replace(copy / "labels.csv", "0001", "0009")

    def changed(name: str, change: Callable[[Path], object]) -> str:
        copy = tmp_path / name
        shutil.copytree(root, copy)
        change(copy)
        return load_images(copy, 30, cache_dir=cache).content_key

    assert changed("same", lambda copy: os.utime(copy / "images" / "0000.png", ns=(5, 5))) == key
    others = {
        changed("image", lambda copy: shutil.copy(copy / "images" / "0001.png", copy / "images" / "0000.png")),
        changed("mask", lambda copy: shutil.copy(copy / "masks" / "0001.png", copy / "masks" / "0000.png")),
        changed("class", lambda copy: _replace(copy / "labels.csv", ",a,", ",c,")),
        changed("split", lambda copy: _replace(copy / "labels.csv", "test", "val")),
        changed("name", rename),
    }
    assert len(others) == 5
    assert key not in others


def test_two_sets_whose_files_have_equal_names_sizes_and_times_are_two(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, archive in enumerate(("one", "two")):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        (tmp_path / archive / "images").mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / archive / "images" / "0.bmp"), pixels)
        np.savez(tmp_path / archive / "a.npz", train_images=pixels[None])
        for path in tmp_path.glob(f"{archive}/**/*.*"):
            os.utime(path, (315532800, 315532800))  # 1980, where the time of zip files begins
    for name in (".", "a.npz"):
        one, two = (load_images(tmp_path / archive / name, 8, cache_dir=cache) for archive in ("one", "two"))
        assert not np.array_equal(one.images([0]), two.images([0]))
    no_decoding(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(load_images("one/../two", 8, cache_dir=cache).images([0]), two.images([0]))


def test_an_image_is_left_out_only_until_it_can_be_decoded(make_dicom, cache: Path, tmp_path: Path) -> None:
    decode = pytest.importorskip("ahm_env.images.formats.dicom.pixels")
    encapsulate = pytest.importorskip("pydicom.encaps").encapsulate
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k")
    make_dicom(tmp_path / "set" / "a", pixels, "1.2.840.10008.1.2.4.90", PixelData=encapsulate([frame]))
    make_dicom(tmp_path / "set" / "b", pixels)

    def load() -> ImageSet:
        return load_images(tmp_path / "set", 8, skip_bad=True, cache_dir=cache)

    version = metadata.version

    def missing(name: str) -> str:
        if name == "pylibjpeg-openjpeg":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(metadata, "version", missing)
        context.setitem(decode.PLUGINS, "1.2.840.10008.1.2.4.90", ())
        assert (len(load()), load().skipped) == (1, 1)
    assert (len(load()), load().skipped) == (2, 0)


def test_an_image_is_left_out_only_until_it_is_not_too_large(make_folder, cache: Path) -> None:
    root, script = (
        make_folder(2),
        (
            "import sys; from pathlib import Path; from ahm_env.images.dataset.loader import load_images\n"
            "print(len(load_images(sys.argv[1], 8, skip_bad=True, cache_dir=Path(sys.argv[2]))))"
        ),
    )
    assert cv2.imwrite(str(root / "images" / "small.png"), np.arange(64, dtype=np.uint8).reshape(8, 8))
    command = [sys.executable, "-c", script, str(root), str(cache)]
    counts = [
        subprocess.check_output(command, env=os.environ | {"OPENCV_IO_MAX_IMAGE_PIXELS": most}, text=True)
        for most in ("100", "1000")
    ]
    assert counts == ["1\n", "3\n"]


def _replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "labels.npy", "set.json"])
def test_a_damaged_entry_is_built_again(make_folder, cache: Path, name: str) -> None:
    root = make_folder(3, masks=True)
    first = load_images(root, 8, cache_dir=cache)
    (entry,) = entries(cache)
    damaged = cache / entry / name
    # Cut in place it would be a SIGBUS for whoever has it mapped; what is tested is a copy cut short.
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:-1])
    again = load_images(root, 8, cache_dir=cache)
    assert np.array_equal(again.images(range(3)), first.images(range(3)))
    assert entries(cache) == [entry]


def test_progress_is_told_of_every_image(make_folder, cache: Path) -> None:
    told: list[tuple[int, int]] = []
    root = make_folder(4)
    load_images(root, 8, cache_dir=cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bad_images_stop_or_are_skipped(make_folder, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_folder(5)
    (root / "images" / "0003.png").write_bytes(b"")
    content = (root / "images" / "0001.png").read_bytes()
    (root / "images" / "0001.png").write_bytes(content[:-30])
    for _ in range(2):
        with pytest.raises(ImageError, match=r"images/0001\.png: truncated.*--skip-bad"):
            load_images(root, 8, cache_dir=cache)
        assert entries(cache) == []
    images = load_images(root, 8, skip_bad=True, cache_dir=cache)
    assert (len(images), images.skipped) == (3, 2)
    assert list(images.names) == ["0000.png", "0002.png", "0004.png"]
    with pytest.raises(ImageError, match=r"images/0001\.png: truncated"):
        load_images(root, 8, cache_dir=cache)
    assert load_images(root, 8, skip_bad=True, cache_dir=cache).skipped == 2
    assert capfd.readouterr() == ("", "")


def test_skipping_finds_nothing_to_skip_in_a_good_source(make_folder, cache: Path, monkeypatch) -> None:
    root = make_folder(3)
    assert load_images(root, 8, skip_bad=True, cache_dir=cache).skipped == 0
    no_decoding(monkeypatch)
    assert load_images(root, 8, cache_dir=cache).skipped == 0


def test_a_source_of_bad_images_only_is_refused(make_folder, cache: Path) -> None:
    root = make_folder(1)
    (root / "images" / "0000.png").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"all of its 1 images are bad; the first: .*0000\.png: not an image"):
        load_images(root, 8, skip_bad=True, cache_dir=cache)
    assert entries(cache) == []


def test_what_is_no_source_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"notes\.txt: not a source of images; give a folder"):
        load_images(tmp_path / "notes.txt", cache_dir=cache)
    with pytest.raises(ImageError, match=r"gone: no such file or folder; give a folder"):
        load_images(tmp_path / "gone", cache_dir=cache)
    with pytest.raises(ImageError, match=r"empty: no image directly in it"):
        load_images(tmp_path / "empty", cache_dir=cache)
    with pytest.raises(SettingsError, match="phantom:-3: not phantom:COUNT:SEED"):
        load_images("phantom:-3", cache_dir=cache)
    with pytest.raises(SettingsError, match="image_size is 0"):
        load_images("phantom", 0, cache_dir=cache)


def test_a_full_disk_is_told_as_it_is_and_leaves_nothing(make_folder, cache: Path) -> None:
    root = make_folder(8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            load_images(root, 32, cache_dir=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert entries(cache) == []
    assert len(load_images(root, 32, cache_dir=cache)) == 8


@pytest.mark.slow
def test_processes_that_build_the_same_at_once_agree(make_folder, cache: Path) -> None:
    root = make_folder(40, masks=True)
    script = (
        "import sys; from pathlib import Path; from ahm_env.images.dataset.loader import load_images\n"
        "images = load_images(sys.argv[1], 8, cache_dir=Path(sys.argv[2]))\n"
        "print(images.content_key, int(images.images(range(len(images))).sum()))"
    )
    command = [sys.executable, "-c", script, str(root), str(cache)]
    project = Path(__file__).resolve().parents[4]
    running = [subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate()[0].strip() for process in running}
    images = load_images(root, 8, cache_dir=cache)
    assert told == {f"{images.content_key} {int(images.images(range(40)).sum())}"}
    assert len(entries(cache)) == 1


def test_phantoms_and_npz_files_load_as_folders_do(tmp_path: Path, cache: Path) -> None:
    phantoms = load_images("phantom:20:3", 24, cache_dir=cache)
    assert (len(phantoms), phantoms.channels, phantoms.has_masks) == (20, 3, True)
    assert [len(phantoms.split(name)) for name in ("train", "val", "test")] == [16, 2, 2]
    assert set(np.unique(phantoms.masks(range(20)))) == {0, 1}
    grey = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mnist.npz", train_images=grey, train_labels=np.arange(6)[:, None] % 2)
    images = load_images(tmp_path / "mnist.npz", 28, cache_dir=cache)
    assert (len(images), images.channels, images.classes, images.has_masks) == (6, 1, ("0", "1"), False)
    assert np.array_equal(images.images(range(6))[:, 0], grey)


def test_sixteen_bit_and_float_and_grey_images_load_together(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mixed").mkdir()
    ramp = np.tile(np.arange(100, dtype=np.float32), (50, 1))
    for name, image in (
        ("a.png", ramp.astype(np.uint16) * 600),
        ("b.tif", ramp / 99),
        ("c.png", ramp.astype(np.uint8) * 2),
    ):
        assert cv2.imwrite(str(tmp_path / "mixed" / name), image)
    images = load_images(tmp_path / "mixed", 16, cache_dir=cache)
    assert images.channels == 1
    a, b, c = images.images([0, 1, 2]).astype(int)
    assert np.abs(a - b).max() <= 1
    assert c.max() < 200
    assert a.min() < 12
    assert a.max() > 243


@pytest.mark.parametrize(
    ("name", "count", "channels", "classes"),
    [("isic2018", 1999, 3, ("BKL", "MEL", "NV")), ("cxr", 300, 1, ("normal", "tuberculosis"))],
)
def test_real_images_load(
    real_images: Path, tmp_path: Path, cache: Path, name: str, count: int, channels: int, classes: tuple[str, ...]
) -> None:
    source = real_images / name
    if not source.is_dir():
        pytest.skip(f"no real images in {source}")
    few = tmp_path / name
    lines = (source / "labels.csv").read_text().splitlines()
    for kind in ("images", "masks"):
        (few / kind).mkdir(parents=True)
    kept = [lines[0]]
    for line in lines[1::10]:
        image = Path(line.split(",")[0])
        shutil.copy(source / "images" / image, few / "images")
        shutil.copy(source / "masks" / f"{image.stem}.png", few / "masks")
        kept.append(line)
    (few / "labels.csv").write_text("\n".join(kept))
    images = load_images(few, 48, cache_dir=cache)
    assert (len(lines) - 1, len(images), images.skipped) == (count, len(kept) - 1, 0)
    assert (images.channels, images.classes) == (channels, classes)
    assert len(images.split("train")) + len(images.split("val")) == len(images)
    everything = np.arange(len(images))
    assert set(np.unique(images.masks(everything))) == {0, 1}
    mean, std = images.standardisation(everything)
    assert ((mean > 90) & (mean < 210) & (std > 20)).all()


# Images at their own size


def names_of(samples) -> list[str]:
    return [sample.name for sample in samples]


@pytest.mark.parametrize("chosen", [[], [2], [0, 3, 4], range(5), np.array([1, 4])])
def test_originals_are_the_images_of_the_source_at_their_own_size(make_folder, cache: Path, chosen) -> None:
    root = make_folder(5, masks=True, table="image,label,split\n" + "".join(f"{i:04d},a,val\n" for i in range(5)))
    images = load_images(root, 8, cache_dir=cache)
    found = list(originals(images, chosen))
    assert names_of(found) == [images.names[index] for index in chosen]
    for sample in found:
        assert sample.mask is not None
        assert np.array_equal(sample.image, cv2.imread(str(root / "images" / sample.name))[..., ::-1])
        assert np.array_equal(sample.mask, cv2.imread(str(root / "masks" / sample.name), cv2.IMREAD_UNCHANGED))
        assert (sample.label, sample.split) == (0, 1)


def test_only_what_is_asked_for_is_decoded(make_folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(make_folder(6), 8, cache_dir=cache)
    decoded = []
    read = "ahm_env.images.formats.pictures.folder.read_picture"
    monkeypatch.setattr(read, lambda path: decoded.append(path.name) or Picture(np.zeros((4, 4), np.uint8)))
    assert names_of(originals(images, [1, 4])) == decoded == ["0001.png", "0004.png"]


def test_originals_are_found_by_name_where_bad_images_were_left_out(make_folder, cache: Path) -> None:
    root = make_folder(6)
    (root / "images" / "0001.png").write_bytes(b"")
    cv2.imwrite(str(root / "images" / "0002.tif"), np.full((4, 4), np.nan, np.float32))
    (root / "images" / "0002.png").unlink()
    images = load_images(root, 8, skip_bad=True, cache_dir=cache)
    assert images.skipped == 2
    assert names_of(originals(images, [1, 3])) == ["0003.png", "0005.png"]


@pytest.mark.parametrize("change", ["gone", "renamed", "bad"])
def test_a_source_that_has_changed_is_told(make_folder, cache: Path, change: str) -> None:
    root = make_folder(4)
    images = load_images(root, 8, cache_dir=cache)
    path = root / "images" / "0002.png"
    if change == "gone":
        path.unlink()
    elif change == "renamed":
        path.rename(root / "images" / "0009.png")
    else:
        path.write_bytes(b"text")
    with pytest.raises(
        ImageError, match=r"0002\.png: not an image" if change == "bad" else "scans: its images have ch"
    ):
        list(originals(images, [2, 3]))


def test_originals_of_phantoms_are_as_large_as_they_are_drawn(cache: Path) -> None:
    images = load_images("phantom:12:3", 24, cache_dir=cache)
    found = list(originals(images, images.split("test")))
    assert np.array_equal(found[0].image.transpose(2, 0, 1), images.images(images.split("test"))[0])
    assert np.array_equal(found[0].mask != 0, images.masks(images.split("test"))[0] == 1)


class Drawn:
    """A source of one's own: grey squares."""

    kind = "drawn"

    def __init__(self, count: int) -> None:
        self.count = count

    def __str__(self) -> str:
        return "my squares"

    def fingerprint(self) -> str:
        return f"drawn {self.count}"

    def index(self, masks: bool = True) -> DatasetIndex:
        def decode(number: int) -> Decoded:
            return Decoded(np.full((4, 4), number, np.uint8))

        entries = (Entry(f"{number}", f"square {number}", partial(decode, number)) for number in range(self.count))
        return DatasetIndex(self.count, entries)


def test_a_source_of_one_s_own_is_loaded_and_cached_by_its_fingerprint(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_source(Drawn(3), PixelSettings(8)).__class__ is Drawn
    images = load_images(Drawn(3), 8, cache_dir=cache)
    assert (images.source, len(images), images.channels) == ("my squares", 3, 1)
    assert images.images([2]).tolist() == [[[[2] * 8] * 8]]
    assert load_images(Drawn(4), 8, cache_dir=cache).content_key != images.content_key
    no_decoding(monkeypatch)
    assert load_images(Drawn(3), 8, cache_dir=cache).content_key == images.content_key


def test_of_several_kinds_in_a_folder_the_most_frequent_is_taken(make_folder, make_dicom) -> None:
    root = make_folder(2)
    settings = PixelSettings(16)
    make_dicom(root / "images" / "a.dcm", np.zeros((4, 6), np.uint8))
    assert find_source(root, settings).kind == "folder"
    for name in ("sub/b.dcm", "sub/c"):
        make_dicom(root / "images" / name, np.zeros((4, 6), np.uint8))
    assert find_source(root, settings).kind == "dicom"
    for name in ("v.nii", "w.nii.gz", "x.nii"):
        (root / "images" / name).touch()
    assert find_source(root, settings).kind == "nifti"
