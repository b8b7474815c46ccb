"""The report: what it computes, what it refuses, what it never shows, and how it behaves in a browser."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.pretraining.run_directory import COLUMNS, RunDirectory
from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import Frame
from ahm_env import CheckpointError, ImageError, ImageSet, RunError, load_images
from downstream.evaluation.page import source_name
from downstream.evaluation.statistics import Interval
from downstream.reports.charts import STAND_INS, Chart, Drawing, spread
from downstream.reports.curves import Curve, band, over_seeds
from downstream.reports.load_runs import STYLES, by_algorithm, read_run
from downstream.reports.report import Table, Trend, last_rows, make_report

SIDE, SHOWN = 4, np.array([3, 7])  # patches a side; images that frames picture
MOMENTS = (0, 100, 200)
Maker = Callable[..., Path]
REFERENCE = "reference_hardness_sampled", "reference_hardness_likeliest"


def picture(images: int, seed: int, valued: bool = True, **changes: Any) -> Frame:
    """A frame in which every patch can be told from every other."""
    rng = np.random.default_rng([images, seed])
    maps = rng.normal(size=(3, len(SHOWN), SIDE**2)).astype(np.float32)
    masks = np.zeros((len(SHOWN), SIDE**2), bool)
    masks[:, rng.permutation(SIDE**2)[: SIDE**2 // 2]] = True
    made = rng.integers(0, 256, (len(SHOWN), 3, 32, 32), dtype=np.uint8)
    often = rng.uniform(0.2, 0.8, SIDE**2)
    frame = Frame(images, SHOWN, maps[0], maps[1] if valued else None, masks, made, abs(maps[2]), often, 0.5, 0.4)
    return replace(frame, **changes)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Forty drawn images of 32 px."""
    return load_images("phantom:40:0", 32, masks=False, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make_run(tmp_path: Path, phantoms: ImageSet) -> Maker:
    """Writes a run without training."""
    return lambda *args, **keywords: write_run(tmp_path, phantoms, *args, **keywords)


def write_run(
    where: Path,
    images: ImageSet,
    algo: str = "a3c",
    seed: int = 0,
    hardness: tuple[float, ...] = (1.2, 1.6),
    frames: tuple[Frame, ...] | None = None,
    rows: dict[str, float] | None = None,
    key: str | None = None,
    name: str | None = None,
    **settings: Any,
) -> Path:
    path = where / (name or f"{algo}-{seed}")
    chosen = RunSettings(
        **{"data": "phantom:40:0", "image_size": 32, "algo": algo, "seed": seed, "total_images": 200, **settings}
    )
    with RunDirectory(path) as run:
        facts = {"count": len(images), "channels": 3, "content_key": images.content_key if key is None else key}
        run.write_config(chosen, facts)
        for place, value in enumerate(hardness, 1):
            plain = dict.fromkeys(COLUMNS, 0.5) | {"unet_loss": 1 / place, **dict.fromkeys(REFERENCE, float("nan"))}
            told = {"hardness_sampled": value, "hardness_likeliest": value + 1}
            run.add(plain | {"images": 200 * place // len(hardness)} | told | (rows or {}))
        for frame in [picture(moment, seed, algo != "random") for moment in MOMENTS] if frames is None else frames:
            run.save_frame(frame)
    return path


def report(runs: list[Path], images: ImageSet | None, names: Iterable[str] = (), **keywords: Any) -> str:
    out = runs[0].parent / "report.html"
    make_report(dict(zip_longest(runs, names)), out, images=images, **keywords)
    return out.read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def words_of(page: str) -> str:
    """What a reader sees, as one line."""
    body = re.sub(r"<(style|script|noscript).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


class Tags(HTMLParser):
    """All start tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# ---------------------------------------------------------------- curves


def test_the_band_of_two_seeds_is_student_s() -> None:
    low, high = band(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert low.tolist() == pytest.approx([2 - 12.706, 5], abs=1e-3)  # standard error 1, one degree of freedom
    assert high.tolist() == pytest.approx([2 + 12.706, 5], abs=1e-3)


def test_the_band_of_many_seeds_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(size=(400, 1))
    low, high = band(values)
    error = 1.96 * values.std() / 20
    assert low[0] == pytest.approx(values.mean() - error, abs=0.02)
    assert high[0] == pytest.approx(values.mean() + error, abs=0.02)


def test_a_curve_is_the_mean_of_interpolated_seeds_as_far_as_all_go() -> None:
    one = np.array([0.0, 10, 20, 30]), np.array([0.0, 1, 2, 3])
    two = np.array([5.0, 25]), np.array([2.5, 4.5])
    curve = over_seeds("a3c", 0, 0, [one, two])
    assert curve is not None
    assert curve.x.tolist() == [5, 10, 20, 25]
    assert curve.mean.tolist() == pytest.approx([1.5, 2, 3, 3.5])
    assert curve.low is not None
    assert curve.low.tolist() == pytest.approx(curve.mean - 12.706, abs=1e-3)  # the seeds lie 2 apart everywhere


def test_values_that_are_not_finite_are_skipped() -> None:
    nan, inf = float("nan"), float("inf")
    curve = over_seeds(
        "a3c", 0, 0, [(np.arange(4.0), np.array([nan, 1, inf, 3])), (np.arange(2.0), np.array([nan, nan]))]
    )
    assert curve is not None
    assert (curve.x.tolist(), curve.mean.tolist()) == ([1, 3], [1, 3])
    assert curve.low is None  # one seed has no band


def test_no_curve_where_seeds_have_nothing_in_common() -> None:
    assert over_seeds("a3c", 0, 0, []) is None
    assert over_seeds("a3c", 0, 0, [(np.array([1.0]), np.array([1.0])), (np.array([2.0]), np.array([1.0]))]) is None


def points_of(drawing: Drawing, agent: int = 0) -> list[list[tuple[float, float]]]:
    """Points of every path of an agent's lines, in percent of the plot from its top left corner."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.svg)
    assert box
    width, height = float(box[1]), float(box[2])
    above, right, below, left = (float(edge[:-1]) / 100 for edge in drawing.area.split())
    return [
        [
            (
                round(100 * (float(x) / width - left) / (1 - left - right), 1),
                round(100 * (float(y) / height - above) / (1 - above - below), 1),
            )
            for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)
        ]
        for path in re.findall(rf'<g data-agent="{agent}">\s*<path d="([^"]*)"', drawing.svg)
    ]


def texts_of(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)<", drawing.svg)


@pytest.mark.slow
def test_a_chart_spans_its_curves() -> None:
    chart = Chart("Loss", [Curve("a3c", 0, 0, np.array([0.0, 50, 100]), np.array([0.0, 1, 2]))])
    drawings = chart.drawings()
    assert [drawing.kind for drawing in drawings] == ["wide", "narrow"]
    for drawing in drawings:
        assert points_of(drawing)[0] == [(0, 100), (50, 50), (100, 0)]
        texts = texts_of(drawing)
        assert texts[-2:] == ["a3c", "2.00"]  # at the end of the line
        assert {"0", "100", "0.0", "1.0", "2.0"} <= set(texts)
    assert chart.summary == "Loss, against images shown: a3c ends at 2.00"


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0], [-1.0, 0.0], [1e-8, 2e-8], [1e9, 2e9]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    for drawing in Chart("Loss", [Curve("a3c", 0, 0, np.arange(len(values)) * 10.0, np.array(values))]).drawings():
        points = points_of(drawing)[0]
        assert len(points) == len(values)
        assert all(-0.1 <= place <= 100.1 for point in points for place in point)


@pytest.mark.slow
def test_labels_are_spread_until_none_touches_another() -> None:
    moved = spread([0.5, 0.5, 0.5, 0.1, 0.99, 1.0], 0.06)
    assert np.diff(sorted(moved)).min() >= 0.06 - 1e-9
    assert moved[3] == pytest.approx(0.1)  # one that has room stays
    assert min(moved) >= 0
    assert max(moved) <= 1
    assert np.mean(moved[:3]) == pytest.approx(0.5)
    assert spread([0.2], 0.06) == [0.2]


def test_an_axis_of_labels_is_logarithmic_and_one_of_images_is_not() -> None:
    curve = Curve("a3c", 0, 0, np.array([25.0, 50, 100, 400]), np.ones(4))
    labels = Chart("Dice", [curve], {25: "25", 50: "50", 100: "100", 400: "all (400)"})
    assert labels.place([25, 50, 100, 400]) == pytest.approx([0, 25, 50, 100])
    assert [stop[2] for stop in labels.numbers()["stops"][2:]] == ["with 100 labels", "with all (400) labels"]
    images = Chart("Loss", [Curve("a3c", 0, 0, np.array([1_000.0, 4_000]), np.ones(2))])
    assert images.place([0, 1_000, 4_000]) == pytest.approx([0, 25, 100])
    assert [stop[2] for stop in images.numbers()["stops"]] == ["after 1,000 images", "after 4,000 images"]


@pytest.mark.slow
def test_marks_that_would_touch_are_left_out_but_never_that_of_all() -> None:
    counts = {number: str(number) for number in (10, 11, 50, 100, 395)} | {400: "all (400)"}
    chart = Chart("Dice", [Curve("a3c", 0, 0, np.array([10.0, 400]), np.ones(2))], counts)
    for drawing in chart.drawings():
        assert [text for text in texts_of(drawing) if text in counts.values()] == ["11", "50", "100", "all (400)"]


def test_a_chart_against_labels_marks_its_points_and_tells_all_of_them() -> None:
    x, mean = np.array([25.0, 100.0, 400.0]), np.array([0.5, 0.6, 0.7])
    curves = [
        Curve("a3c", 0, 0, x, mean, mean - 0.1, mean + 0.1),
        Curve("scratch", 13, 1, x[:1], mean[:1]),  # the rest has failed
    ]
    chart = Chart("Dice against labels", curves, {25: "25", 100: "100", 400: "all"}, decimals=3)
    for drawing in chart.drawings():
        assert points_of(drawing)[0] == [(0, 75), (50, 50), (100, 25)]
        assert points_of(drawing, 1)[0] == [(0, 75)]
        assert points_of(drawing, 1)[-1][:2] == [(0, 75), (100, 75)]  # leads to its label
        assert drawing.svg.count("<use") == 5  # a band, and a dot for each of four points
        assert re.search(r'fill: var\(--c0\); fill-opacity: 0\.16"', drawing.svg)
    assert chart.summary == (
        "Dice against labels: a3c 0.500 (0.400 to 0.600) with 25 labels, 0.600 (0.500 to 0.700) with 100 labels, "
        "0.700 (0.600 to 0.800) with all labels; scratch 0.500 with 25 labels"
    )
    assert chart.numbers()["stops"] == [
        [25, 0, "with 25 labels"],
        [100, 50, "with 100 labels"],
        [400, 100, "with all labels"],
    ]


def test_a_drawing_has_the_colours_of_the_page_and_dashes_of_its_arms() -> None:
    x = np.array([0.0, 100])
    curves = [Curve(name, style, place, x, x) for place, (name, style) in enumerate({"one": 3, "two": 10}.items())]
    for drawing in Chart("Loss", curves, reference=1).drawings():
        assert not any(colour in drawing.svg for colour in STAND_INS.values())
        lines = re.findall(r'style="fill: none; (?:stroke-dasharray: ([^;]*);[^"]*)?stroke: var\(--c3\)', drawing.svg)
        assert [bool(dashes) for dashes in lines[:2]] == [False, True]  # the others lead to labels
        assert "var(--soft)" in drawing.svg
        assert "var(--rule)" in drawing.svg


def test_a_long_name_is_cut_at_the_end_of_its_line_only() -> None:
    name = "a3c+image_weight=2+horizon=3"
    chart = Chart("Loss", [Curve(name, 0, 0, np.array([0.0, 100]), np.ones(2))])
    for drawing in chart.drawings():
        (label,) = (text for text in texts_of(drawing) if text.endswith("…"))
        assert name.startswith(label[:-1])
    assert name in chart.summary
    assert chart.numbers()["lines"][0]["name"] == name


# ---------------------------------------------------------------- runs and their table


@pytest.mark.slow
def test_runs_are_grouped_by_algorithm_and_their_seeds_rise(make_run: Maker) -> None:
    runs = [read_run(make_run(algo, seed)) for algo, seed in (("ppo", 1), ("a3c", 2), ("ppo", 0), ("mine", 0))]
    algorithms = by_algorithm(runs)
    assert [(one.name, one.number, one.seeds) for one in algorithms] == [
        ("ppo", 0, "0, 1"),
        ("a3c", 1, "2"),
        ("mine", 2, "0"),
    ]
    assert [run.settings.seed for run in algorithms[0].runs] == [0, 1]
    assert [one.style for one in algorithms] == [STYLES.index("ppo"), STYLES.index("a3c"), len(STYLES)]


def test_variants_of_an_agent_are_told_apart_by_what_differs(make_run: Maker) -> None:
    made = [
        make_run("a3c", 0, name="plain"),
        make_run("a3c", 0, name="far", agent={"image_weight": 0}, horizon=2),
        make_run("a3c", 1, name="far-1", agent={"image_weight": 0}, horizon=2),
        make_run("hard-patches", 0, agent_share="0:0.5"),  # another share than a3c's, but all of loss have it
    ]
    names = [one.name for one in by_algorithm([read_run(path) for path in made])]
    assert names == ["a3c+horizon=1", "a3c+horizon=2+image_weight=0", "hard-patches"]


@pytest.mark.slow
def test_runs_on_other_images_and_of_one_seed_are_no_seeds_of_one_agent(make_run: Maker, phantoms: ImageSet) -> None:
    others = [make_run("a3c", 0), make_run("a3c", 0, name="other", data="phantom:41:0")]
    names = [one.name for one in by_algorithm([read_run(path) for path in others])]
    assert names == ["a3c+data=phantom:40:0", "a3c+data=phantom:41:0"]
    twice = [others[0], make_run("a3c", 0, name="copy"), make_run("a3c", 1)]
    assert "intervals are too narrow for a3c 0." in words_of(report(twice, phantoms))
    assert "too narrow" not in words_of(report([twice[0], twice[2]], phantoms))


def test_the_default_table_has_the_mean_and_range_of_last_rows(make_run: Maker) -> None:
    runs = [make_run("a3c", 0, (1, 1.5)), make_run("a3c", 1, (1, 2.5)), make_run("random", 0, (1, float("nan")))]
    table = last_rows(by_algorithm([read_run(run) for run in runs]))
    kinds = "hardness, sampled", "hardness, likeliest"
    assert table.headings == ("agent", *kinds, "U-Net loss", "images/s", "images shown", "seeds")
    hard = "2.000 (1.500 – 2.500)", "3.000 (2.500 – 3.500)"
    assert table.rows[0] == ("a3c", *hard, "0.500", "0", "200", "0, 1")
    assert table.rows[1][1] == "–"
    assert table.numeric == (False, True, True, True, True, True, True)


@pytest.mark.slow
def test_a_judge_decides_which_hardness_is_drawn(make_run: Maker, phantoms: ImageSet) -> None:
    judged = make_run("a3c", rows=dict(zip(REFERENCE, (1.75, 2.5), strict=True)))
    page = report([judged], phantoms)
    assert "reference hardness" in words_of(page)
    assert "On a reference U-Net" in page
    assert [chart["lines"][0]["mean"] for chart in data_of(page)["charts"][:2]] == [[1.75, 1.75], [2.5, 2.5]]
    both = report([judged, make_run("ppo")], phantoms)  # one of them has no judge
    assert "By each run’s own U-Net" in both
    assert data_of(both)["charts"][0]["lines"][0]["mean"] == [1.2, 1.6]
    assert "reference hardness" in words_of(both)


@pytest.mark.slow
def test_given_tables_are_shown_instead(make_run: Maker, phantoms: ImageSet) -> None:
    table = Table("Paired differences", ("agent", "difference"), (("a3c", "+0.3"), ("a stranger", "–")), ("A note.",))
    page = report([make_run()], phantoms, tables=[table, table])
    words = words_of(page)
    assert words.count("Paired differences") == 2
    assert words.count("A note.") == 2
    assert "At the end of training" not in words
    assert re.search(r'<th scope="row"><svg class="mark[^>]*>.*?</svg>a3c</th>', page)
    assert '<th scope="row">a stranger</th>' in page
    assert '<td class="number">+0.3</td>' in page


def trend(measure: str = "Dice", counts: tuple[int, ...] = (25, 100, 1599), agents: str = "scratch a3c") -> Trend:
    """Agents that gain a tenth with every further number of labels."""
    texts = {count: f"{count:,}" for count in counts[:-1]} | {counts[-1]: f"all ({counts[-1]:,})"}
    names = agents.split()
    means = {
        name: {
            count: Interval(value := 0.3 + 0.1 * place + 0.004 * rank, value - 0.05, value + 0.05)
            for place, count in enumerate(counts)
        }
        for rank, name in enumerate(names)
    }
    return Trend(measure, texts, means)


@pytest.mark.slow
def test_trends_are_charts_in_which_agents_look_as_elsewhere(make_run: Maker, phantoms: ImageSet) -> None:
    runs = [make_run("a3c"), make_run("random")]
    trends = [trend(agents="scratch random a3c"), trend("Accuracy")]
    page = report(runs, phantoms, trends=trends, tables=[Table("T", ("agent",), (("scratch",),))])
    charts = data_of(page)["charts"]
    assert len(charts) == 5  # the three of training come first
    styles = {line["name"]: (line["agent"], line["style"]) for line in charts[0]["lines"]}
    shown = {line["name"]: (line["agent"], line["style"]) for line in charts[3]["lines"]}
    assert shown == {**styles, "scratch": (2, STYLES.index("scratch"))}
    assert "Dice against labels" in words_of(page)
    assert "Accuracy against labels" in words_of(page)
    assert "all (1,599)" in words_of(page)
    assert "scratch 0.300 (0.250 to 0.350) with 25 labels" in page
    assert '<svg class="mark d1" style="--c: var(--c6)"' in page[page.index("<tbody>") :]
    assert [one["name"] for one in data_of(page)["agents"]] == ["a3c", "random"]


@pytest.mark.slow
def test_an_agent_whose_arms_share_a_colour_has_it_everywhere(make_run: Maker, phantoms: ImageSet) -> None:
    arms = replace(trend(agents="random,none random,auto"), styles={"random": 1, "random,none": 1, "random,auto": 8})
    page = report(
        [make_run("a3c"), make_run("random")], phantoms, trends=[arms], tables=[Table("T", (), (("random",),))]
    )
    data = data_of(page)
    assert [(one["name"], one["style"]) for one in data["agents"]] == [("a3c", 0), ("random", 1)]
    assert [line["style"] for line in data["charts"][0]["lines"]] == [0, 1]
    assert [line["style"] for line in data["charts"][3]["lines"]] == [1, 8]
    assert '<svg class="mark d0" style="--c: var(--c1)"' in page[page.index("<tbody>") :]


@pytest.mark.slow
def test_one_number_of_labels_is_no_chart(make_run: Maker, phantoms: ImageSet) -> None:
    page = report([make_run()], phantoms, trends=[trend(counts=(25,))])
    assert len(data_of(page)["charts"]) == 3
    assert "against labels" not in page
    assert "What few labels give" not in page


@pytest.mark.slow
def test_agents_are_called_as_the_comparison_calls_them(make_run: Maker, phantoms: ImageSet) -> None:
    runs = [make_run("a3c", horizon=2), make_run("random"), make_run("a3c", 1, horizon=2)]
    names = ["a3c+horizon=2", "random", "a3c+horizon=2"]
    data = data_of(report(runs, phantoms, names=names, trends=[trend(agents="scratch a3c+horizon=2")]))
    assert [one["name"] for one in data["agents"]] == names[:2]
    assert [line["agent"] for line in data["charts"][3]["lines"]] == [2, 0]
    assert [one["name"] for one in data_of(report(runs, phantoms))["agents"]] == ["a3c", "random"]


@pytest.mark.slow
def test_a_table_of_uneven_rows_is_no_error(make_run: Maker, phantoms: ImageSet) -> None:
    table = Table("Odd", ("agent", "one"), (("a3c",), ("ppo", "1", "2", "text")))
    assert "Odd" in report([make_run()], phantoms, tables=[table])


@pytest.mark.slow
def test_the_page_tells_what_was_computed(make_run: Maker, phantoms: ImageSet) -> None:
    words = words_of(report([make_run("a3c", 3), make_run("a3c", 4, mask_ratio="0.25:0.75")], phantoms))
    for text in ("phantom:40:0", "images in it 40", "32 × 32 px", "4 × 4, 8 px", "50 %, 25 – 75 %", "seeds 3, 4"):
        assert text in words
    assert "differ in more than agent and seed: mask ratio (0.5, 0.25:0.75)" in words
    assert re.search(r"torch 2\.\S+ · ", words.replace("&nbsp;", " "))


@pytest.mark.slow
def test_a_run_that_is_named_twice_counts_once(make_run: Maker, phantoms: ImageSet) -> None:
    run = make_run()
    page = report([run, run.parent / "." / run.name], phantoms)
    assert len(data_of(page)["gallery"]["agents"][0]["runs"]) == 1


@pytest.mark.slow
def test_the_same_runs_make_the_same_page(make_run: Maker, phantoms: ImageSet) -> None:
    runs = [make_run("a3c", 0), make_run("a3c", 1)]
    assert report(runs, phantoms) == report(runs, phantoms)


# ---------------------------------------------------------------- gallery


@pytest.mark.slow
def test_frames_arrive_on_the_page_as_they_were(make_run: Maker, phantoms: ImageSet) -> None:
    frames = [picture(moment, 0) for moment in MOMENTS]
    gallery = data_of(report([make_run()], phantoms))["gallery"]
    run = gallery["agents"][0]["runs"][0]
    assert gallery["moments"] == run["images"] == list(MOMENTS)
    assert run["frame"] == [0, 1, 2]
    losses = np.frombuffer(base64.b64decode(run["losses"]), np.uint8).reshape(3, 2, SIDE**2)
    masks = np.stack([frame.masks for frame in frames])
    assert ((losses > 0) == masks).all()
    shown = (losses[masks] - 1) / 254 * gallery["worst"]
    true = np.stack([frame.losses for frame in frames])[masks]
    assert shown == pytest.approx(true.clip(max=gallery["worst"]), abs=gallery["worst"] / 200)
    policy = np.frombuffer(base64.b64decode(run["policy"]["bytes"]), np.uint8).reshape(3, 2, SIDE**2) / 255
    low, high = run["policy"]["low"], run["policy"]["high"]
    centred = np.stack([frame.policy - frame.policy.mean(1, keepdims=True) for frame in frames])
    assert low + (high - low) * policy == pytest.approx(centred.clip(low, high), abs=0.02)
    often = np.frombuffer(base64.b64decode(run["often"]), np.uint8).reshape(3, SIDE**2) / 255
    assert often == pytest.approx(np.stack([frame.frequencies for frame in frames]), abs=0.01)
    assert run["most"][2] == pytest.approx(frames[2].frequencies.max(), rel=1e-3)
    assert run["hardness"] == [None, 1.2, 1.6]


@pytest.mark.slow
def test_an_agent_without_values_or_with_flat_maps_is_told_as_such(make_run: Maker, phantoms: ImageSet) -> None:
    flat = picture(0, 0, False, policy=np.full((2, SIDE**2), 3, np.float32))
    run = data_of(report([make_run(frames=(flat,))], phantoms))["gallery"]["agents"][0]["runs"][0]
    assert run["values"] is None
    assert run["policy"]["low"] == run["policy"]["high"] == 0


@pytest.mark.slow
def test_numbers_that_are_not_finite_do_no_harm(make_run: Maker, phantoms: ImageSet) -> None:
    bad = np.full((2, SIDE**2), np.nan, np.float32)
    nowhere = np.zeros((2, SIDE**2), bool)
    odd = picture(0, 0, policy=bad, values=bad, losses=bad, masks=nowhere, within_images=float("nan"))
    for page in (
        report([make_run(frames=(odd,))], phantoms),
        report([make_run(frames=(replace(odd, masks=~nowhere),))], phantoms),
    ):
        assert "NaN" not in page.partition('id="data"')[2].partition("</script>")[0]


@pytest.mark.slow
def test_frames_at_other_moments_are_matched_by_the_nearest(make_run: Maker, phantoms: ImageSet) -> None:
    few = make_run("ppo", frames=(picture(3, 1), picture(160, 1)))
    gallery = data_of(report([few, make_run("a3c")], phantoms))["gallery"]
    assert gallery["moments"] == [0, 100, 200]
    assert [one["agent"] for one in gallery["agents"]] == [0, 1]
    assert gallery["agents"][0]["runs"][0]["frame"] == [0, 1, 1]


@pytest.mark.slow
def test_a_long_history_is_thinned_out(make_run: Maker, phantoms: ImageSet) -> None:
    run = make_run(frames=tuple(picture(moment, 0) for moment in range(60)))
    gallery = data_of(report([run], phantoms))["gallery"]
    assert len(gallery["moments"]) == 24
    assert (gallery["moments"][0], gallery["moments"][-1]) == (0, 59)


@pytest.mark.slow
def test_runs_of_other_images_are_left_out_of_the_gallery_and_the_page_says_so(
    make_run: Maker, phantoms: ImageSet
) -> None:
    others = [make_run("ppo", key="another"), make_run("hard-patches", patch_size=16), make_run("random", frames=())]
    page = report([make_run("a3c"), *others], phantoms)
    assert [one["agent"] for one in data_of(page)["gallery"]["agents"]] == [0]
    assert "3 of the runs are not shown here" in words_of(page)
    assert "the images themselves" in words_of(page)
    assert len(data_of(page)["charts"][0]["lines"]) == 4


def test_runs_without_frames_have_a_page_without_gallery(make_run: Maker) -> None:
    page = report([make_run(frames=())], None)
    assert data_of(page)["gallery"] is None
    assert "no pictures" in words_of(page)


@pytest.mark.slow
def test_images_are_loaded_from_the_run_s_source(
    make_run: Maker, phantoms: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    run = make_run()
    assert report([run], None) == report([run], phantoms)


@pytest.mark.slow
def test_the_page_of_seven_agents_stays_below_ten_megabytes(tmp_path: Path, phantoms: ImageSet) -> None:
    shown = np.arange(8)
    rng = np.random.default_rng(0)
    pixels = phantoms.images(shown).repeat(2, 2).repeat(2, 3)
    images = load_images("phantom:40:0", 64, cache_dir=tmp_path / "cache")

    def frame(moment: int) -> Frame:
        maps = rng.normal(size=(3, 8, 64)).astype(np.float32)
        made = (pixels + rng.integers(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
        return Frame(moment, shown, maps[0], maps[1], maps[0] > 0, made, abs(maps[2]), np.full(64, 0.5), 0.5, 0.4)

    runs = [
        write_run(tmp_path, images, algo, frames=tuple(frame(moment) for moment in range(17)), image_size=64)
        for algo in STYLES[:7]
    ]
    assert len(report(runs, images)) < 10_000_000


# ---------------------------------------------------------------- what the page never does


EVIL = "</script><script>window.hacked=1</script><x-evil onclick='hack()'>\"&{{ 7*7 }}"


@pytest.mark.slow
def test_hostile_names_are_text(make_run: Maker, phantoms: ImageSet) -> None:
    table = Table(EVIL, (EVIL, EVIL), ((EVIL, EVIL),), (EVIL,))
    run = make_run(EVIL, name="evil", data=EVIL)
    config = json.loads((run / "config.json").read_text())
    config["versions"] = {EVIL: EVIL}
    config["git_commit"] = "<x-evil>abcdef"
    (run / "config.json").write_text(json.dumps(config))
    page = report([run], phantoms, names=[EVIL], tables=[table])
    tags = [tag for tag, _ in Tags(page).found]
    assert tags.count("script") == 2
    assert "x-evil" not in tags
    assert "49" not in words_of(page).split()
    assert data_of(page)["agents"][0]["name"] == EVIL


@pytest.mark.slow
def test_nothing_is_fetched_from_anywhere(make_run: Maker, phantoms: ImageSet) -> None:
    page = report([make_run()], phantoms)
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"@import|url\((?!data:|#)|fetch\(|XMLHttpRequest|sendBeacon|WebSocket", page)
    policy = ""
    for tag, attributes in Tags(page).found:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            policy = attributes["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")


@pytest.mark.slow
def test_no_path_and_no_name_of_an_image_is_shown(make_run: Maker, phantoms: ImageSet) -> None:
    secret = make_run(
        data="/home/jane-doe/clinic/scans/", reference_unet="/home/jane-doe/judge.safetensors", agent={"x": "/jane-doe"}
    )
    page = report([secret, make_run("ppo", data=r"C:\jane-doe\scans2")], phantoms)
    words = words_of(page)
    assert "scans, scans2" in words
    assert "reference unet (judge.safetensors, None)" in words
    assert "jane-doe" not in page
    assert str(secret.parent) not in page
    assert phantoms.names[3] not in page


def test_settings_in_which_runs_differ_tell_no_path_and_agents_stay_apart(make_run: Maker, phantoms: ImageSet) -> None:
    places = ("/home/jane-doe/old/scans", r"C:\jane-doe+new\scans", "phantom:40:0")
    runs = [make_run(name=f"run{place}", data=data) for place, data in enumerate(places)]
    weights = [make_run("ppo", name=one, agent={"backbone_weights": f"/jane-doe/{one}.pth"}) for one in ("a", "b")]
    page = report([*runs, *weights], phantoms)
    assert [one["name"] for one in data_of(page)["agents"]] == [
        *("a3c+data=scans", "a3c+data=scans (2)", "a3c+data=phantom:40:0"),
        *("ppo+backbone_weights=a.pth", "ppo+backbone_weights=b.pth"),
    ]
    assert "jane-doe" not in page


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("phantom:100", "phantom:100"),
        ("../a/b/", "b"),
        ("a\\b", "b"),
        ("x.npz", "x.npz"),
        (".", "a folder"),
        ("/", "a folder"),
        ("a/on\udcff", r"on\udcff"),
    ],
)
def test_a_source_is_called_by_its_last_part(source: str, name: str) -> None:
    assert source_name(source) == name


# ---------------------------------------------------------------- errors


def damage_frame(run: Path) -> None:
    path = sorted((run / "frames").iterdir())[1]
    content = bytearray(path.read_bytes())
    content[-20] ^= 255
    path.write_bytes(bytes(content))


def cut_config(run: Path) -> None:
    text = json.loads((run / "config.json").read_text())
    del text["images"]["content_key"]
    (run / "config.json").write_text(json.dumps(text))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (lambda run: shutil.rmtree(run), RunError, "holds no run"),
        (lambda run: (run / "config.json").unlink(), RunError, "holds no run"),
        (lambda run: (run / "config.json").write_text("{"), RunError, "config.json: damaged"),
        (lambda run: (run / "config.json").write_bytes(b"\xff\x00"), RunError, "config.json: damaged"),
        (
            lambda run: (run / "config.json").write_text('{"settings": {"augment": 1}}'),
            RunError,
            "augment.*; give the dir",
        ),
        (cut_config, RunError, "config.json: damaged .*content_key"),
        (lambda run: (run / "metrics.csv").unlink(), RunError, "metrics.csv: nothing has been measured"),
        (lambda run: (run / "metrics.csv").write_text("images\n"), RunError, "metrics.csv: nothing has been measured"),
        (lambda run: (run / "metrics.csv").write_text("images\nmany\n"), RunError, "metrics.csv: damaged"),
        (lambda run: (run / "metrics.csv").write_text("nothing\n1\n"), RunError, "metrics.csv: damaged"),
        (lambda run: (run / "metrics.csv").write_text("images\n5\n4\n"), RunError, "metrics.csv: damaged"),
        (lambda run: (run / "metrics.csv").write_bytes(b"images\n\xff\n"), RunError, "metrics.csv: damaged"),
        (damage_frame, CheckpointError, r"frames/000000000100\.safetensors: damaged"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    make_run: Maker, phantoms: ImageSet, harm: Callable[[Path], None], kind: type[Exception], says: str
) -> None:
    good, bad = make_run("a3c"), make_run("ppo")
    old = report([good], phantoms)
    harm(bad)
    with pytest.raises(kind, match=says) as caught:
        report([good, bad], phantoms)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what to do about it
    assert (good.parent / "report.html").read_text(encoding="utf-8") == old


def test_a_file_is_no_run(make_run: Maker, phantoms: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: holds no run"):
        report([make_run(), tmp_path / "file"], phantoms)


def test_there_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        make_report({}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": np.zeros((2, 9), np.float32)},
        {"values": np.zeros((1, 16), np.float32)},
        {"frequencies": np.zeros(4)},
        {"reconstructions": np.zeros((2, 3, 16, 16), np.uint8)},
        {"shown": np.array([3, 40])},
        {"shown": np.array([-1, 3])},
    ],
)
def test_a_frame_that_does_not_fit_its_run_is_refused_by_name(
    make_run: Maker, phantoms: ImageSet, changes: dict[str, Any]
) -> None:
    run = make_run(frames=(picture(100, 0, **changes),))
    with pytest.raises(CheckpointError, match=r"000000000100\.safetensors: does not fit"):
        report([run], phantoms)


def test_images_that_have_changed_are_not_shown_as_if_they_had_not(make_run: Maker, phantoms: ImageSet) -> None:
    with pytest.raises(RunError, match="have changed since"):
        report([make_run(key="before")], phantoms)


def test_images_that_are_gone_are_an_error_of_theirs(make_run: Maker) -> None:
    with pytest.raises(ImageError, match="nowhere"):
        report([make_run(data="nowhere")], None)


# ---------------------------------------------------------------- in a browser


CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class Page:
    """A report in headless Chromium."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver, self.path = driver, path

    def open(self, width: int, path: Path | None = None, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get_log("browser")
        self.driver.get((path or self.path).as_uri())
        self.until("return !!document.querySelector('#grid canvas[aria-label]')")
        self.until(f"return {DRAWN}.some(one => one.length > 500)")

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def settle(self) -> None:
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def until(self, script: str, seconds: float = 20) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.run(script))

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)
        self.settle()

    def move(self, moment: int) -> None:
        self.run("slider.value = arguments[0]; slider.dispatchEvent(new Event('input', {bubbles: true}))", moment)
        self.settle()

    def drawn(self) -> list[str]:
        return list(self.run(f"return {DRAWN}"))

    def heads(self) -> list[str]:
        return list(self.run("return [...document.querySelectorAll('#grid .head b')].map(one => one.textContent)"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


DRAWN = "[...document.querySelectorAll('#grid canvas')].map(one => one.toDataURL())"
# of the drawings of every chart, the one for this window; and where chart {} is drawn, in it
SHOWN_CHARTS = "[...document.querySelectorAll('.drawing')].filter(one => one.checkVisibility())"
AREA = "[...document.querySelectorAll('[data-chart=\"{}\"]')].find(one => one.checkVisibility())"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, phantoms: ImageSet) -> Iterator[Page]:
    """A page of three agents, one with two seeds."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            pytest.skip(f"{program} is missing: apt-get install chromium chromium-driver")
    where = tmp_path_factory.mktemp("browser")
    runs = [
        write_run(where, phantoms, "a3c", 0),
        write_run(where, phantoms, "a3c", 1, (1.4, 2.0)),
        write_run(where, phantoms, "ppo", 0, frames=tuple(picture(moment, 9) for moment in (2, 110, 205))),
        write_run(where, phantoms, "random", 0, (1, 1)),
    ]
    wide = Table("A wide table", ("agent", *(f"column {number}" for number in range(12))), (("a3c", *["1.234"] * 12),))
    trends = [trend(agents="scratch random a3c ppo a3c+image_weight=2"), trend("Accuracy")]
    make_report(dict.fromkeys(runs), where / "report.html", tables=[wide], images=phantoms, trends=trends)
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={where / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(str(DRIVER)))
    try:
        yield Page(driver, where / "report.html")
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 400, 768, 1400])
def test_the_page_fits_its_window(page: Page, width: int) -> None:
    page.open(width)
    for view in ("policy", "values", "mask", "made", "loss", "all"):
        page.click(f"[name=view][value={view}]")
        assert page.run("return document.documentElement.scrollWidth") <= width
    sizes = page.run(
        """const found = [];
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
          const parent = texts.currentNode.parentElement;
          if (texts.currentNode.data.trim() && parent.checkVisibility() && !parent.closest("script"))
            found.push([parseFloat(getComputedStyle(parent).fontSize), texts.currentNode.data]);
        }
        return found.sort((a, b) => a[0] - b[0]).slice(0, 3);"""
    )
    assert sizes[0][0] >= 12, sizes
    assert page.errors() == []


