"""Judging: by hand with scripted masks, and nothing executed."""

import pickle
import zipfile
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import Problem, load_agent, make_agent, pretrain, save_agent
from agents.baselines import ScoringAgent
from ahm_env import CheckpointError, MaskRatio, PatchGrid, Reconstructor, RunError, SettingsError, load_images
from ahm_env.images.dataset.annotated import annotated
from ahm_env.images.pixels.png import save_picture
from ahm_env.model.weights import DEFAULT_UNET
from downstream.comparison.mask_evaluation import evaluate_masks, evaluation_images, known, score_masks

HALF = MaskRatio.parse(0.5)


class _Fixed(ScoringAgent):
    """Hides the patches that a map says, in every image."""

    name = "fixed"

    def __init__(self, fixed: Any) -> None:
        super().__init__(Problem(3, 64, 8, (32, 32)))
        self.fixed = fixed

    def scores(self, observations: Any, generator: Any) -> Any:
        return np.broadcast_to(self.fixed, (len(observations), 64))


@pytest.fixture(scope="module")
def unet() -> Reconstructor:
    return Reconstructor.load(DEFAULT_UNET, PatchGrid(64, 8))


def test_losses_are_those_of_the_masks(unet: Reconstructor):
    images = load_images("phantom:80", 64)
    indices = images.split("train")[:6]
    found = score_masks(_Fixed(np.arange(64.0)), unet, images, indices, HALF, pairs=12)
    mask = np.broadcast_to(np.arange(64) >= 32, (6, 64))
    expected = (unet.patch_losses(images.images(indices), mask) * mask).sum(1) / 32
    for kind in (found.hardness.sampled, found.hardness.likeliest):  # it does not draw
        np.testing.assert_allclose(kind.losses.mean(0), expected, rtol=1e-5)
        assert kind.hardness == pytest.approx(expected.mean() / kind.random_losses.mean())


def test_shares_of_the_lesion_by_hand(unet: Reconstructor):
    images = load_images("phantom:80", 64)
    indices = images.split("train")[:6]
    found = score_masks(_Fixed(np.arange(64.0)), unet, images, indices, HALF, pairs=12)
    lesion = images.masks(indices) > 0
    assert found.lesion == pytest.approx(lesion[:, 32:].sum() / lesion.sum())  # patches 32 on are the lower half
    assert found.background == pytest.approx((~lesion)[:, 32:].sum() / (~lesion).sum())


