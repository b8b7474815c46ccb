"""The environment in TorchRL: `python examples/torchrl_env.py [STEPS]`, after `pip install -e '.[interop]'`.

`GymEnv` makes the single environment. `GymWrapper` takes the native vector environment, whose infos (`mask`,
`patch_loss` and the others) then stand in the tensordict.
"""

import sys

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torchrl.envs import GymEnv, GymWrapper, check_env_specs


def main(steps: int = 10, num_envs: int = 16) -> tuple[TensorDictBase, TensorDictBase]:
    """Check the specifications of both environments; return a rollout of random masks in each."""
    torch.manual_seed(0)  # TorchRL draws random actions from the global generator
    single = GymEnv("ahm_env:AHM/PatchMask-v0")
    vector = GymWrapper(gym.make_vec("ahm_env:AHM/PatchMask-v0", num_envs=num_envs))
    rollouts = []
    for name, env in (("single", single), ("vector", vector)):
        check_env_specs(env)
        env.set_seed(0)
        rollout = env.rollout(steps, break_when_any_done=False)
        print(f"{name}  {tuple(rollout.batch_size)}  mean reward {rollout['next', 'reward'].mean():.3f}")
        rollouts.append(rollout)
        env.close()
    return rollouts[0], rollouts[1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