@pytest.mark.slow
def test_labels_at_line_ends_do_not_overlap(page: Page) -> None:
    page.open(400)
    for plot in page.run(
        f"""return {SHOWN_CHARTS}.map(chart => [...chart.querySelectorAll("g[data-agent] text")]
          .map(one => one.getBoundingClientRect()).map(box => [box.top, box.bottom, box.left, box.right]))"""
    ):
        columns = [sorted(plot[start::2]) for start in (0, 1)]  # names, values
        for column in columns:
            assert all(upper[1] <= lower[0] + 3 for upper, lower in pairwise(column))  # boxes are higher than letters
        assert all(name[3] <= value[2] for name, value in zip(*columns, strict=True))
        assert all(box[3] <= 400 for box in plot)


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_a_trend_is_legible(page: Page, width: int) -> None:
    page.open(width)
    texts = page.run(
        f"""return [...{AREA.format(3)}.closest(".drawing").querySelectorAll("text")].map(one => {{
          const box = one.getBoundingClientRect();
          return [box.left, box.right, box.top, box.bottom, one.textContent, !!one.closest("g[data-agent]")];
        }})"""
    )
    marks = sorted(text for text in texts if text[4] in ("25", "100", "all (1,599)"))
    assert [mark[4] for mark in marks] == ["25", "100", "all (1,599)"]
    assert all(one[1] < other[0] for one, other in pairwise(marks))
    ends = [text for text in texts if text[5]]
    assert len(ends) == 10  # five names and five values
    assert all(end[1] <= width for end in ends)
    assert all(text[3] - text[2] >= 12 for text in texts)
    assert page.run(f"return {AREA.format(3)}.querySelector('.now')") is None


