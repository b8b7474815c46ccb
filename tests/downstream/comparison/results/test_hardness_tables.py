"""Tables of the masks, from results alone: by hand, on several reference U-Nets, run by run, and by simulation."""

from collections.abc import Iterator
from itertools import product
from math import isnan, nan

import numpy as np
import pytest

from ahm_env import RunError
from downstream.comparison.results.hardness_tables import hardness_tables, unlike
from downstream.comparison.results.rows import Group, Row, grouped
from downstream.reports.report import Table


def group(*parts: Iterator[Row]) -> Group:
    (found,) = grouped(row for part in parts for row in part)
    return found


def table_of(found: Group) -> Table:
    return hardness_tables(found, "scans")[0]


def masked(agent: str, run: int, losses: list[float], references: int = 1, **told: float) -> Iterator[Row]:
    """The rows of a run whose likeliest masks are harder by 1 than its sampled ones, and by 1 on each next U-Net."""
    about, rest = (agent, run, None, "masking", "", ""), ("masking", "", "")
    for reference, (image, loss) in product(range(references), enumerate(losses)):
        for kind, more in (("sampled", 0), ("likeliest", 1)):
            one = (agent, run, reference, *rest, f"i{image}", f"{image}")
            yield Row(*one, f"loss_{kind}", loss + more + reference)
            yield Row(*one, f"random_loss_{kind}", 1)
    known = {
        "own_hardness_sampled": 1.5,
        "own_hardness_likeliest": 2,
        "patch_use_likeliest": 0.98,
        "between_images_likeliest": 0.4,
        "lesion_hidden": 0.6,
        "background_hidden": 0.4,
        "images": 100,
        "unet_updates": 10,
    }
    for name, value in {**known, "agent_share": 1, "images_per_second": 50, **told}.items():
        if not isnan(value):
            yield Row(*about, "", "", name, value)


def test_the_table_of_the_masks_by_hand():
    found = group(
        masked("a3c", 0, [2, 4]),
        masked("a3c", 1, [4, 6], lesion_hidden=0.8, images_per_second=25),
        masked("random", 0, [1, 1], lesion_hidden=nan, between_images_likeliest=nan),
    )
    table = table_of(found)
    a3c, random = table.rows
    assert table.title == "Agents on scans"
    assert table.headings[2:8] == (
        *("hardness, sampled masks (95 %)", "sampled against random (95 %)", "p, sampled"),
        *("hardness, likeliest masks (95 %)", "likeliest against random (95 %)", "p, likeliest"),
    )
    assert a3c[:2] == ("a3c", "2")
    assert a3c[2].startswith("4.000 (")
    assert a3c[3].startswith("+2.000 (")  # of run 0, the one that both have
    assert a3c[5].startswith("5.000 (")
    assert a3c[6].startswith("+2.000 (")  # 4 – 2
    assert a3c[8:] == ("0.980 – 40%", "70% – 40%", "1.500 – 2.000", "38")
    assert random[3:5] == random[6:8] == ("–", "–")
    assert random[8:10] == ("0.980 – –", "– – 40%")  # of one image; where nothing is marked
    assert "Images shown: 100" in table.notes[1]
    assert table_of(group(masked("ppo", 0, [1, 2]), masked("a3c", 0, [1, 2]))).headings[3] == (
        "sampled against ppo (95 %)"
    )


def test_where_the_share_of_the_lesion_is_not_known_the_note_says_why():
    known, unknown = (
        table_of(group(masked("a3c", 0, [1, 2]), masked("edges", 0, [1, 2], lesion_hidden=one, background_hidden=one)))
        for one in (0.5, nan)
    )
    assert (known.rows[1][9], unknown.rows[1][9]) == ("50% – 50%", "–")
    told = "other pixels were ignored when that agent was evaluated"
    assert (told in known.notes[0], told in unknown.notes[0]) == (False, True)


def test_results_without_the_losses_of_images_are_told():
    rows = list(masked("a3c", 0, [1, 2]))
    with pytest.raises(
        RunError, match=r"masking of a3c: results\.csv lacks the losses of images; `ahm compare-agents`"
    ):
        table_of(group(row for row in rows if not row.image))
    with pytest.raises(RunError, match=r"a3c, run 0, draw 0: results\.csv lacks random_loss_likeliest of an image"):
        table_of(group(row for row in rows if row.metric != "random_loss_likeliest"))


