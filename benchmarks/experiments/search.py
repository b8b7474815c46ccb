"""Search for settings of agents, all with the same budget.

Called by `python -m benchmarks.experiments.search DATA OUT [TRIALS [IMAGES]]`. Needs Optuna (`pip install optuna`).
Each agent of `SPACES` has a study with as many trials; the first one is its defaults, a few more are drawn at random,
the rest are proposed by Optuna's TPE. A trial trains an agent with each of `SEEDS`, which no comparison uses, jointly
with its own U-Net, and all with the same settings of the run and the same images. What is maximised is the hardness of
the agent's masks, the mean of sampled and likeliest ones, on one reference U-Net, which was trained on random masks
with a seed of its own; hardness on the agent's own U-Net is written down beside it. A trial that diverges counts. The
seeds of a trial run at once, each in a process of one thread. PPO and A2C are credited, and change over a run, as a3c
does, so that algorithms are compared and not pay.

The studies lie in OUT/search.db, and the same command goes on with them, and with the trial in which it was stopped.
All that is known is in `OUT/search.csv`; the last lines are what `ahm compare-agents --algos` takes.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from math import isnan
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from agents.registry import AGENTS
from ahm_env import TrainingError
from ahm_env.files import write_rows
from ahm_env.runs.owned_directory import OwnedDirectory
from downstream.comparison.options import AgentConfig
from downstream.comparison.trials import PretrainTrial

TRIALS, IMAGES = 20, 8_000
DRAWN = 4  # trials after which TPE has something to go by
SEEDS, REFERENCE_SEED = (100, 101), 102
RUN = {"skip_connections": True, "agent_share": "0.5:1", "workers": 1, "device": "cpu"}
ACTOR_CRITIC = {
    "learning_rate": (1e-4, 1e-2),
    "ent_coef": (1e-3, 0.1),
    "bound": (1, 8),
    "image_weight": (0.25, 8),
    "temperature": (0.1, 1),
}
SPACES: dict[str, dict[str, tuple[float, float]]] = {  # from, to, on a logarithmic scale
    "a3c": ACTOR_CRITIC,
    "ppo+own_weight=1": ACTOR_CRITIC,
    "a2c+own_weight=1": ACTOR_CRITIC,
    "hard-patches": {"learning_rate": ACTOR_CRITIC["learning_rate"]},  # there is nothing else to set
}
WRITTEN = {"learning_rate": "agent_learning_rate={}", "temperature": "temperature=1:{}"}  # falls over the run
HARDNESS = ("hardness_sampled", "hardness_likeliest")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)  # the latter diverged
RESULTS = "search.csv"


class Search:
    """Studies of all agents on the same images.

    Args:
        out: Where they are.
        common: Settings of all runs.
        pool: Processes that train.
    """

    def __init__(self, out: Path, common: dict[str, Any], pool: ProcessPoolExecutor) -> None:
        self.out, self.common, self.pool = out, common, pool
        self.reference = self._run("random", REFERENCE_SEED)
        storage = f"sqlite:///{out / 'search.db'}"
        self.studies = {
            agent: optuna.create_study(study_name=agent, storage=storage, load_if_exists=True, direction="maximize")
            for agent in SPACES
        }

    def _run(self, label: str, seed: int, *references: Path) -> PretrainTrial:
        agent = AgentConfig.parse(label)
        given = {**agent.given(self.common), "seed": seed}
        return PretrainTrial(agent, seed, self.out / "runs" / f"{label}-{seed}", given, references)

    def runs(self, label: str) -> list[PretrainTrial]:
        """List the runs of a trial."""
        return [self._run(label, seed, self.reference.unet) for seed in SEEDS]

    def ask(self, agent: str) -> optuna.Trial:
        """Ask for the next trial of an agent; that in which a process was stopped comes again."""
        study, space = self.studies[agent], SPACES[agent]
        for lost in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(lost.number, state=TrialState.FAIL)
            study.enqueue_trial(lost.params)
        if not study.trials:
            kind: Any = AGENTS[agent.partition("+")[0]].settings_class
            study.enqueue_trial({name: float(str(getattr(kind(), name))) for name in space})
        # a seed for each trial: after an interruption, the same settings are proposed as without
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=DRAWN, seed=len(study.get_trials(states=FINISHED)))
        trial = study.ask()
        found = {name: f"{trial.suggest_float(name, *ends, log=True):.3g}" for name, ends in space.items()}
        pairs = [WRITTEN.get(name, f"{name}={{}}").format(value) for name, value in found.items()]
        trial.set_user_attr("label", "+".join((agent, *pairs)))
        return trial

    def work(self, agent: str) -> None:
        """Do the next trial of an agent."""
        trial = self.ask(agent)
        label = trial.user_attrs["label"]
        try:
            list(self.pool.map(PretrainTrial.work, self.runs(label)))
        except TrainingError as error:
            print(time.strftime("%H:%M"), trial.number, label, error, flush=True)
            self.studies[agent].tell(trial, state=TrialState.PRUNED)
        else:
            hardness = mean(numbers(run)[name] for run in self.runs(label) for name in HARDNESS)
            if isnan(hardness):
                self.studies[agent].tell(trial, state=TrialState.PRUNED)
            else:
                self.studies[agent].tell(trial, hardness)
            print(time.strftime("%H:%M"), trial.number, label, f"{hardness:.3f}", flush=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what the runs of all trials that ended well came to."""
        for agent, study in self.studies.items():
            for trial in study.get_trials(states=(TrialState.COMPLETE,)):
                for run in self.runs(trial.user_attrs["label"]):
                    found = numbers(run)
                    yield {
                        **{"agent": agent, "trial": trial.number, "seed": run.run, "settings": run.agent.label},
                        **{f"reference_{name}": f"{found[name]:.4f}" for name in HARDNESS},
                        **{f"own_{name}": f"{found[f'own_{name}']:.4f}" for name in HARDNESS},
                        **{name: f"{found[name]:.0f}" for name in ("images", "seconds")},
                    }


def numbers(run: PretrainTrial) -> dict[str, float]:
    """Return what was measured of a run as a whole."""
    return {row.metric: row.value for row in run.rows() if not row.image}


def main(data: str, out: Path, trials: int = TRIALS, images: int = IMAGES) -> None:
    """Search, each agent in turn, so that an early end has done as many trials of all."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    common = {"data": data, "total_images": images, **RUN}
    with (
        OwnedDirectory(out, "search.json", "a search") as directory,
        ProcessPoolExecutor(len(SEEDS), get_context("spawn"), torch.set_num_threads, (1,)) as pool,
    ):
        directory.write_or_check(common)
        search = Search(out, common, pool)
        search.reference.work()
        for number in range(trials):
            for agent, study in search.studies.items():
                if len(study.get_trials(states=FINISHED)) <= number:
                    search.work(agent)
                    if rows := list(search.rows()):
                        write_rows(out / RESULTS, rows)
        for study in search.studies.values():
            if study.get_trials(states=(TrialState.COMPLETE,)):
                print(study.best_trial.user_attrs["label"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
