"""Whether two commits compute the same, bit for bit: `python -m benchmarks.same OLD [NEW] [--keep FOLDER]`.

For moves and renames. Both commits are checked out into folders of their own, where small runs of each kind are made on
this machine: a3c with one worker, ppo, fine-tuning with and without unlabelled images, classification, prediction,
evaluation, a comparison, and the reading of each format. Weights are compared bit for bit, tables, numbers and pictures
value for value; all but times, versions and the commit itself must be equal. The status is 1 where something differs.

NEW is `HEAD` unless it is named. The commands are those of this file. What has been renamed between the two stands in
`WORDS` (flags, settings, columns and keys) and `RENAMED` (files): commands are put into the words of an older commit,
and its results into the words of the newer one, before the two are compared. Tensors that only the old commit stores
are in `DROPPED`.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SHAPE = "--image-size 32 --width 4"
SMALL = f"{SHAPE} --batch-size 4 --device cpu"
PRETRAIN = f"ahm train-agent --data phantom:80:0 {SMALL} --patch-size 8 --total-images 64 --workers 1"
FINETUNE = "ahm finetune --data phantom:80:0 --batch-size 4 --device cpu --labels 8 --steps 6"
UNLABELLED = f"{FINETUNE} --unlabelled auto --join 0.5"
COMMANDS = (
    f"{PRETRAIN} --algo a3c --out a3c",
    f"{PRETRAIN} --algo ppo --out ppo",
    f"{FINETUNE} {SHAPE} --augment strong --out plain",
    f"{UNLABELLED} --from a3c --out mixed",
    f"{UNLABELLED} {SHAPE} --task classification --out classes",
    "ahm predict --from mixed pictures --out found",
    "ahm evaluate --from mixed --data phantom:80:1 --split all --out evaluation.json --pictures cases",
    "ahm evaluate --from classes --data phantom:80:1 --split all --out classified.json",
    f"ahm compare-agents --data phantom:80:0 {SMALL} --patch-size 8 --total-images 16 --seeds 1 --algos scratch,random "
    "--downstream segmentation --labels 8 --unlabelled none,auto --finetune steps=4,batch_size=4 --out cmp",
)
SOURCES = ("phantom:12:3", "pictures", "packed.npz", "volume", "dicom")
VOLATILE = {"command", "seconds", "images_per_second", "git_commit", "versions", "ahm", "created", "threads"}
WORDS: dict[str, str] = {  # a word of the old commit to the new one's; flags are written with dashes
    "images": "total_images",
    "share": "agent_share",
    "chosen_share": "agent_share",
    "skips": "skip_connections",
    "judge": "reference_unet",
    "hardness": "hardness_sampled",
    "reference_hardness": "reference_hardness_sampled",
    "entropy_weight": "ent_coef",
    "value_weight": "vf_coef",
    "max_gradient_norm": "max_grad_norm",
    "epochs": "n_epochs",
    "flips": "tta",
    "average": "ema_decay",
    "balance": "class_weights",
    "select": "val_fraction",
    "folders": "folder",
}
RENAMED: dict[str, str] = {  # a part of a path of the old commit to the new one's
    "judgement.json": "mask_evaluation.json",
    "none/random-0/": "none/random-run0-draw0/",
    "auto/random-0/": "auto/random-run0-draw0/",
    "scratch-0/": "scratch-draw0/",
}
DROPPED = ("network.quotas", "network.random_reward")  # how tensors end that only the old commit stores
SKIPPED = (".lock", ".html", ".log", ".salt")


def write_sources(folder: Path) -> None:
    """Draw small sources of each format."""
    import cv2

    from benchmarks.reading.dicom import write

    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 40, 32, 3), np.uint8)
    masks = np.zeros((6, 40, 32), np.uint8)
    masks[:, 8:24, 8:20] = 255
    for name, pixels in (("images", images), ("masks", masks)):
        (folder / "pictures" / name).mkdir(parents=True)
        for number, one in enumerate(pixels):
            cv2.imwrite(str(folder / "pictures" / name / f"{number}.png"), one)
    np.savez(folder / "packed.npz", images=images, masks=masks)
    write(folder / "dicom", 6)
    try:
        import nibabel
    except ImportError:  # the extra `medical` is not there: neither commit reads it
        return
    (folder / "volume").mkdir()
    values = rng.integers(0, 1000, (20, 24, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "volume" / "head.nii.gz")


def read_sources() -> dict[str, Any]:
    """Read each source, and return its names, patients, labels, and a digest of all pixels and masks."""
    from ahm_env import AHMError, load_images

    found = dict[str, Any]()
    for source in SOURCES:
        try:
            images = load_images(source, 32)
        except AHMError as error:
            found[source] = str(error)
            continue
        every = np.arange(len(images))
        pixels = images.images(every).tobytes()
        masked = every[images.masked(every)]
        masks = images.masks(masked).tobytes() if masked.size else b""
        found[source] = {
            "names": list(images.names),
            "patients": images.patients(every).tolist(),
            "labels": images.labels(every).tolist(),
            "splits": {name: images.split(name).tolist() for name in ("train", "val", "test")},
            "pixels": hashlib.blake2b(pixels, digest_size=16).hexdigest(),
            "masks": hashlib.blake2b(masks, digest_size=16).hexdigest(),
        }
    return found


def run(folder: Path) -> None:
    """Do everything in a folder with the sources, by the packages that PYTHONPATH names."""
    os.chdir(folder)
    Path("read.json").write_text(json.dumps(read_sources(), indent=1), encoding="utf-8")
    helped = {name: _help(name) for name in ("train-agent", "compare-agents", "finetune", "predict", "evaluate")}
    for command in COMMANDS:
        command = in_words_of(helped[command.split()[1]], command)
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command}\n{done.stderr.strip()[-2000:]}")


def _help(command: str) -> str:
    """Return the help of a command, in lines wide enough not to be broken."""
    words = [sys.executable, "-m", "ahm", command, "--help"]
    own = {**os.environ, "COLUMNS": "400"}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=own).stdout


def in_words_of(helped: str, command: str) -> str:
    """Replace the flags of a command by those of an older commit, where its help does not list the newer ones."""
    for old, new in WORDS.items():
        flag, before = (f"--{word.replace('_', '-')}" for word in (new, old))
        if not re.search(rf"{flag}\b(?!-)", helped):
            command = re.sub(rf"{flag}\b(?!-)", before, command)
    return command


def in_new_words(value: Any) -> Any:
    """Rename the keys and columns in what an older commit computed to what they are called now."""
    if isinstance(value, dict):
        return {WORDS.get(key, key): in_new_words(one) for key, one in value.items()}
    return [in_new_words(one) for one in value] if isinstance(value, list) else value


def differences(before: Path, after: Path) -> Iterator[str]:
    """In what the results of two commits differ."""
    ours, theirs = ({str(path.relative_to(root)): path for path in files(root)} for root in (after, before))
    for part, new in RENAMED.items():
        theirs = {name.replace(part, new): path for name, path in theirs.items()}
    yield from (f"{name}: only in the old one" for name in sorted(theirs.keys() - ours.keys()))
    yield from (f"{name}: only in the new one" for name in sorted(ours.keys() - theirs.keys()))
    for name in sorted(ours.keys() & theirs.keys()):
        read = READERS.get(Path(name).suffix, Path.read_bytes)
        if in_new_words(read(ours[name])) != in_new_words(read(theirs[name])):
            yield f"{name}: differs"


def files(root: Path) -> Iterator[Path]:
    """List the files that are compared."""
    for path in sorted(root.rglob("*")):
        skipped = path.name.startswith("events.") or path.name.endswith(SKIPPED)
        if path.is_file() and not skipped:
            yield path


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    tensors = {name: one for name, one in load_file(path).items() if not name.endswith(DROPPED)}
    return {name: (one.dtype.str, one.shape, one.tobytes()) for name, one in tensors.items()}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in VOLATILE} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("metric") not in VOLATILE]


def is_digest(value: Any) -> bool:
    """Whether a value is the digest of a file: of weights, whose header has its names in any order."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _numbers(path: Path) -> Any:
    def stable(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {key: one for key, one in value.items() if key not in VOLATILE and not is_digest(one)}
            return {key: stable(one) for key, one in kept.items()}
        return [stable(one) for one in value] if isinstance(value, list) else value

    text = path.read_text(encoding="utf-8")
    return stable(json.loads(text, parse_constant=str))  # as text, NaN equals NaN


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _tensors,
    ".csv": _table,
    ".json": _numbers,
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
}


