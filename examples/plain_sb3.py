"""Plain Stable-Baselines3 on `AHM/PatchMask-v0`: `python examples/plain_sb3.py [STEPS [ENVS]]`.

`PPO("CnnPolicy", gym.make("ahm_env:AHM/PatchMask-v0")).learn(2_048)` works as it stands. Here some environments run
side by side; no adapter is needed for that either. Mean reward before and after the minute that 10,000 steps take on
one core: 0.138 and 0.425.
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


def main(steps: int = 10_000, envs: int = 8, images: int = 200) -> tuple[float, float]:
    """Print and return the mean reward of an agent's masks before and after so many steps of training.

    An untrained agent hides each patch with probability 0.5, so that its masks are as good as random ones.
    """
    env = make_vec_env("ahm_env:AHM/PatchMask-v0", envs, seed=0)
    # An episode is one step: nothing is gained by long rollouts, or by looking ahead.
    model = PPO("CnnPolicy", env, n_steps=64, batch_size=16 * envs, n_epochs=4, gamma=0, seed=0)
    untrained, _ = evaluate_policy(model, env, images, deterministic=False)
    model.learn(steps)
    trained, _ = evaluate_policy(model, env, images)
    print(f"untrained  {untrained:.3f}\ntrained    {trained:.3f}")
    return float(untrained), float(trained)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
