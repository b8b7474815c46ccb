"""For all tests: one thread a process, since tests run side by side."""

import torch

torch.set_num_threads(1)