def test_p_is_corrected_for_all_comparisons_of_the_table():
    """Two agents and two kinds of masks are four comparisons with `random`."""
    losses = [1.0, 1.5, 2.0, 1.2, 1.7]

    def runs(agent: str, losses: list[float], count: int = 2) -> Iterator[Row]:
        return (row for run in range(count) for row in masked(agent, run, [one + 0.3 * run for one in losses], 2))

    alone = table_of(group(runs("a3c", losses), runs("random", [1.0] * 5)))
    many = table_of(group(runs("a3c", losses), runs("ppo", losses), runs("random", [1.0] * 5)))
    p, corrected = float(alone.rows[0][4]), float(many.rows[0][4])
    assert 0 < p < 0.2
    assert corrected == pytest.approx(min(1, 2 * p), abs=0.002)
    one = table_of(group(runs("a3c", losses, 1), runs("random", [1.0] * 5, 1)))
    assert one.rows[0][4] == "–"  # of one run, the difference may be luck


def test_runs_that_are_not_alike_are_told():
    alike = [
        *masked("a3c", 0, [1, 1]),
        *masked("ppo+total_images=200", 0, [1, 1], images=200),
    ]  # who asks for this knows
    assert unlike(group(iter(alike))) == []
    odd = group(iter(alike), masked("random", 0, [1, 1], unet_updates=11))
    assert unlike(odd) == ["unet_updates: 10 in a3c-0, 11 in random-0"]
    assert table_of(odd).notes[1] == "NOT COMPARABLE: the runs differ in unet_updates: 10 in a3c-0, 11 in random-0"


def test_the_same_number_of_updates_is_said_only_where_it_is_so():
    one, other = masked("random", 0, [1, 1]), masked("a3c+batch_size=8", 0, [1, 1], unet_updates=30)
    assert table_of(group(one)).notes[1].endswith("U-Net updates: 10 in all runs.")
    assert table_of(group(masked("random", 0, [1, 1]), other)).notes[1].endswith("U-Net updates: 10, 30.")


def test_hardness_is_a_mean_over_the_u_nets_that_all_runs_were_evaluated_on():
    found = group(masked("a3c", 0, [2, 4], 3), masked("a3c", 1, [2, 4], 2), masked("random", 0, [1, 1], 2))
    table = table_of(found)
    a3c, random = table.rows
    assert a3c[1] == "2"
    assert (a3c[2].split()[0], a3c[3].split()[0]) == ("3.500", "+2.000")  # 3 and 4, not 5; the U-Net's part cancels
    assert random[2].startswith("1.500 (")
    assert "the same 2 reference U-Nets" in table.notes[0]
    assert "the same 1 reference U-Net," in table_of(group(masked("a3c", 0, [2, 4]))).notes[0]


def test_where_there_are_enough_runs_they_are_looked_at_one_by_one():
    few, many = (
        group(
            *(masked("a3c", run, [level, level + 2], 2) for run, level in enumerate([1, 2, 3, 100][:runs])),
            *(masked("random", run, [1, 1], 2) for run in range(runs)),
            masked("ppo", 0, [1, 2], 2),
        )
        for runs in (3, 4)
    )
    assert len(hardness_tables(few, "scans")) == 1
    table = hardness_tables(many, "scans")[1]
    assert table.headings == (
        *("agent", "runs", "sampled: interquartile mean (95 %)", "sampled: harder than random (95 %)"),
        *("likeliest: interquartile mean (95 %)", "likeliest: harder than random (95 %)"),
    )
    a3c, random = table.rows  # of ppo there is one run only
    assert a3c[:2] == ("a3c", "4")
    assert a3c[2].startswith("4.000 (")  # of 2.5, 3.5, 4.5 and 101.5
    assert a3c[4].startswith("5.000 (")
    assert a3c[3].startswith("1.000 (0.582 to 1.000)")
    assert random[3] == random[5] == "–"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("references", "level", "least", "most"),
    [(1, 0.3, 0.4, 0.7), (2, 0.3, 0.85, 0.95), (3, 0.3, 0.9, 1), (2, 0.03, 0.88, 1)],
)
def test_intervals_of_several_u_nets_cover_the_truth_about_as_often_as_they_say(
    references: int, level: float, least: float, most: float
):
    """Hardness of 2, and what each U-Net, run and image adds to it; of a single U-Net the interval knows too little."""
    rng, inside = np.random.default_rng(4), 0
    for _ in range(100):
        of_runs, of_unets, of_images = (rng.normal(0, *one) for one in ((0.2, 5), (level, references), (0.3, 20)))
        rows = [
            Row("a3c", run, unet, "masking", "", "", f"{image}", f"{image}", f"{metric}_{kind}", value)
            for run, unet, image in product(range(5), range(references), range(20))
            for kind in ("sampled", "likeliest")
            for metric, value in (
                ("loss", 2 + of_runs[run] + of_unets[unet] + of_images[image] + rng.normal(0, 0.1)),
                ("random_loss", 1),
            )
        ]
        found = group(iter(rows)).scores("a3c", "", "loss_sampled", per="random_loss_sampled").mean
        inside += found.low <= 2 <= found.high
    assert least <= inside / 100 <= most, inside
