"""What random and oracle masks earn in `AHM/PatchMask-v0`: `python examples/random_and_oracle.py [EPISODES]`.

The oracle cheats: it tries random masks of an image first, and hides the patches that lost most on average.
"""

import sys

import gymnasium as gym
import numpy as np


def main(episodes: int = 200) -> tuple[float, float]:
    """Print and return the mean reward of random and of oracle masks, on the same images."""
    env = gym.make("ahm_env:AHM/PatchMask-v0")
    earned: dict[str, list[float]] = {"random": [], "oracle": []}
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(episodes):
        _, info = env.reset()
        image = {"image_index": info["image_index"]}
        losses, tries = np.zeros(env.action_space.shape), np.zeros(env.action_space.shape)
        for _ in range(8):
            env.reset(options=image)
            _, reward, _, _, info = env.step(env.action_space.sample())
            losses += (info["patch_loss"] * info["mask"]).ravel()
            tries += info["mask"].ravel()
        earned["random"].append(float(reward))
        env.reset(options=image)
        hardest = np.argsort(losses / np.maximum(tries, 1))[-int(info["mask"].sum()) :]
        action = np.zeros(env.action_space.shape, np.int8)
        action[hardest] = 1
        earned["oracle"].append(float(env.step(action)[1]))
    for name, rewards in earned.items():
        print(f"{name}  {np.mean(rewards):.3f}")
    return float(np.mean(earned["random"])), float(np.mean(earned["oracle"]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
