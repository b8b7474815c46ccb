"""A report: one self-contained HTML page that shows runs side by side, over the whole of their training."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.pretraining.hardness import KINDS
from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet, RunError
from ahm_env.console import table_text
from ahm_env.files import write_text
from downstream.evaluation.page import source_name, template
from downstream.evaluation.statistics import Interval
from downstream.reports.charts import Chart
from downstream.reports.curves import Curve
from downstream.reports.gallery import Gallery, make_gallery
from downstream.reports.load_runs import STYLES, Algorithm, Run, by_algorithm, labelled, read_run, styles_of

TITLE = "What the agents learned to hide"
_OWN = ("algo", "seed", "agent", "agent_learning_rate", "agent_share", "workers", "device", "skip_bad")


@dataclass(frozen=True)
class Table:
    """What a comparison wants to show.

    Attributes:
        title: Above the table.
        headings: Of its columns.
        rows: Its cells; where the first of a row is an agent's name, it gets the agent's mark.
        notes: Sentences below the table.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, title: str, rows: Sequence[Mapping[str, str]], notes: Sequence[str] = ()) -> "Table":
        """Make a table of rows that map the same headings to cells; there must be one."""
        return cls(title, tuple(rows[0]), tuple(tuple(row.values()) for row in rows), tuple(notes))

    def text(self) -> str:
        """Format it for a terminal, its notes below."""
        return "\n".join((table_text(self.title, self.headings, self.rows), *self.notes))

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether a column holds numbers, which are set flush right."""
        columns = [[row[place] for row in self.rows if place < len(row)] for place in range(len(self.headings))]
        return tuple(all(re.match(r"[-–−+≥≤<>±\d]", cell.strip() or "–") for cell in column) for column in columns)


@dataclass(frozen=True)
class Trend:
    """How good agents' U-Nets become with few and with many labelled images, for a chart.

    Attributes:
        measure: What is measured, such as `Dice`.
        counts: Numbers of labelled images, rising, and how each is written.
        agents: Name of each agent to its means with their intervals, for those numbers of which it has one.
        styles: Line styles, where they are not those of the agents.
    """

    measure: str
    counts: Mapping[int, str]
    agents: Mapping[str, Mapping[int, Interval]]
    styles: Mapping[str, int] = field(default_factory=dict)


class Mark(NamedTuple):
    """How an agent is shown: its name, its number on the page, and its line style."""

    name: str
    number: int
    style: int


def make_report(
    runs: Mapping[Path, str | None],
    out: Path,
    tables: Sequence[Table] = (),
    trends: Sequence[Trend] = (),
    images: ImageSet | None = None,
) -> None:
    """Write a page that shows runs: tables, learning curves, and what the agents hide in the course of training.

    The page holds everything it needs, and asks the network for nothing. It shows images of the data set, but neither
    their names nor any path.

    Args:
        runs: Run directories, and what the agent of each is called in tables and trends; where that is None, after its
            algorithm, and the settings in which runs of one algorithm differ. Those of one name are its seeds.
        out: The HTML file.
        tables: Shown first; by default one of the last rows of the runs, of which there may be none beside tables.
        trends: Drawn above the tables, where there are two numbers of labelled images or more.
        images: The images of the first run, where they have been loaded already.

    Raises:
        RunError: A directory holds no run, or a damaged one, or its images have changed.
        CheckpointError: A frame is damaged.
        ImageError: The images of the first run cannot be read.
        OSError: The page cannot be written.
    """
    if not runs and not tables:
        raise RunError("there is no run to report on; name at least one directory that `ahm train-agent` made")
    called = {path.resolve(): (path, name) for path, name in runs.items()}
    found = [read_run(path) for path, _ in called.values()]
    names = [name or label for (_, name), label in zip(called.values(), labelled(found), strict=True)]
    own = {name: style for trend in trends for name, style in trend.styles.items()}
    algorithms = [replace(one, style=own.get(one.name, one.style)) for one in by_algorithm(found, names)]
    gallery = _gallery(algorithms, images)
    on_reference = _has_reference(algorithms)
    hardness = "reference_hardness" if on_reference else "hardness"
    drawn = [(f"Hardness of {kind} masks", f"{hardness}_{kind}", 1.0) for kind in KINDS]
    charts = [
        Chart(name, curves, reference=level)
        for name, column, level in (*drawn, ("U-Net loss", "unet_loss", None))
        if (curves := [curve for one in algorithms if (curve := one.curve(column))])
    ]
    styles = styles_of([*(one.name for one in algorithms), *(name for trend in trends for name in trend.agents)])
    styles |= own
    marks = {name: Mark(name, number, style) for number, (name, style) in enumerate(styles.items())}
    trend_charts = [chart for trend in trends if (chart := _draw_trend(trend, marks))]
    data = {
        "agents": [{"name": one.name, "style": one.style} for one in algorithms],
        "charts": [chart.numbers() for chart in (*charts, *trend_charts)],
        "gallery": gallery and gallery.data,
    }
    page = template(Path(__file__).with_name("report.html.jinja")).render(
        title=TITLE if runs else "Few labels, many images",
        algorithms=algorithms,
        styles={name: style for style, name in enumerate(STYLES)} | styles,
        hides=_hides(found) if found else "",
        facts=_facts(algorithms, found) if found else (),
        tables=tables or (last_rows(algorithms),),
        charts=charts,
        trends=trend_charts,
        trended=[mark for mark in marks.values() if any(mark.name in trend.agents for trend in trends)],
        on_reference=on_reference,
        several=any(len(one.runs) > 1 for one in algorithms),
        gallery=gallery,
        shown=[one for one in algorithms if gallery and one.number in gallery.agents],
        seeds=sorted({run.settings.seed for run in found}),
        differences=_differences(found),
        twice=_twice(algorithms),
        versions=_versions(found),
        data=data,
    )
    write_text(out, page)


def last_rows(algorithms: Sequence[Algorithm]) -> Table:
    """Make the table of a report that was given none: where each agent ended, as mean and range over its seeds."""
    kinds = ["", "reference_"] if _has_reference(algorithms, any) else [""]
    columns = [
        (f"{start}hardness_{kind}", f"{start.replace('_', ' ')}hardness, {kind}", "{:.3f}")
        for start in kinds
        for kind in KINDS
    ]
    columns += [("unet_loss", "U-Net loss", "{:.3f}"), ("images_per_second", "images/s", "{:.0f}")]
    columns += [("images", "images shown", "{:,.0f}")]
    rows = []
    for one in algorithms:
        ends = {name: _mean_and_range([run.rows[-1][key] for run in one.runs], form) for key, name, form in columns}
        rows.append({"agent": one.name, **ends, "seeds": one.seeds})
    several = "mean over seeds, and their least – most" if any(len(one.runs) > 1 for one in algorithms) else "one seed"
    return Table.of("At the end of training", rows, [f"The last row of every run: {several}."])


def _draw_trend(trend: Trend, marks: Mapping[str, Mark]) -> Chart | None:
    """Draw a trend as a chart; None where there are fewer than two numbers of labelled images."""
    if len(trend.counts) < 2:
        return None
    curves = []
    for name, means in trend.agents.items():
        counts = [count for count in trend.counts if count in means]
        if counts:
            mean, *ends = np.array([[means[one].mean, means[one].low, means[one].high] for one in counts]).T
            low, high = (np.where(np.isnan(end), mean, end) for end in ends)  # no interval, no band
            _, number, style = marks[name]
            curves.append(Curve(name, style, number, np.array(counts, np.float64), mean, low, high))
    return Chart(f"{trend.measure} against labels", curves, trend.counts, decimals=3) if curves else None


def _gallery(algorithms: Sequence[Algorithm], images: ImageSet | None) -> Gallery | None:
    groups = [one.runs for one in algorithms]
    first = next((run.settings for runs in groups for run in runs if run.frames), None)
    if first is None:
        return None
    if images is None:
        images = first.load_images()
    return make_gallery(groups, images)


def _has_reference(algorithms: Sequence[Algorithm], enough: Callable[..., bool] = all) -> bool:
    """Whether every run (or any) was evaluated on a reference U-Net, too; hardness is drawn on one kind only."""
    return enough(
        np.isfinite(run.points(f"reference_hardness_{KINDS[0]}")[1]).any() for one in algorithms for run in one.runs
    )


def _mean_and_range(values: Sequence[float], form: str) -> str:
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "–"
    mean, low, high = (form.format(number) for number in (np.mean(finite), min(finite), max(finite)))
    return mean if low == high else f"{mean} ({low} – {high})"


def _hides(runs: Sequence[Run]) -> str:
    shares = {share for run in runs for share in _shares(run)}
    share = shares.pop()
    much = {0.5: "half", 0.75: "three quarters"}.get(share, f"{100 * share:g} %")
    return "some of the patches" if shares else f"{much} of the patches"


def _shares(run: Run) -> tuple[float, ...]:
    ratio = run.settings.mask_ratio
    return (ratio.low,) if ratio.low == ratio.high else (ratio.low, ratio.high)


def _facts(algorithms: Sequence[Algorithm], runs: Sequence[Run]) -> list[tuple[str, str]]:
    """List what was computed, in a few short entries; where runs differ, an entry lists the values of all."""

    def each(value_of: Callable[[Run], str]) -> str:
        return ", ".join(dict.fromkeys(value_of(run) for run in runs))

    def patches(run: Run) -> str:
        return f"{run.settings.grid.side} × {run.settings.grid.side}, {run.settings.patch_size} px"

    return [
        ("data", each(lambda run: source_name(run.settings.data))),
        ("images in it", each(lambda run: f"{run.count:,}")),
        ("image size", each(lambda run: f"{run.settings.image_size} × {run.settings.image_size} px")),
        ("patches", each(patches)),
        ("hidden", each(lambda run: " – ".join(f"{100 * share:g}" for share in _shares(run)) + " %")),
        ("images shown", each(lambda run: f"{run.rows[-1]['images']:,.0f}")),
        ("agents", str(len(algorithms))),
        ("seeds", ", ".join(str(seed) for seed in sorted({run.settings.seed for run in runs}))),
    ]


def _twice(algorithms: Sequence[Algorithm]) -> list[str]:
    """List the agents that have two runs of one seed, with these seeds."""
    seeds = ((one.name, Counter(run.settings.seed for run in one.runs)) for one in algorithms)
    return [f"{name} {seed}" for name, counts in seeds for seed, count in counts.items() if count > 1]


def _differences(runs: Sequence[Run]) -> list[str]:
    """List the settings other than agent and seed in which runs differ: then not only their agents are compared."""
    found = []
    for setting in fields(RunSettings):
        values = {json.dumps(getattr(run.settings, setting.name), default=str): run for run in runs}
        if setting.name not in _OWN and len(values) > 1:
            settings = (getattr(run.settings, setting.name) for run in values.values())
            words = [
                source_name(one) if setting.name in ("data", "reference_unet") and one else f"{one}" for one in settings
            ]
            found.append(f"{setting.name.replace('_', ' ')} ({', '.join(words)})")
    if len({run.content_key for run in runs}) > 1 and len({run.settings.data for run in runs}) == 1:
        found.append("the images themselves")
    return found


def _versions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    names = dict.fromkeys(name for run in runs for name in run.versions)
    versions = [(name, sorted({run.versions.get(name, "–") for run in runs})) for name in names]
    commits = sorted({run.commit[:10] for run in runs if run.commit})
    rows = [(name, ", ".join(found)) for name, found in versions]
    return rows + ([("commit", ", ".join(commits))] if commits else [])