def main() -> int:
    """Compare two commits."""
    from ahm_env.images.privacy import SALT, SALT_BYTES

    parser = argparse.ArgumentParser(prog="python -m benchmarks.same")
    parser.add_argument("old")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--keep", type=Path, help="folder for what is computed; by default it is removed")
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder, root = Path(temporary), (asked.keep or Path(temporary)).resolve()
        write_sources(folder / "sources")
        for name, commit in (("old", asked.old), ("new", asked.new)):
            tree, here = folder / "tree", folder / "run"  # the same paths for both, for they stand in some results
            shutil.copytree(folder / "sources", here)
            (folder / "cache").mkdir()
            (folder / "cache" / SALT).write_bytes(bytes(SALT_BYTES))
            subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
            try:
                own = {"PYTHONPATH": str(tree), "AHM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
                words = [sys.executable, __file__, "--run", str(here)]
                subprocess.run(words, check=True, cwd=folder, env={**os.environ, **own})
            finally:
                subprocess.run(["git", "worktree", "remove", "--force", tree], check=True)
            shutil.rmtree(folder / "cache")
            shutil.move(here, root / name)
        count, odd = sum(1 for _ in files(root / "new")), list(differences(root / "old", root / "new"))
    print("\n".join(odd) or f"{count} files are the same.")
    return 1 if odd else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]))
    else:
        sys.exit(main())