@pytest.mark.slow
def test_the_values_of_a_trend_can_be_read(page: Page) -> None:
    page.open(1400)
    words = page.run(
        f"""const plot = {AREA.format(3)}, box = plot.getBoundingClientRect();
        return [0, .3, 1].map(share => {{
          plot.dispatchEvent(new PointerEvent("pointermove", {{ clientX: box.left + share * box.width }}));
          return plot.querySelector(".readout").textContent;
        }})"""
    )
    assert words[0].startswith("with 25 labels")
    assert words[1].startswith("with 100 labels")
    assert words[2].startswith("with all (1,599) labels")
    assert "scratch0.400 (0.350 – 0.450)" in words[1]
    page.run(f"{AREA.format(3)}.dispatchEvent(new PointerEvent('pointerleave'))")


@pytest.mark.slow
def test_a_table_keeps_its_agents_in_sight(page: Page) -> None:
    page.open(400)
    left = page.run(
        """const table = document.querySelector(".scroll");
        table.scrollLeft = 300;
        const [agent, ...others] = [...table.querySelectorAll("tbody tr > *")].map(one => one.getBoundingClientRect());
        return [agent.left, others[0].left];"""
    )
    assert left[0] == 16
    assert left[1] < 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_the_slider_moves_through_training(page: Page, width: int) -> None:
    page.open(width)
    for view in ("policy", "values", "mask", "made", "loss"):
        page.click(f"[name=view][value={view}]")
        page.until(f"return {DRAWN}.length === 8")
        pictures = []
        for moment in (0, 1, 2):
            page.move(moment)
            page.until(f"return document.querySelector('#moment').textContent === 'after {MOMENTS[moment]} images'")
            page.until("return new Promise(done => setTimeout(() => done(true), 60))")  # sprites are decoded meanwhile
            pictures.append(page.drawn())
        originals, a3c, ppo, random = (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8))
        assert pictures[0][originals] == pictures[1][originals] == pictures[2][originals]
        assert pictures[0][a3c] != pictures[1][a3c] != pictures[2][a3c]
        assert pictures[0][ppo] != pictures[2][ppo]
        assert (pictures[0][random] == pictures[2][random]) == (view == "values")  # it has none
    assert page.errors() == []


