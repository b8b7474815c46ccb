"""The library as its users write it: every verb takes paths or objects, returns an object, and prints nothing."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents
from agents import PretrainedRun, make_agent, pretrain
from ahm_env import (
    AHMError,
    ImageError,
    RunError,
    SettingsError,
    check_images,
    find_file,
    find_files,
    load_images,
    make_contact_sheet,
)
from downstream import (
    FinetunedModel,
    annotate,
    compare,
    evaluate,
    evaluate_masks,
    export,
    finetune,
    predict,
    report,
)

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(autouse=True)
def _silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """A place of its own; a test in which something is printed fails."""
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def run() -> PretrainedRun:
    return pretrain("phantom:40", algo="random", total_images=16, workers=1, out="runs/scans", **SMALL)


@pytest.fixture
def model() -> FinetunedModel:
    given = {"image_size": 16, "width": 2, "batch_size": 2, "device": "cpu"}
    return finetune("scratch", "phantom:40", labels=8, steps=2, augment="none", out="runs/lesions", **given)


def write_scans(folder: str, count: int) -> None:
    from PIL import Image

    Path(folder).mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(Path(folder, f"{number}.png"))


def write_labelled(folder: str, count: int) -> None:
    """A folder of images and masks, half of them to train on."""
    from PIL import Image

    for name in ("images", "masks"):
        Path(folder, name).mkdir(parents=True)
    rows = ["image,split"]
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(Path(folder, "images", f"{number}.png"))
        Image.fromarray((pixels[..., 0] > 128).astype(np.uint8) * 255).save(Path(folder, "masks", f"{number}.png"))
        rows.append(f"{number}.png,{'test' if number % 4 == 0 else 'train'}")
    Path(folder, "labels.csv").write_text("\n".join(rows) + "\n")


def test_images_are_checked() -> None:
    write_labelled("scans", 4)
    Path("scans/images/3.png").write_bytes(b"no image")
    seen = list[tuple[int, int]]()
    report = check_images(Path("scans"), progress=lambda done, total: seen.append((done, total)))
    assert (report.images, len(report.problems), report.warnings) == (3, 1, [])
    assert seen[-1] == (4, 4)
    with pytest.raises(ImageError, match="no such file"):
        check_images("nowhere")
    with pytest.raises(SettingsError, match="--window wide"):
        check_images("scans", window="wide")


def test_a_contact_sheet_is_a_picture() -> None:
    sheet = make_contact_sheet("phantom:9:1", count=4)
    assert (len(sheet.images), len(sheet.indices), sheet.picture.dtype, sheet.picture.ndim) == (9, 4, np.uint8, 3)
    sheet.save("sheet.png")
    assert Path("sheet.png").stat().st_size > 1000
    with pytest.raises(SettingsError, match=r"labels\.csv must end in \.png"):
        sheet.save("labels.csv")
    with pytest.raises(SettingsError, match="--count 0: too few"):
        make_contact_sheet("phantom:9:1", count=0)
    with pytest.raises(ImageError, match="no such file"):
        make_contact_sheet("nowhere")


def test_a_pseudonym_leads_to_its_file() -> None:
    nibabel = pytest.importorskip("nibabel")
    Path("volumes").mkdir()
    for name in "ab":
        volume = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
        nibabel.save(volume, f"volumes/{name}.nii")
    found = dict(find_files("volumes"))
    assert sorted(found.values()) == [Path("volumes/a.nii"), Path("volumes/b.nii")]
    assert all(find_file("volumes", f"{name}_0003") == path for name, path in found.items())
    with pytest.raises(SettingsError, match="no file of name"):
        find_file("volumes", "0123")
    with pytest.raises(SettingsError, match="shown by their own names"):
        find_files("phantom:3")


@pytest.mark.slow
def test_from_images_to_masks(run: PretrainedRun) -> None:
    assert len(load_images("phantom:3", 16)) == 3
    assert callable(make_agent)
    given = {"steps": 2, "batch_size": 2, "augment": "none", "device": "cpu"}
    model = finetune(run, "phantom:40", labels=8, out="runs/lesions", **given)
    found = evaluate(model, "phantom:60:3")
    text = found.table()
    assert "phantom:60:3, test split: 6 images" in text
    assert f"{found.measures['dice'].mean:.3f}" in text
    write_scans("new_scans", 3)
    sizes = [(one.name, one.mask.shape) for one in predict(model, ["new_scans"]) if one.mask is not None]
    assert sizes == [("0.png", (20, 30)), ("1.png", (21, 30)), ("2.png", (22, 30))]


def test_predictions_are_written_and_go_on(model: FinetunedModel) -> None:
    write_scans("scans", 3)
    found = predict(model, ["scans"], "found")
    assert (found.total, found.before, found.done) == (3, 0, 0)
    first = next(iter(found))  # a program may stop when it likes
    assert first.name == "0.png"
    Path("scans/3.png").write_bytes(b"no image")
    found = predict(model.path, [Path("scans")], "found")
    assert (found.total, found.before) == (4, 1)
    assert [one.name for one in found] == ["1.png", "2.png"]
    assert (found.done, found.refused, found.problems[0][0]) == (4, 1, "3.png")
    with Path("found/predictions.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["0.png", "1.png", "2.png"]
    assert Path("found/masks/2.png").exists()
    with pytest.raises(RunError, match="holds predictions with another tta"):
        predict(model, ["scans"], "found", tta=True)
    with pytest.raises(ImageError, match="no such file"):
        predict(model, ["nowhere"])


@pytest.mark.slow
def test_an_evaluation_has_numbers_a_table_and_a_page(model: FinetunedModel) -> None:
    seen = list[tuple[int, int]]()
    found = evaluate(model.path, "phantom:60:3", "all", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)
    assert found.count == 60
    assert json.loads(json.dumps(found.as_dict()))["dice"] == pytest.approx(found.measures["dice"].mean)
    found.write_page(Path("page.html"))
    assert "<html" in Path("page.html").read_text()[:500]
    with pytest.raises(SettingsError, match="--split some is unknown"):
        evaluate(model, "phantom:60:3", "some")
    with pytest.raises(AHMError, match="nowhere"):
        evaluate("nowhere", "phantom:60:3")


@pytest.mark.slow
def test_agents_are_evaluated_compared_and_reported(run: PretrainedRun) -> None:
    masks = evaluate_masks(run)
    assert masks.as_dict()["agent"] == "random"
    assert 0.5 < masks.scores.hardness.sampled.hardness < 2
    assert report([run]) == run.path / "report.html"
    assert report([run, run.path], "both.html").exists()
    told = list[str]()
    found = compare(
        ["random"], "phantom:40", "cmp", seeds=1, jobs=1, reference_unets=1, total_images=16, log=told.append, **SMALL
    )
    assert not found.failed
    assert any(line.startswith("done    random-0") for line in told)
    assert "hardness" in found.table()
    assert Path("cmp/report.html").exists()
    assert report(["cmp"]) == Path("cmp/report.html")
    with pytest.raises(RunError, match="make a page of each kind"):
        report(["cmp", run])
    with pytest.raises(RunError, match="holds an experiment with another --total-images"):
        compare("random", "phantom:40", "cmp", seeds=1, total_images=20, **SMALL)
    with pytest.raises(RunError, match="holds no run"):
        evaluate_masks("cmp")


def test_what_cannot_be_exported_or_annotated_is_raised(model: FinetunedModel) -> None:
    with pytest.raises(SettingsError, match="needs a U-Net of width 64"):
        export(model, "model.pth", "pytorch-unet")
    with pytest.raises(SettingsError, match=r"must end in \.onnx"):
        export(model, "labels.csv")
    with pytest.raises(AHMError, match="nowhere"):
        annotate("nowhere", "phantom:3", "out")
    assert not Path("out").exists()


@pytest.mark.slow
def test_an_export_tells_how_exact_it_is(model: FinetunedModel) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = export(model, "model.onnx")
    assert found.path.stat().st_size > 1000
    assert found.differences[0] < 1e-4
    assert "InferenceSession" in "".join(found.usage)


@pytest.mark.parametrize("name", ["seed", "workers", "agent", "agent_learning_rate"])
def test_what_an_experiment_or_an_agent_sets_cannot_be_given(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is no setting of an experiment"):
        compare("random", "phantom:40", "cmp", **{name: 1})


SCRIPT = """
import torch
from agents import pretrain
from downstream import compare

