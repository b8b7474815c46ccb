"""Tables of how hard agents' masks are, all on the same reference U-Nets."""

from collections.abc import Mapping
from dataclasses import replace

from agents.pretraining.hardness import KINDS
from ahm_env.console import beside, number
from downstream.comparison.options import AgentConfig
from downstream.comparison.results.rows import Group, lacking
from downstream.evaluation.statistics import Scores, holm, interquartile_mean, p_text, probability_of_improvement
from downstream.reports.report import Table

RANDOM = "random"
SHARES = "sampled masks hide: lesion – rest"
ENOUGH_RUNS = 4  # of an agent, to look at its runs one by one
NOTE = (
    "Hardness: loss of the hidden patches over that under random masks of the same size, the same for all agents, on "
    "held-out images and the same {count} reference U-Net{s}, trained on random masks; of masks as an agent samples "
    "them, and of its likeliest. Intervals, and p: bootstrap over runs, reference U-Nets and patients (images, where "
    "no patient has several), with Student's t for few of them; differences are paired. Of one run or one U-Net "
    "nothing is known of others: its luck is in no interval, and there is no p. p is two-sided, and corrected after "
    "Holm within the table. Use of patches: entropy of how often each is hidden, 1 where all are equally often; images "
    "differ: in so many patches, of the masks of two; where both are low, all images get the same mask."
)
SHARES_NOTE = (
    " Masks hide –: nothing, or all, is marked; or other pixels were ignored when that agent was evaluated than by "
    "--finetune now, and `ahm compare-agents` with that agent evaluates it again."
)
RUNS_NOTE = (
    "A run counts as one number. Interquartile mean: of the middle half of the runs, which no single run can move; "
    "interval: Student's, of the trimmed mean. Harder than {base}: probability that a run of the agent has harder "
    "masks than one of {base}, over all pairs of runs; interval: Newcombe's score interval. Neither interval knows of "
    "other reference U-Nets or images."
)


def hardness_tables(group: Group, data: str) -> list[Table]:
    """How hard each agent's masks are; where there are enough runs, a second table looks at them one by one.

    Args:
        group: Results of pretraining runs, of which those reference U-Nets count on which all were evaluated.
        data: What the images are called.

    Raises:
        RunError: Runs were evaluated on different images, or lack some of their numbers.
    """
    group, count, left_out = _evaluated_alike(group)
    agents = [agent for agent, _ in group.arms]
    base = RANDOM if RANDOM in agents else agents[0]
    scores = {
        (agent, kind): group.scores(agent, "", f"loss_{kind}", per=f"random_loss_{kind}")
        for agent in agents
        for kind in KINDS
    }
    gaps = {
        (agent, kind): gap
        for (agent, kind), one in scores.items()
        if agent != base and (gap := one.minus(scores[base, kind]))
    }
    ps = dict(zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True))
    rows = []
    for agent in agents:
        row = {"agent": agent, "runs": str(len(scores[agent, KINDS[0]].of_runs))}
        for kind in KINDS:
            key = agent, kind
            row[f"hardness, {kind} masks (95 %)"] = scores[key].mean.text()
            row[f"{kind} against {base} (95 %)"] = gaps[key].interval.text(sign=True) if key in gaps else "–"
            row[f"p, {kind}"] = p_text(ps[key]) if key in gaps else "–"
        use, differ, lesion, rest, *own, speed = (
            group.mean(agent, "", name)
            for name in (
                *("patch_use_likeliest", "between_images_likeliest", "lesion_hidden", "background_hidden"),
                *("own_hardness_sampled", "own_hardness_likeliest", "images_per_second"),
            )
        )
        row["likeliest masks: use of patches – images differ"] = beside(number(use), number(differ, ".0%"))
        row[SHARES] = beside(number(lesion, ".0%"), number(rest, ".0%"))
        row["on its own U-Net: sampled – likeliest"] = beside(*map(number, own))
        row["images/s"] = number(speed, ".0f")
        rows.append(row)
    note = NOTE.format(count=count, s="s" if count > 1 else "")
    if any("–" in row[SHARES].split(" – ") for row in rows):
        note += SHARES_NOTE
    odd = unlike(group)
    about = f"NOT COMPARABLE: the runs differ in {'; '.join(odd)}" if odd else _alike(group)
    note += f" Left out, since some runs were not evaluated on them: reference U-Nets: {left_out}." * bool(left_out)
    return [Table.of(f"Agents on {data}", rows, (note, about)), *_runs_table(scores, base, data)]


def _evaluated_alike(group: Group) -> tuple[Group, int, int]:
    """Leave out reference U-Nets on which some of the runs were not evaluated; count the others, and those left out."""
    found: dict[tuple[str, int | None], set[int | None]] = {}
    for row in group.rows:
        if row.draw is not None:
            found.setdefault((row.agent, row.run), set()).add(row.draw)
    if not found:
        raise lacking(f"{group.task} of {group.rows[0].agent}", "the losses of images")
    shared = set.intersection(*found.values())
    rows = tuple(row for row in group.rows if row.draw is None or row.draw in shared)
    return replace(group, rows=rows), len(shared), len(set.union(*found.values())) - len(shared)


def _runs_table(scores: Mapping[tuple[str, str], Scores], base: str, data: str) -> list[Table]:
    """Look at the runs of each agent one by one; no table where no agent has enough of them."""
    runs = {key: one.of_runs for key, one in scores.items()}
    many = [agent for agent, kind in runs if kind == KINDS[0] and len(runs[agent, kind]) >= ENOUGH_RUNS]
    if not many:
        return []
    rows = []
    for agent in many:
        row = {"agent": agent, "runs": str(len(runs[agent, KINDS[0]]))}
        for kind in KINDS:
            own, harder = runs[agent, kind], "–"
            if agent != base and base in many:
                harder = probability_of_improvement(own, runs[base, kind]).text()
            row[f"{kind}: interquartile mean (95 %)"] = interquartile_mean(own).text()
            row[f"{kind}: harder than {base} (95 %)"] = harder
        rows.append(row)
    return [Table.of(f"Runs of agents on {data}", rows, [RUNS_NOTE.format(base=base)])]


def _alike(group: Group) -> str:
    shown, updates = (
        sorted({round(row.value) for row in group.rows if row.metric == name}) for name in ("images", "unet_updates")
    )
    texts = [", ".join(f"{count:,}" for count in counts) for counts in (shown, updates)]
    return f"Images shown: {texts[0]}; U-Net updates: {texts[1]}{' in all runs' if len(updates) == 1 else ''}."


def unlike(group: Group) -> list[str]:
    """In what pretraining runs differ although they must not: images, U-Net updates, the share at the end."""
    # agents that differ in these say so; several workers end the batches that they have begun
    free = {"agent_share", "schedule", "batch_size", "total_images", "workers"}
    complaints = []
    for metric in ("images", "unet_updates", "agent_share"):
        values: dict[float, str] = {}
        for row in group.rows:
            if row.metric == metric and not free & AgentConfig.parse(row.agent).settings.keys():
                values.setdefault(row.value, f"{row.agent}-{row.run}")
        if len(values) > 1:
            complaints.append(f"{metric}: " + ", ".join(f"{value:g} in {name}" for value, name in values.items()))
    return complaints