@pytest.mark.slow
def test_each_view_draws_what_it_says(page: Page) -> None:
    page.open(1400)
    seen = set()
    for view in ("policy", "values", "mask", "made", "loss"):
        page.click(f"[name=view][value={view}]")
        page.until("return new Promise(done => setTimeout(() => done(true), 60))")
        seen.add(page.drawn()[2])
        assert len(page.run("return document.querySelector('#meaning').textContent")) > 40
    assert len(seen) == 5
    page.click("[name=view][value=mask]")
    frame = picture(200, 0)
    corner = page.run(
        "return [...document.querySelectorAll('#grid canvas')[2].getContext('2d').getImageData(0, 0, 32, 32).data]"
    )
    pixels = np.array(corner).reshape(32, 32, 4)[4::8, 4::8, :3].reshape(-1, 3)
    assert (((pixels == (58, 62, 74)).all(1)) == frame.masks[0]).all()


@pytest.mark.slow
def test_all_maps_of_one_agent_stand_side_by_side(page: Page) -> None:
    page.open(1400)
    page.click("[name=view][value=all]")
    assert page.heads() == ["image", "policy map", "value map", "mask", "reconstruction", "patch loss"]
    before = page.drawn()
    page.run("const one = document.querySelector('#one select'); one.value = 1; one.dispatchEvent(new Event('change'))")
    assert page.drawn()[2:4] != before[2:4]
    page.run("const one = document.querySelector('#one select'); one.value = 2; one.dispatchEvent(new Event('change'))")
    assert page.run("return document.querySelectorAll('[data-none]').length") == 2


