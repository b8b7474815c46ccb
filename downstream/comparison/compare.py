"""Comparison as a function: agents in, an experiment's directory with tables and a page out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agents.pretraining.settings import RunSettings
from ahm_env import AHMError, ImageSet, RunError, SettingsError
from ahm_env.files import Saved, check_name, path_of
from ahm_env.images.dataset.builder import Progress
from ahm_env.model import ranks
from ahm_env.model.devices import count_cores
from downstream.comparison.experiment import Experiment, data_of, is_experiment, pretrained_runs
from downstream.comparison.images import check_images, check_runs, refuse_changed
from downstream.comparison.options import NOT_SHARED, Downstream
from downstream.comparison.pools.cluster import Cluster
from downstream.comparison.pools.pool import Pool, last_line
from downstream.comparison.results.rows import RESULTS, Row, read_results
from downstream.comparison.results.tables import tables_of, trends_of
from downstream.evaluation.page import source_name
from downstream.evaluation.tested import find_tested
from downstream.reports.load_runs import without_paths
from downstream.reports.report import Table, Trend, make_report
from downstream.sam.annotation import annotate, check_annotation

PAGE = "report.html"


@dataclass(frozen=True)
class Comparison:
    """What an experiment has come to.

    Attributes:
        path: Its directory, with `results.csv` and `report.html`.
        rows: Its results, as `results.csv` has them; none where no trial is done.
        tables: The same for a person.
        failed: Name of each trial that failed, of Segment Anything's directory where that did, and why.
    """

    path: Path
    rows: Sequence[Row]
    tables: Sequence[Table]
    failed: Mapping[str, str]

    def table(self) -> str:
        """All tables, with their notes."""
        return "\n".join(one.text() for one in self.tables)


def compare(
    algos: str | Iterable[str],
    data: str | Path | None = None,
    out: str | Path = "runs/comparison",
    *,
    seeds: int = 5,
    jobs: int = 0,
    reference_unets: int = 2,
    cluster: str | None = None,
    downstream: Downstream | None = None,
    load: Callable[[RunSettings], ImageSet] = RunSettings.load_images,
    log: Callable[[str], object] = lambda line: None,
    progress: Progress = lambda done, total: None,
    **settings: Any,
) -> Comparison:
    """Run an experiment, or go on with it: train agents, evaluate their masks, all on the same U-Nets, and fine-tune.

    Args:
        algos: Agents, as a list or separated by commas; `NAME+KEY=VALUE` has settings of its own, and NAME may be
            `package.module:Class`.
        data: A folder, archive, volume, or `phantom` for synthetic images.
        out: Directory of the experiment; the same call goes on with it.
        seeds: How many pretraining runs of each.
        jobs: Runs at once; 0: one a core, or one on a GPU.
        reference_unets: How many U-Nets are trained on random masks, on each of which all agents are evaluated.
        cluster: Address of a Ray cluster on which runs are trained, one a CPU; `auto` starts one on this machine. None:
            in processes of this machine.
        downstream: What their U-Nets are fine-tuned for, None for nothing.
        load: Loads the images that all runs share.
        log: Called with what is going on, line by line.
        progress: Called with (done, total) in images.
        **settings: Fields of `RunSettings` that all runs share.

    Returns:
        How the agents compare.

    Raises:
        AHMError: Anything that the user can mend.
    """
    if ranks.count() > 1:
        raise SettingsError("an experiment starts processes of its own; leave torchrun out, and give --jobs")
    if jobs and cluster is not None:
        raise SettingsError(f"--jobs {jobs}: a cluster runs as many at once as it has CPUs or GPUs; leave one out")
    labels = algos.split(",") if isinstance(algos, str) else algos
    if odd := sorted(NOT_SHARED & set(settings)):
        raise SettingsError(f"{odd[0]} is no setting of an experiment; one of an agent is written a3c+image_weight=2")
    given = {"data": None if data is None else str(data), **settings}
    common = {key: value for key, value in given.items() if value is not None}
    algorithms = tuple(label.strip() for label in labels if label.strip())
    experiment = Experiment(Path(out), algorithms, seeds, common, downstream, reference_unets)
    experiment.check_agents()
    shared = experiment.settings
    images = load(shared)  # once, before many processes want the same images
    keys = check_images(experiment, images)
    check_runs(experiment, images)
    zero_shot = _zero_shot(experiment, images)
    if zero_shot is not None:
        check_annotation(**zero_shot)  # at the end it would be late to learn that it cannot be
    on_cpu = shared.torch_device.type == "cpu"
    cores = count_cores()
    jobs = jobs or (cores if on_cpu else 1)
    pools = (
        partial(Pool, jobs, max(1, cores // jobs))
        if cluster is None
        else partial(Cluster, cluster, shared.device != "cpu")
    )
    with experiment.directory:
        experiment.check()
        refuse_changed(experiment, images, keys)
        try:
            with pools(partial(_tell, experiment, log), progress) as pool:
                experiment.begin()
                for line in _announcement(experiment, pool.size):
                    log(line)
                failed = _work(experiment, pool) | (_annotate(zero_shot, log) if zero_shot is not None else {})
        except BaseException:  # Ctrl-C and SIGTERM, too, once all that was under way has saved
            with suppress(AHMError, OSError):
                _show(experiment)
            raise
        return Comparison(experiment.out, *_show(experiment), failed)


def _tell(experiment: Experiment, log: Callable[[str], object], line: str) -> None:
    """Log that a trial has ended, and bring `results.csv` up to date: whatever ends the experiment, it is there."""
    log(line)
    with suppress(AHMError, OSError):  # a damaged trial keeps no other from running; in the end it is told
        experiment.write()


def _work(experiment: Experiment, pool: Pool | Cluster) -> dict[str, str]:
    """Bring all trials to their end; name of each that failed, and why.

    Raises:
        RunError: A reference U-Net could not be trained.
    """
    if experiment.agents:
        pool.work([one for one in experiment.references if not one.done])
        for one in pool.failed:
            cause = f"a reference U-Net could not be trained: {last_line(one.path)}"
            raise RunError(f"{experiment.out}: {cause}")
    for pretraining, finetuning in experiment.stages:
        pool.work([trial for trial in pretraining if not trial.done])
        pool.work([trial for trial in finetuning if trial.ready and not trial.done])
    return {trial.name: last_line(trial.path) for trial in pool.failed}


def _annotate(zero_shot: dict[str, Any], log: Callable[[str], object]) -> dict[str, str]:
    """Have Segment Anything segment the test images; its directory, and why, where it fails."""
    try:
        for problem in annotate(**zero_shot).problems:
            log(problem)
    except AHMError as error:  # the tables of all that was trained are made without it
        return {zero_shot["out"].name: str(error)}
    return {}


def _show(experiment: Experiment) -> tuple[list[Row], list[Table]]:
    """Write `results.csv` and the page of all that is done; its rows and tables.

    Raises:
        AHMError: A trial is damaged, or the page cannot be made.
    """
    rows = experiment.write()
    if not rows:
        return [], []
    shown, runs = _without_paths(experiment.out, rows)
    tables = tables_of(shown, source_name(data_of(experiment.out)), zero_shots(experiment.out))
    make_report(runs, experiment.out / PAGE, tables, trends_of(shown))
    return rows, tables


def _zero_shot(experiment: Experiment, images: ImageSet) -> dict[str, Any] | None:
    """Return what `annotate` is asked for: that SAM segments the images that all are tested on; None for nothing."""
    asked, shared = experiment.downstream, experiment.settings
    if asked is None or asked.sam is None:
        return None
    return {
        "sam": asked.sam,
        "data": shared.data,
        "out": experiment.out / f"sam-{Path(asked.prompt).stem}",
        "prompt": asked.prompt,
        "split": find_tested("segmentation", images)[0],
        "ignore": asked.shared.get("ignore"),
        "pixels": shared.pixels,
        "device": shared.device,
    }


def _announcement(experiment: Experiment, jobs: int) -> list[str]:
    """Describe what is going to be done."""
    settings, count, fine = experiment.settings, len(experiment.agents), experiment.finetuning
    images = f"{settings.total_images:,} images of {settings.data}"
    many = f"{count} agents x {experiment.runs} seeds x {images}, {jobs} at once"
    left = sum(not trial.done for trial in fine)
    lines = ["Ctrl-C stops, and shows what is done; the same command goes on where it was.", *([many] if count else [])]
    return lines + ([f"{len(fine)} times fine-tuning on {settings.data}, {left} of them still to do"] if fine else [])


def report(runs: Sequence[str | Path | Saved], out: str | Path | None = None) -> Path:
    """Write the page of runs of pretraining, or of experiments.

    Args:
        runs: Runs, or directories of runs or of experiments.
        out: The page; by default `report.html`, of a single one in its directory.

    Returns:
        The page.

    Raises:
        AHMError: A directory holds neither, or a damaged one, or there are some of each.
    """
    paths = [path_of(run) for run in runs]
    page = Path(out) if out is not None else paths[0] / PAGE if len(paths) == 1 else Path(PAGE)
    check_name(page, ".html")
    experiments = [path for path in paths if is_experiment(path)]
    if experiments and len(experiments) < len(paths):
        raise RunError(f"{experiments[0]}: is an experiment, others are runs; make a page of each kind")
    if not experiments:
        make_report(dict.fromkeys(paths), page)
        return page
    tables, trends, several = list[Table](), list[Trend](), len(paths) > 1
    for path in paths:
        rows, pretrained = _without_paths(path, read_results(path / RESULTS))
        data = source_name(data_of(path))
        tables += tables_of(rows, data, zero_shots(path))
        trends += trends_of(rows, data if several else "")
    make_report({} if several else pretrained, page, tables, trends)
    return page


def _without_paths(out: Path, rows: Sequence[Row]) -> tuple[list[Row], dict[Path, str]]:
    """Rows of an experiment, and its pretraining runs, with names of agents that tell no path."""
    names = without_paths(row.agent for row in rows)
    runs = {path: names[agent] for path, agent in pretrained_runs(out, rows).items()}
    return [row._replace(agent=names[row.agent]) for row in rows], runs


def zero_shots(path: Path) -> list[Path]:
    """Directories of an experiment with what Segment Anything found."""
    return sorted(path.glob("sam-*"))