def test_pixels_to_be_ignored_are_neither_lesion_nor_rest(unet: Reconstructor, tmp_path: Path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[:, 20:50, 8:24], masks[:, 24:64, 40:64] = 1, 255
    masks[2, 0, 0] = 2
    for number, mask in enumerate(masks):
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        save_picture(tmp_path / "images" / f"{number}.png", image)
        save_picture(tmp_path / "masks" / f"{number}.png", mask)
    indices = np.arange(3)
    images = annotated(load_images(tmp_path, 64, cache_dir=tmp_path / "cache"), indices, ignore=255)
    found = score_masks(_Fixed(np.arange(64.0)), unet, images, indices, HALF, pairs=12)
    for share, part in ((found.lesion, (masks > 0) & (masks < 255)), (found.background, masks == 0)):
        assert share == pytest.approx(part[:, 32:].sum() / part.sum())


@pytest.mark.parametrize(("value", "shares"), [(0, (nan, 0.5)), (255, (0.5, nan))])
def test_the_share_of_what_is_not_there_is_not_known(
    value: int, shares: tuple[float, float], unet: Reconstructor, tmp_path: Path
):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for part, shown in (("images", pixels), ("masks", np.full((64, 64), value, np.uint8))):
        (tmp_path / part).mkdir()
        save_picture(tmp_path / part / "one.png", shown)
    images = annotated(load_images(tmp_path, 64, cache_dir=tmp_path / "cache"), np.arange(1))
    found = score_masks(_Fixed(np.arange(64.0)), unet, images, np.arange(1), HALF, pairs=2)
    assert (found.lesion, found.background) == pytest.approx(shares, nan_ok=True)


def test_what_is_not_known_is_none():
    assert known({"a": nan, "b": 0.5, "c": "nan", "d": None}) == {"a": None, "b": 0.5, "c": "nan", "d": None}


@pytest.mark.slow
def test_the_same_random_masks_for_every_agent(unet: Reconstructor):
    images = load_images("phantom:80", 64)
    indices = images.split("train")[:6]
    up, down = (score_masks(_Fixed(sign * np.arange(64.0)), unet, images, indices, HALF, pairs=12) for sign in (1, -1))
    np.testing.assert_array_equal(up.hardness.sampled.random_losses, down.hardness.sampled.random_losses)
    assert len(up.hardness.sampled.random_losses) == 32


def test_other_images_are_judged_on_their_test_split():
    images = load_images("phantom:80", 64)
    assert set(evaluation_images(images, "phantom:80")) == set(images.split("test"))
    held_out = evaluation_images(images, None)
    assert set(held_out) <= set(images.split("train"))
    assert len(held_out) == 24 or len(held_out) == 32


class _Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("open('executed', 'w').close()",)


def crafted_zip(path: Path) -> Path:
    """What Stable-Baselines3 saves, with something to execute in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", pickle.dumps(_Payload()))
        archive.writestr("policy.pth", pickle.dumps(_Payload()))
    return path


def test_the_payload_is_dangerous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(crafted_zip(tmp_path / "model.zip")) as archive:
        pickle.loads(archive.read("data"))
    assert Path("executed").exists()


@pytest.mark.parametrize("place", ["model.zip", "agent/model.zip", "agent/agent.safetensors"])
def test_a_crafted_zip_is_refused_and_not_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = crafted_zip(tmp_path / place)
    where = path if place == "model.zip" else path.parent
    with pytest.raises(CheckpointError, match=r"zip archive.*could execute code.*ahm train-agent --algo ppo"):
        load_agent(where)
    assert not Path("executed").exists()


def test_a_zip_in_place_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="could execute code"):
        evaluate_masks(crafted_zip(tmp_path / "model.zip"))
    assert not Path("executed").exists()


def test_what_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        evaluate_masks(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises((RunError, CheckpointError), match="notes"):
        evaluate_masks(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text('{"settings": {"augment": "flips"}}')
    with pytest.raises(RunError, match=r"another command .*augment.*; give the directory that `ahm train-agent`"):
        evaluate_masks(tmp_path)
    save_agent(make_agent("random", Problem(3, 64, 8, (32, 32))), tmp_path / "agent")
    assert load_agent(tmp_path / "agent").name == "random"


@pytest.mark.slow
def test_the_lower_the_temperature_the_closer_sampled_masks_are_to_the_likeliest(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    tiny: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "total_images": 32}
    made = {
        algo: pretrain("phantom:40", tmp_path / algo, algo=algo, workers=1, device="cpu", **tiny)
        for algo in ("a3c", "a2c", "hard-patches")
    }
    own, cold = (evaluate_masks(made["a3c"], temperature=one) for one in (None, 1e-4))
    assert (own.temperature, cold.temperature) == (1, 1e-4)
    likeliest = cold.scores.hardness.likeliest.masks
    assert (own.scores.hardness.likeliest.masks == likeliest).all()
    assert (cold.scores.hardness.sampled.masks == likeliest[0]).mean() > 0.95
    assert (own.scores.hardness.sampled.masks == likeliest[0]).mean() < 0.9
    own, hot = (evaluate_masks(made["a2c"], temperature=one).scores.hardness.sampled.masks for one in (None, 10))
    assert (own != hot).any()  # its bits are drawn from others
    with pytest.raises(SettingsError, match="its agent, hard-patches, draws from no logits; leave out --temperature"):
        evaluate_masks(made["hard-patches"], temperature=0.5)
    with pytest.raises(SettingsError, match="--temperature 0 must be a positive number"):
        evaluate_masks(made["a3c"], temperature=0)
    config = made["a3c"].path / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda:7"'))  # of another machine
    assert evaluate_masks(made["a3c"], temperature=1e-4).scores.hardness.likeliest.masks.shape == likeliest.shape
    with pytest.raises(SettingsError, match="--device cuda:7 is not on this machine; use cpu, or auto"):
        evaluate_masks(made["a3c"], device="cuda:7")
    finished = pretrain(out=made["a3c"].path, resume=True, device="cpu")
    assert finished.metrics["images"] == 32
    assert '"device": "cpu"' in config.read_text()


def test_masks_are_evaluated_in_the_precision_of_the_run(tmp_path: Path):
    tiny: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "total_images": 8}
    run = pretrain("phantom:40", tmp_path / "run", algo="random", device="cpu", precision="fp32", **tiny)
    config = run.path / "config.json"
    losses = [evaluate_masks(run).scores.hardness.sampled.losses]
    config.write_text(config.read_text().replace('"precision": "fp32"', '"precision": "bf16"'))
    losses.append(evaluate_masks(run).scores.hardness.sampled.losses)
    assert (losses[0] != losses[1]).any()
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_images_that_a_run_may_have_learned_from_are_not_evaluated_on(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "scans").mkdir()
    for number in range(12):
        image = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        save_picture(tmp_path / "scans" / f"{number:02}.png", image)
    tiny: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "total_images": 8}
    run = pretrain(tmp_path / "scans", tmp_path / "run", algo="random", device="cpu", **tiny)
    assert len(evaluate_masks(run).names) == 6
    save_picture(tmp_path / "scans" / "12.png", np.eye(16, dtype=np.uint8))
    with pytest.raises(RunError, match=r"scans have changed since, .*name images that it has not learned from by --"):
        evaluate_masks(run)
    assert len(evaluate_masks(run, data=tmp_path / "scans").names) == 6