@pytest.mark.slow
def test_agents_can_be_chosen(page: Page) -> None:
    page.open(1400)
    assert page.heads() == ["image", "a3c", "ppo", "random"]
    visible = "return [...document.querySelectorAll('.drawing text')].filter(one => one.checkVisibility()).length"
    lines = page.run(visible)
    for turn, chip in enumerate((0, 1, 2, 0)):  # above trends, curves and pictures
        page.run("document.querySelectorAll('[data-toggle=\"1\"]')[arguments[0]].click()", chip)
        gone = turn % 2 == 0
        pressed = page.run("return [...document.querySelectorAll('[data-toggle=\"1\"]')].map(one => one.ariaPressed)")
        assert set(pressed) == {"false" if gone else "true"}
        assert page.heads() == ["image", "a3c", *([] if gone else ["ppo"]), "random"]
        assert (page.run(visible) < lines) == gone
    for agent in range(3):
        page.click(f"[data-toggle='{agent}']")
    assert "Choose an agent" in page.run("return document.querySelector('#grid').textContent")
    assert page.errors() == []


@pytest.mark.slow
def test_a_seed_can_be_chosen(page: Page) -> None:
    page.open(1400)
    before = page.drawn()
    page.run(
        "const one = document.querySelector('#seed select'); one.value = 1; one.dispatchEvent(new Event('change'))"
    )
    after = page.drawn()
    assert after[2:4] != before[2:4]
    assert after[4:] == before[4:]  # ppo has one seed, and says so
    assert "seed 0" in page.run("return document.querySelectorAll('#grid .head')[2].textContent")
    assert "seed 1" in page.run("return document.querySelector('.heat p').textContent")