print("begins")
torch.set_num_threads(3)
given = dict(image_size=16, patch_size=4, width=2, batch_size=4, total_images=64, device="cpu")
run = pretrain("phantom:40", "run", algo="a3c", workers=2, **given)
found = compare("random", "phantom:40", "cmp", seeds=1, reference_unets=1, jobs=2, **given)
print(run.metrics["images"] >= 64, len(found.tables), torch.get_num_threads())
"""


@pytest.mark.slow
def test_a_script_that_starts_processes_needs_no_guard(tmp_path: Path) -> None:
    """Processes that are spawned would run a script once more."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(Path(agents.__file__).parents[1])}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begins", "True 1 3"]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(agents.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    write_labelled("scans", 40)
    write_labelled("other_scans", 12)
    write_scans("new_scans", 2)
    little = "workers=1, image_size=16, patch_size=4, width=2, batch_size=4"
    for asked, small in {"total_images=50_000": f"total_images=16, {little}", "labels=25": "labels=8, steps=4"}.items():
        assert asked in code
        code = code.replace(asked, small)
    told: list[str] = []
    exec(code, {"print": lambda *words: told.append(" ".join(map(str, words)))})
    assert "other_scans: 12 images" in told[0]
    assert [line.split()[0] for line in told[1:]] == ["0.png", "1.png"]
