"""The ranks of a run under `torchrun`: each computes its share of every batch.

Every rank goes through the whole run, with the same random numbers: it shows the same images, draws the same masks,
and decides the same. Only what the networks make of a batch is computed in shares, and put together again at once, so
that losses and statistics are those of the whole batch, and the cut into ranks changes nothing but rounding. Without
`torchrun` there is one rank, and nothing of this does anything.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from zlib import crc32

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from ahm_env.errors import SettingsError, TrainingError
from ahm_env.files import first_line
from ahm_env.model.devices import find_device

Rows = TypeVar("Rows", Tensor, npt.NDArray[Any])
_PATIENCE = timedelta(days=1)  # ranks wait while the first one decodes images
_POLL = 1.0  # seconds between two looks whether torchrun is there
_sharing = _cut = False  # whether batches are computed in shares, and whether the last one could be
_store: Any = None
_times = 0  # that the ranks were connected in this process: each time has notes of its own


def count() -> int:
    """Count the ranks."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def number() -> int:
    """Return the number of this rank, from 0."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def check_divisible(flag: str, size: int) -> None:
    """Refuse batches that the ranks cannot share evenly.

    Raises:
        SettingsError: They cannot.
    """
    if size % count():
        raise SettingsError(f"{flag} {size} is the whole batch, and {count()} ranks cannot share it evenly; change one")


def check_device(name: str) -> None:
    """Refuse a device on which several ranks cannot compute together.

    Raises:
        SettingsError: Gradients cannot travel between such devices, all ranks would be on one GPU, or there is no such
            device.
    """
    if count() == 1:
        return
    kind = find_device(name).type
    if kind not in ("cpu", "cuda"):
        raise SettingsError(f"--device {name}: the {count()} ranks cannot share batches on {kind}; add --device cpu")
    if kind == "cuda" and name != "auto" and torch.device(name).index is not None:
        raise SettingsError(
            f"--device {name} would put all {count()} ranks on one GPU; use --device cuda, one for each"
        )


@contextmanager
def joined() -> Iterator[None]:
    """Connect the ranks until the block ends; where `torchrun` is gone, each ends as by SIGTERM."""
    global _store, _times
    if count() == 1:
        yield
        return
    local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if devices:
        torch.cuda.set_device(local % devices)
    own_device = devices >= int(os.environ["LOCAL_WORLD_SIZE"])  # NCCL takes one rank a GPU
    agent, rank, size = next(rendezvous("env://"))
    _store, _times = PrefixStore(f"ahm {_times}", agent), _times + 1
    backend = "cpu:gloo,cuda:nccl" if own_device else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=size, timeout=_PATIENCE)
    over = threading.Event()
    threading.Thread(target=_end_with_parent, args=(os.getppid(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        _store = None
        dist.destroy_process_group()


def _end_with_parent(parent: int, over: threading.Event) -> None:
    """End this process, which saves, where the one that started it is gone, maybe without a word."""
    while not over.wait(_POLL):
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return


def leave_note(note: str) -> None:
    """Leave the other ranks a note."""
    if _store is not None:
        _store.set("note", note)


def read_note() -> str:
    """Wait for the note that another rank leaves, and read it."""
    _store.wait(["note"], _PATIENCE)
    return str(_store.get("note"), "utf-8")


@contextmanager
def sharing() -> Iterator[None]:
    """Compute batches in shares until the block ends, which every connected rank has to enter.

    Raises:
        TrainingError: Another rank has ended.
    """
    global _sharing, _cut
    _sharing = _store is not None
    try:
        yield
    except RuntimeError as error:
        if _sharing and (isinstance(error, dist.DistError) or "peer" in str(error)):  # NCCL's, and Gloo's
            cause = f"another rank has ended ({first_line(error)})"
            raise TrainingError(f"rank {number()}: {cause}; go on with --resume") from None
        raise
    finally:
        _sharing = _cut = False


def share(batch: Rows) -> Rows:
    """Return the rows of a batch that are this rank's; all, where they cannot be cut evenly."""
    global _cut
    _cut = _sharing and len(batch) % count() == 0
    if not _cut:
        return batch
    rows = len(batch) // count()
    return batch[number() * rows : (number() + 1) * rows]


def gather(rows: Tensor, size: int) -> Tensor:
    """Put together what the ranks have computed of a batch.

    Gradients reach this rank's own rows only: see `sum_gradients`.

    Args:
        rows: `(b, ...)`, this rank's share.
        size: B, of the batch that was cut.

    Returns:
        `(B, ...)`, the same on all ranks.
    """
    if not _sharing:
        return rows
    if len(rows) == size:  # each rank has computed all of it, and the sum of their gradients would count it so often
        if rows.requires_grad:
            rows.register_hook(lambda gradient: gradient / count())  # type: ignore[no-untyped-call]
        return rows
    own = rows.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(count())]
    dist.all_gather(parts, own)
    parts[number()] = rows
    return torch.cat(parts)


def sum_gradients(weights: Iterable[Parameter]) -> None:
    """Give every rank the gradients of the whole batch."""
    if _sharing:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = torch.split(together, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def largest(value: int) -> int:
    """Return the largest of the ranks' numbers: what one rank alone has noticed, all learn."""
    if not _sharing:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def check_same(tensors: Iterable[Tensor]) -> None:
    """Make sure that all ranks have the same weights and statistics.

    Raises:
        TrainingError: They have not; a rank may run on another kind of processor.
    """
    digest = 0
    for tensor in tensors if _sharing else ():
        digest = crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, digest)
    if largest(digest) != -largest(-digest):
        raise TrainingError(
            "the ranks do not compute the same any more; start them on processors of one kind, and go on with --resume"
        )


class _Mean(torch.autograd.Function):
    """Mean over the ranks, of gradients likewise: all that the ranks compute of it adds up to one loss."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total / count()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Mean.forward(None, gradient)


def _mean(own: Tensor) -> Tensor:
    return _Mean.apply(own)  # type: ignore[no-any-return, no-untyped-call]


class _WholeBatch(_BatchNorm):
    """Takes its statistics over the whole batch, of which each rank sees a share."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise `(B, C, ...)`."""
        if not (_cut and self.training):
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        rows = features.to(self.running_mean.dtype).transpose(0, 1).flatten(1)  # (C, b ...)
        mean = _mean(rows.mean(1))
        variance = _mean((rows - mean[:, None]).square().mean(1))
        with torch.no_grad():
            self.num_batches_tracked += 1
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            numbers = count() * rows.shape[1]
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance * numbers / (numbers - 1), weight)
        shape = (1, -1, *[1] * (features.ndim - 2))
        found: Tensor = (features - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(features.dtype)


class BatchNorm1d(_WholeBatch, nn.BatchNorm1d):
    """BatchNorm1d, over all ranks."""


class BatchNorm2d(_WholeBatch, nn.BatchNorm2d):
    """BatchNorm2d, over all ranks."""