@pytest.mark.slow
def test_play_runs_to_the_end_and_can_be_paused(page: Page) -> None:
    page.open(1400)
    page.click("#play")
    assert page.run("return [play.ariaPressed, play.ariaLabel]") == ["true", "Pause"]
    page.driver.execute_async_script(
        """const done = arguments[0], watch = setInterval(() => {
          if (slider.value !== "1") return;
          clearInterval(watch);
          play.click();  // at once: a slow machine would have come to the end before a second command
          done();
        }, 10);"""
    )
    assert page.run("return [play.ariaPressed, play.ariaLabel]") == ["false", "Play"]
    stopped = page.run("return slider.value")
    page.until("return new Promise(done => setTimeout(() => done(true), 700))")
    assert page.run("return slider.value") == stopped
    page.click("#play")
    page.until("return slider.value === '2' && play.ariaPressed === 'false'")


@pytest.mark.slow
def test_arrow_keys_move_time_and_read_values(page: Page) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.open(1400)
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.ARROW_LEFT)
    page.until("return document.querySelector('#moment').textContent === 'after 100 images'")
    page.driver.find_element(By.ID, "slider").send_keys(Keys.ARROW_LEFT)
    page.until("return document.querySelector('#moment').textContent === 'after 0 images'")
    assert page.run("return slider.getAttribute('aria-valuetext')") == "after 0 images"
    plot = page.run(f"return {AREA.format(0)}")
    plot.send_keys(Keys.ARROW_LEFT)
    readout = page.run(f"return {AREA.format(0)}.querySelector('.readout').textContent")
    assert "after 100 images" in readout
    assert "a3c1.30 (0.03 – 2.57)" in readout
    plot.send_keys(Keys.ESCAPE)
    assert page.run(f"return {AREA.format(0)}.querySelector('.readout').hidden")


