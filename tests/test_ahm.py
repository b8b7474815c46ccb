"""The command line: what a person types, and what comes of it."""

import csv
import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module, metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer

import ahm
from agents.pretraining.settings import RunSettings
from ahm_env.files import load_tensors
from ahm_env.model.unet import UNet
from ahm_env.runs.flags import flags_of
from downstream.comparison.options import Downstream
from downstream.finetuning.settings import FinetuneSettings

ROOT = Path(ahm.__file__).resolve().parent
TINY = [
    "--data",
    "phantom:80",
    "--image-size",
    "32",
    "--width",
    "4",
    "--batch-size",
    "4",
    "--total-images",
    "64",
    "--workers",
    "1",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def start(*words: str, **settings: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ahm", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **settings
    )


def folder(path: Path, count: int = 4, size: int = 40) -> Path:
    (path / "images").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        cv2.imwrite(str(path / "images" / f"{number}.png"), pixels)
    return path


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(max((run / "checkpoints").glob("*.safetensors")))[0]


@pytest.mark.slow
def test_training_ends_with_a_table_the_picture_and_what_to_do_next(call, tmp_path):
    status, out, err = call("train-agent", *TINY, "--out", "run")
    assert (status, err) == (0, "")
    assert "hardness on held-out images" in out
    assert "run/masks.png" in out
    assert "Next:" in out
    assert "\x1b" not in out
    assert "\r" not in out
    assert cv2.imread("run/masks.png") is not None


@pytest.mark.slow
def test_runs_without_a_name_get_the_next_free_one(call):
    assert call("train-agent", *TINY)[0] == 0
    assert call("train-agent", *TINY)[0] == 0
    assert Path("runs/a3c-phantom-1/masks.png").is_file()
    assert Path("runs/a3c-phantom-2/masks.png").is_file()


@pytest.mark.slow
def test_a_finished_run_says_so(call):
    call("train-agent", *TINY, "--out", "run")
    status, out, _ = call("train-agent", "--resume", "--out", "run")
    assert status == 0
    assert "finished" in out


@pytest.mark.slow
def test_every_agent_and_setting_reaches_the_run(call):
    words = [
        "--horizon",
        "2",
        "--mask-ratio",
        "0.3:0.6",
        "--agent-share",
        "0:0.5",
        "--norm",
        "group",
        "--schedule",
        "staged",
    ]
    words += ["--no-skip-connections", "--precision", "bf16"]
    assert call("train-agent", *TINY, *words, "--set", "vf_coef=0.5", "--out", "run")[0] == 0
    config = (tmp := Path("run/config.json")).read_text()
    assert tmp.is_file()
    for text in (
        '"horizon": 2',
        '"mask_ratio": "0.3:0.6"',
        '"agent_share": "0:0.5"',
        '"norm": "group"',
        '"vf_coef": 0.5',
    ):
        assert text in config
    assert '"skip_connections": false' in config
    assert '"precision": "bf16"' in config
    for algo in ("random", "untrained"):
        assert call("train-agent", *TINY, "--algo", algo, "--out", algo)[0] == 0


HELPED = {
    "train-agent": (RunSettings, {"agent"}),
    "finetune": (FinetuneSettings, {"stratified"}),
    "compare-agents": (Downstream, set[str]()),
}


@pytest.mark.parametrize("name", HELPED)
def test_every_setting_is_a_flag_and_shows_its_default(call, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "400")
    settings, others = HELPED[name]
    known = flags_of(settings)
    assert {field.name for field in fields(settings)} - set(known) == others
    status, out, _ = call(name, "--help")
    assert status == 0
    for setting, flag in known.items():
        word, default = f"--{(flag.name or setting).replace('_', '-')}", getattr(settings, setting)
        line = next(line for line in out.splitlines() if line.startswith("│ ") and f"{word} " in line)
        assert flag.help in line
        shown = f"no-{word[2:]}" if default is False else word[2:] if default is True else default
        if flag.default or default not in (None, ""):
            assert f"{flag.default or shown})]" in line


@pytest.mark.slow
def test_a_run_is_repeated_from_its_config(call):
    words = ["--mask-ratio", "0.3:0.6", "--set", "vf_coef=0.5", "--norm", "group"]
    assert call("train-agent", *TINY, *words, "--out", "run")[0] == 0
    config = ["train-agent", "--config", "run/config.json"]
    assert call(*config, "--out", "again")[0] == 0
    assert call(*config, "--seed", "1", "--set", "sizes=2", "--out", "other")[0] == 0
    first, again, other = (
        json.loads(Path(run, "config.json").read_text())["settings"] for run in ("run", "again", "other")
    )
    assert first == again
    assert other == {**first, "seed": 1, "agent": {"vf_coef": 0.5, "sizes": 2}}
    Path("odd.json").write_text('{"settings": {"total_images": 64, "colour": 1}}')
    status, _, err = call("train-agent", "--config", "odd.json")
    assert (status, err.count("\n")) == (2, 1)
    assert "odd.json: there is no setting colour" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--data", "missing"], "missing"),
        (["--mask-ratio", "0"], "strictly between 0 and 1"),
        (["--mask-ratio", "1"], "strictly between 0 and 1"),
        (["--mask-ratio", "0.01"], "at least one patch must be hidden"),
        (["--mask-ratio", "half"], "not a number or a range"),
        (["--image-size", "60"], "not divisible"),
        (["--image-size", "8"], "fewer than 2 x 2 patches"),
        (["--total-images", "-5"], "--total-images -5"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--workers", "-1"], "--workers -1"),
        (["--horizon", "0"], "--horizon 0"),
        (["--horizon", "30"], "horizon 30"),
        (["--agent-share", "2"], "--agent-share 2"),
        (["--learning-rate", "0"], "--learning-rate 0"),
        (["--schedule", "sometimes"], "--schedule"),
        (["--norm", "layer"], "norm"),
        (["--algo", "dqn"], "dqn"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--preset", "huge"], "--preset huge"),
        (["--channels", "4"], "channels"),
        (["--fit", "crop"], "fit"),
        (["--set", "backbone=resnet"], "resnet"),
        (["--set", "gama=0.5"], "has no setting 'gama'; it has"),
        (["--set", "vf_coef"], "--set vf_coef is not KEY=VALUE"),
        (["--config", "missing.json"], "missing.json"),
        (["--set", "vf_coef=abc"], "--set vf_coef abc must be a number"),
        (["--set", "max_grad_norm=-1"], "--set max_grad_norm -1 must be more than 0"),
        (["--set", "vf_coef=null"], "--set vf_coef None must be a number"),
        (["--config", "missing.json", "--preset", "demo"], "give one of them"),
        (["--set", "backbone=vgg16", "--set", "backbone_weights=missing.pth"], "missing.pth"),
        (["--resume"], "--out"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(call, words, text):
    status, _, err = (
        call("train-agent", *TINY, "--out", "run", *words)
        if "--resume" not in words
        else call("train-agent", "--resume")
    )
    assert status == 2
    assert text in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def text_named_png(path: Path) -> None:
    (path / "images" / "9.png").write_text("this is no picture")


def truncated_jpeg(path: Path) -> None:
    cv2.imwrite(str(path / "images" / "9.jpg"), np.zeros((64, 64, 3), np.uint8))
    whole = (path / "images" / "9.jpg").read_bytes()
    (path / "images" / "9.jpg").write_bytes(whole[: len(whole) // 2])


def mask_without_image(path: Path) -> None:
    (path / "masks").mkdir()
    for number in range(5):
        cv2.imwrite(str(path / "masks" / f"{number}.png"), np.zeros((40, 40), np.uint8))


def label_without_image(path: Path) -> None:
    (path / "labels.csv").write_text("image,label\n" + "".join(f"{number}.png,a\n" for number in range(5)))


def emptied(path: Path) -> None:
    for image in (path / "images").iterdir():
        image.unlink()


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (text_named_png, "9.png"),
        (truncated_jpeg, "9.jpg"),
        (mask_without_image, "4.png"),
        (label_without_image, "4.png"),
        (emptied, "images"),
    ],
)
def test_bad_images_are_one_line_that_names_the_file(call, tmp_path, spoil, name):
    spoil(folder(tmp_path / "scans"))
    status, _, err = call("train-agent", *TINY, "--data", "scans", "--out", "run")
    assert status == 2
    assert name in err
    assert err.count("\n") == 1
    assert not Path("run").exists()
    status, out, _ = call("data", "check", "scans") if spoil is not emptied else (2, name, "")
    assert status == 2
    assert name in out


@pytest.mark.slow
def test_skip_bad_goes_on_and_says_how_many(call, tmp_path):
    text_named_png(folder(tmp_path / "scans", 8))
    status, out, _ = call("train-agent", *TINY, "--data", "scans", "--out", "run", "--skip-bad")
    assert status == 0
    assert "1 bad images" in out or "1 bad image" in out


def test_an_output_path_that_is_a_file_is_refused(call):
    Path("run").write_text("precious")
    status, _, err = call("train-agent", *TINY, "--out", "run")
    assert status == 2
    assert "is a file" in err
    assert Path("run").read_text() == "precious"


def test_a_directory_with_other_things_is_refused(call):
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("precious")
    status, _, err = call("train-agent", *TINY, "--out", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert [path.name for path in Path("run").iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_an_existing_run_is_never_overwritten(call):
    call("train-agent", *TINY, "--out", "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for words, text in (
        ([*TINY, "--out", "run"], "--resume"),
        ([*TINY, "--out", "run", "--seed", "5"], "holds a run with another --seed"),
        (["--resume", "--out", "run", "--seed", "5"], "--seed"),
    ):
        status, _, err = call("train-agent", *words)
        assert status == 2
        assert text in err
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_resuming_nothing_is_refused(call):
    status, _, err = call("train-agent", "--resume", "--out", "nothing")
    assert (status, err.count("\n")) == (2, 1)
    assert not Path("nothing").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_with_the_remedy_and_the_remedy_works(call):
    call("train-agent", *TINY, "--out", "run")
    newest = max(Path("run/checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[-100] ^= 255
    newest.write_bytes(content)
    status, _, err = call("train-agent", "--resume", "--out", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert newest.name in err
    assert "delete" in err
    newest.unlink()
    assert call("train-agent", "--resume", "--out", "run")[0] == 0


@pytest.mark.slow
def test_images_that_changed_since_the_run_began_are_refused(call, tmp_path):
    scans = folder(tmp_path / "scans", 8)
    call("train-agent", *TINY, "--data", "scans", "--out", "run")
    cv2.imwrite(str(scans / "images" / "0.png"), np.zeros((41, 41, 3), np.uint8))
    status, _, err = call("train-agent", "--resume", "--out", "run")
    assert status == 2
    assert "changed" in err


@pytest.mark.slow
def test_another_process_on_the_same_run_is_refused(call):
    words = [*TINY, "--total-images", "100000", "--out", "run"]
    with start("train-agent", *words) as first:
        wait_for(lambda: Path("run/metrics.csv").exists(), first)
        status, _, err = call("train-agent", "--resume", "--out", "run")
        first.kill()
    assert (status, err.count("\n")) == (2, 1)
    assert "another process" in err


def wait_for(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)


def seen(run: Path) -> int:
    paths = list((run / "checkpoints").glob("[0-9]*.safetensors"))
    return max((int(path.stem) for path in paths), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("after", [40, 200])
def test_kill_9_at_any_moment_and_resume_ends_in_identical_weights(call, after):
    words = [*TINY, "--total-images", "320"]
    call("train-agent", *words, "--out", "whole")
    with start("train-agent", *words, "--out", "cut") as process:
        wait_for(lambda: seen(Path("cut")) >= after, process)
        process.kill()
    assert 0 < seen(Path("cut")) < 320
    assert call("train-agent", "--resume", "--out", "cut")[0] == 0
    whole, cut = checkpoint(Path("whole")), checkpoint(Path("cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    tables = []
    for run in ("whole", "cut"):
        with Path(run, "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        tables.append([(row["images"], row["unet_loss"], row["hardness_sampled"]) for row in rows])
    assert tables[0] == tables[1]


LONG = [*TINY, "--total-images", "8000"]  # the first checkpoint comes after 500


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(number, workers):
    with start("train-agent", *LONG, "--workers", workers, "--out", "run", start_new_session=True) as process:
        wait_for(lambda: seen(Path("run")) > 0, process)
        os.killpg(process.pid, number)  # as a terminal or a scheduler does: to the workers, too
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert err == ""
    assert "--resume --out run" in out
    assert "\x1b" not in out
    assert 500 <= seen(Path("run")) < 8000
    assert checkpoint(Path("run"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_ends_without_a_traceback(call, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    monkeypatch.setattr("ahm_env.images.console.check_images", lambda *_: signal.raise_signal(number))
    status, _, err = call("data", "check", "phantom")
    signal.signal(signal.SIGTERM, before)
    assert status == 128 + number
    assert err.count("\n") <= 1
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_and_leaves_the_checkpoint():
    with start("train-agent", *LONG, "--workers", "2", "--out", "run") as process:
        wait_for(lambda: seen(Path("run")) > 0, process)
        found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == 2
    assert "worker 1" in err
    assert "SIGKILL" in err
    assert checkpoint(Path("run"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(call):
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    call("train-agent", *TINY, "--width", "4", "--out", "warm")  # fills the image cache
    with start("train-agent", *TINY, "--width", "8", "--out", "run", preexec_fn=limit) as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "resume" in err
    assert not list(Path("run").rglob("*.tmp"))


@pytest.mark.slow
def test_a_full_gpu_is_one_line(call, monkeypatch):
    def forward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(UNet, "forward", forward)
    status, _, errors = call("train-agent", *TINY, "--out", "run")
    assert status == 2
    assert errors.startswith("error: the memory of the device is full; what was saved is intact")
    assert "lower --batch-size or --image-size" in errors
    assert errors.count("\n") == 1


def full_cpu(*_, **__):
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
    )


def full_numpy(*_, **__):
    np.zeros(2**62, np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("fill", [full_cpu, full_numpy])
def test_a_full_memory_is_one_line_and_a_run_that_has_not_begun_leaves_its_place_free(call, monkeypatch, fill):
    with monkeypatch.context() as patch:
        patch.setattr(UNet, "__init__", fill)
        status, _, errors = call("train-agent", *TINY, "--out", "run")
    assert status == 2
    assert errors.startswith("error: the memory of this machine is full; what was saved is intact")
    assert errors.count("\n") == 1
    assert not Path("run/config.json").exists()


def test_the_help_imports_nothing_heavy():
    heavy = ("torch", "cv2", "gymnasium", "numpy")
    code = "import sys, ahm\nsys.argv = ['ahm', '--help']\ntry: ahm.main()\nexcept SystemExit: pass\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.slow
def test_another_package_named_agents_is_noticed(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", "import ahm; ahm.main()"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "virtual environment" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ahm_only_parses_and_calls():
    source = Path(ahm.__file__).read_text()
    heads = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert all(line.split()[1].split(".")[0] in {*sys.stdlib_module_names, "typer"} for line in heads)
    assert isinstance(ahm.app, typer.Typer)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["agents", "downstream"])
@pytest.mark.parametrize("known", [True, False])
def test_a_package_that_another_distribution_has_written_over_is_noticed(package: str, known: bool, tmp_path: Path):
    for name in ("agents", "downstream"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text((ROOT / name / "__init__.py").read_text())
    shutil.copy(ROOT / "ahm.py", tmp_path)
    (tmp_path / package / "__init__.py").write_text('"""Agents that talk."""\n')  # the other files stay
    (tmp_path / package / "a3c.py").write_text("")
    if known:
        about = tmp_path / "talking_agents-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: talking-agents\nVersion: 1.0\n")
        (about / "RECORD").write_text(f"{package}/__init__.py,,\n")
    words = [sys.executable, "-c", "import ahm; ahm.main()", "--help"]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True)
    error = done.stderr.decode()
    assert (done.returncode, error.count("\n")) == (2, 1)
    assert f"is not this project's `{package}` package" in error
    assert ("the distribution talking-agents has that name" in error) == known


def test_the_version_is_that_of_the_distribution(call):
    status, out, err = call("--version")
    assert (status, out, err) == (0, f"ahm {metadata.version('ahm-env')}\n", "")


@pytest.mark.parametrize("place", [*ahm.COMMANDS.values(), *ahm.DATA.values()])
def test_the_list_of_commands_says_what_each_says_of_itself(place: str):
    module, _, function = place.partition(":")
    assert ahm.docstring(module, function) == inspect.getdoc(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"agent": [1]}', "--set agent [1] must be Mapping"),
        ('{"total_images": "many"}', "--total-images many must be a whole number"),
        ('{"steps": 9}', "there is no setting steps here; is it of another command?"),
    ],
)
def test_a_config_by_hand_that_cannot_be_used_is_one_line_and_status_2(call, content: str, text: str):
    Path("own.json").write_text(content)
    status, _, err = call("train-agent", "--config", "own.json", "--out", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert text in err.replace("--agent ", "--set agent ")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": "missing", "agent_learning_rate": 0.01}', ("--set", "learning_rate=0.02")),
        ('{"data": "missing", "agent": {"learning_rate": 0.01}}', ("--agent-learning-rate", "0.02")),
    ],
)
def test_the_agent_s_learning_rate_wins_whatever_a_config_calls_it(call, content: str, words: tuple[str, str]):
    Path("own.json").write_text(content)
    status, _, err = call("train-agent", "--config", "own.json", *words, "--out", "run")
    assert status == 2
    assert "missing: no such" in err
    assert "same setting" in call("train-agent", "--agent-learning-rate", "0.1", "--set", "learning_rate=0.1")[2]


@pytest.mark.slow
def test_what_a_run_in_the_way_has_otherwise_is_named(call):
    assert call("train-agent", *TINY, "--set", "vf_coef=0.5", "--out", "run")[0] == 0
    status, _, err = call("train-agent", *TINY, "--out", "run")
    assert (status, "holds a run with another --set vf_coef;" in err) == (2, True)
    status, _, err = call("train-agent", "--resume", "--out", "run", "--set", "vf_coef=0.6")
    assert (status, "other settings than --set vf_coef;" in err) == (2, True)


def test_ctrl_c_outside_of_a_run_is_one_line(call, monkeypatch):
    monkeypatch.setattr("ahm_env.images.console.check_images", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    status, _, err = call("data", "check", "phantom")
    signal.signal(signal.SIGINT, before)
    assert (status, err) == (130, "error: stopped by Ctrl-C; what was saved stays\n")
