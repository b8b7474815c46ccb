"""The exactly-k subset distribution: patches drawn one after the other without replacement (Plackett–Luce)."""

import torch
from torch import Tensor

_EXCLUDED = -1e4  # below all others of its row; finite, so that gradients stay finite; e^-10000 is 0


class OrderedSubset:
    """Draw k of N patches in order; each draw takes a remaining patch i with probability ∝ exp(logit_i).

    A draw is kept as a full ranking of the N patches, of which the first k are the subset: what remains at
    step j is what ranks from j on, whatever k is. Rankings are drawn by the Gumbel trick (Kool, van Hoof,
    Welling, "Stochastic beams and where to find them", ICML 2019).

    Args:
        logits: `(B, N)`.
        count: `(B,)` size of the subset (k).
        excluded: `(B, N)` bool, patches that cannot be drawn.
    """

    def __init__(self, logits: Tensor, count: Tensor, excluded: Tensor | None = None) -> None:
        excluded = torch.zeros_like(logits, dtype=torch.bool) if excluded is None else excluded
        least = logits.detach().amin(-1, keepdim=True)
        self.logits = torch.where(excluded, least + _EXCLUDED, logits)
        self.count, self._left = count, (~excluded).sum(-1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Rankings `(B, N)`, int64: patch numbers in the order of drawing."""
        device = generator.device if generator is not None else self.logits.device
        uniform = torch.rand(self.logits.shape, generator=generator, device=device, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        perturbed = self.logits.cpu().double() + gumbel.cpu()  # in double precision, which not every device has
        return perturbed.sort(-1, descending=True).indices.to(self.logits.device)

    @property
    def mode(self) -> Tensor:
        """The ranking by logits: its first k patches are the likeliest ordered subset."""
        return self.logits.sort(dim=-1, descending=True, stable=True).indices

    def drawn(self) -> Tensor:
        """`(B, N)` bool: which places of a ranking belong to the subset."""
        places = torch.arange(self.logits.shape[-1], device=self.logits.device)
        return places < self.count[..., None]

    def subset(self, ranking: Tensor) -> Tensor:
        """Rankings `(B, N)` to masks `(B, N)` bool with exactly k ones a row."""
        return torch.zeros_like(self.drawn()).scatter(-1, ranking, self.drawn())

    def _placed(self, ranked: Tensor, ranking: Tensor) -> Tensor:
        """Bring numbers of drawn patches from their places in a ranking to their own in the grid; 0 elsewhere."""
        return torch.zeros_like(ranked).scatter(-1, ranking, torch.where(self.drawn(), ranked, 0.0))

    def patch_log_prob(self, ranking: Tensor) -> Tensor:
        """Log p(i | drawn before i) of every drawn patch i, at its own place in the grid; 0 elsewhere.

        Args:
            ranking: `(B, N)`, as `sample` draws it.

        Returns:
            `(B, N)`; a row's sum is the log-probability of its ordered subset.
        """
        ranked = self.logits.gather(-1, ranking)
        return self._placed(ranked - _log_sum_from(ranked), ranking)

    def patch_expectation(self, values: Tensor, ranking: Tensor) -> Tensor:
        """Give each drawn patch the expected value of its draw, at the patch's own place in the grid; 0 elsewhere.

        This is a baseline for that draw: Σ over the patches that remained of p(i | drawn before) · values_i. It depends
        on what was drawn before, never on what was drawn.

        Args:
            values: `(B, N)`.
            ranking: `(B, N)`.
        """
        ranked = self.logits.detach().gather(-1, ranking)
        worth = values.gather(-1, ranking)
        least = worth.amin(-1, keepdim=True)  # what is above it has a logarithm; sums of logarithms stay exact
        expected = least + (_log_sum_from(ranked + (worth - least).log()) - _log_sum_from(ranked)).exp()
        return self._placed(expected, ranking)

    def sum_before(self, values: Tensor, ranking: Tensor) -> Tensor:
        """Give each drawn patch the sum of the values of those drawn before it, at its own place; 0 elsewhere.

        Args:
            values: `(B, N)`.
            ranking: `(B, N)`.
        """
        worth = torch.where(self.drawn(), values.gather(-1, ranking), 0.0)
        return self._placed(worth.cumsum(-1) - worth, ranking)

    def log_prob(self, ranking: Tensor) -> Tensor:
        """Log-probability `(B,)` of the ordered subsets that rankings `(B, N)` begin with."""
        return self.patch_log_prob(ranking).sum(-1)

    def first_draw(self) -> Tensor:
        """`(B, N)` probability that a patch is drawn first (π)."""
        return self.logits.softmax(-1)

    def entropy(self, ranking: Tensor) -> Tensor:
        """Entropy `(B,)` of the whole draw in nats, estimated along one ranking `(B, N)`.

        By the chain rule it is the expected sum of the entropies of the draws, each given those before it. The gradient
        is of the entropies along this ranking; that the ranking depends on the logits, too, is left out.
        """
        ranked = self.logits.gather(-1, ranking)
        remaining = _log_sum_from(ranked)
        top = ranked.detach().amax(-1, keepdim=True) + 1  # what is below it has a logarithm
        below = (_log_sum_from(ranked + (top - ranked).log()) - remaining).exp()  # expected of top - the drawn logit
        return torch.where(self.drawn(), remaining - top + below, 0.0).sum(-1)

    def largest_entropy(self) -> Tensor:
        """Entropy `(B,)` of draws at random, in nats."""
        left = self._left + 1.0
        return left.lgamma() - (left - self.count).lgamma()


def _log_sum_from(ranked: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials from each place of a ranking on."""
    return ranked.flip(-1).logcumsumexp(-1).flip(-1)