@pytest.mark.slow
def test_pointing_at_a_chart_tells_its_values(page: Page) -> None:
    page.open(400)
    for share in (0, 0.5, 1):
        box = page.run(
            f"""const plot = {AREA.format(0)}, box = plot.getBoundingClientRect();
            plot.dispatchEvent(new PointerEvent("pointermove", {{ clientX: box.left + arguments[0] * box.width }}));
            const readout = plot.querySelector(".readout").getBoundingClientRect();
            return [readout.left, readout.right];""",
            share,
        )
        assert 0 <= box[0] < box[1] <= 400
    assert "after 200 images" in page.run(f"return {AREA.format(0)}.querySelector('.readout').textContent")
    page.run(f"{AREA.format(0)}.dispatchEvent(new PointerEvent('pointerleave'))")
    assert page.run(f"return {AREA.format(0)}.querySelector('.readout').hidden")


@pytest.mark.slow
def test_everything_has_a_name_for_those_who_do_not_see_it(page: Page) -> None:
    page.open(1400)
    for selector in ("canvas", "[role=img]", "[role=group]", "input[type=range]", "[tabindex='0']"):
        unnamed = page.run(
            """return [...document.querySelectorAll(arguments[0])].filter(one =>
              !one.getAttribute("aria-label") && !one.getAttribute("aria-labelledby")).map(one => one.outerHTML)""",
            selector,
        )
        assert unnamed == []
    assert page.run(
        "return [...document.querySelectorAll('button')].every(one => one.ariaLabel || one.textContent.trim())"
    )
    assert page.run("return [...document.querySelectorAll('select, [type=radio]')].every(one => one.labels.length)")
    label = page.run("return document.querySelectorAll('#grid canvas')[2].getAttribute('aria-label')")
    assert label == "a3c, policy map, image 1, after 200 images"


@pytest.mark.slow
def test_dark_is_dark_and_light_is_light(page: Page) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page.open(1400, scheme=scheme)
        grounds.append(page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
    assert min(grounds[0]) > 240
    assert max(grounds[1]) < 40


@pytest.mark.slow
def test_the_browser_asks_the_network_for_nothing(page: Page) -> None:
    page.open(1400)
    page.click("[name=view][value=made]")
    names = page.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in names if not name.startswith("data:")] == []


@pytest.mark.slow
def test_hostile_names_do_nothing_in_a_browser(page: Page, make_run: Maker, phantoms: ImageSet) -> None:
    table = Table(EVIL, (EVIL,), ((EVIL,),), (EVIL,))
    out = page.path.with_name("evil.html")
    make_report({make_run(EVIL, name="evil", data=EVIL): EVIL}, out, [table], images=phantoms)
    for width in (400, 1400):
        page.open(width, out)
        page.click("[name=view][value=all]")
        page.run(
            f"""const plot = {AREA.format(0)};
            plot.dispatchEvent(new PointerEvent("pointermove", {{ clientX: 200 }}))"""
        )
        assert page.run("return [window.hacked, document.querySelectorAll('x-evil').length]") == [None, 0]
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.errors() == []
