"""A cross-entropy of scaled logits on sizes: each size's sample has factors and offsets of its own."""

import dataclasses
import functools as ft
from typing import Any

import numpy as np
from jaxtyping import Float

from ufm._core.precision import allowance
from ufm.minima.blocks import Blocks, Risk, bias_inverse, curvature
from ufm.model.losses import SizeConjugate, SizeLoss
from ufm.model.vector_scaling import SUMMED, Scaling, ScalingVectors


@dataclasses.dataclass(frozen=True, eq=False)
class ScaledBlocks(Blocks):
    """A problem on sizes of a vector-scaling loss; `loss` is the cross-entropy inside.

    Attributes:
        scaling: factors and offsets.
        flat: (G,) direction along which block means of logits can be moved at no change of the loss, or None.
    """

    scaling: Scaling
    flat: Float[np.ndarray, " E"] | None  # pyright: ignore[reportIncompatibleVariableOverride]

    @ft.cached_property
    def told(self) -> Any:
        """With factors and offsets (G, 5), where these are of each logit or each label; or None."""
        vectors = self.scaling.vectors
        return None if vectors is None else np.column_stack([np.log(self.weights), *vectors])

    def on_others(self, counts: Any, multiplicities: Any, told: Any) -> Blocks:
        """With their factors and offsets."""
        weights, *vectors = told.T
        scaling = Scaling.of(ScalingVectors(*vectors))
        flat = None if self.flat is None else np.exp(-vectors[1])
        words = {"weights": np.exp(weights), "scaling": scaling, "flat": flat}
        return dataclasses.replace(self, counts=counts, multiplicities=multiplicities, **words)

    @property
    def steepness(self) -> Any:
        """The right logit's factor."""
        return self.scaling.own_factor

    def _inside(self, right, wrong):
        """x = Δ z + ι."""
        own_factor, factor, own_offset, offset = self.scaling.entries
        return own_factor * right + own_offset, factor * wrong + offset

    def losses(self, right: Any, wrong: Any) -> SizeLoss:
        """Cross-entropy of x, with derivatives in the logits."""
        own, factor = self.scaling.own_factor, self.scaling.factor
        at = self.loss.on_sizes(*self._inside(right, wrong), self.alike)
        return SizeLoss(
            value=at.value,
            right=own * at.right,
            wrong=factor * at.wrong,
            curvature=own**2 * at.curvature,
            diagonal=factor**2 * at.diagonal,
            factor_right=own * at.factor_right,
            factor=factor * at.factor,
        )

    def conjugates(self, right: Any, wrong: Any) -> SizeConjugate:
        """CE*(r) − Σ_{k≠y} r_k (ι_k − ι_y) at r = slope/Δ, and the logits of its x."""
        own_factor, factor, own_offset, offset = self.scaling.entries
        r = wrong / factor
        found = self.loss.conjugate_on_sizes(right / own_factor, r, self.alike)
        value = found.value - np.sum(self.alike * r * (offset - own_offset[:, None]), axis=1)
        if self.flat is None:  # where shifts of a free bias's slopes may leave other sums than zero
            sizes = np.sum(self.alike * np.abs(r), axis=1)
            off = np.abs(right / own_factor + np.sum(self.alike * r, axis=1))
            value = np.where(off > SUMMED * np.finfo(np.float64).eps * sizes, np.inf, value)
        return SizeConjugate(value, (found.right - own_offset) / own_factor, (found.wrong - offset) / factor)

    def tied(self, right: Any, wrong: Any) -> Any:
        """The slope over Δ sums to zero."""
        return -self.scaling.own_factor * np.sum(self.alike * wrong / self.scaling.factor, axis=1)

    def shifted(self, right: Any, wrong: Any, excess: Any, here: Risk) -> tuple[Any, Any]:
        """As others where a direction is flat for all; else each row's as a bias takes it, ∇²ℓ ξ, which ties keep."""
        if self.flat is not None:
            return super().shifted(right, wrong, excess, here)
        at, none = here.at, np.zeros(self.num_sizes, bool)
        of_bias = self.roots / np.sqrt(self.total) * excess
        xi = self.bias(bias_inverse(self, curvature(self, at, none)) @ of_bias)
        own = xi[self.own[1]]
        along = np.sum(self.alike * at.factor * xi, axis=1)  # of wrong logits
        right = right - (at.curvature * own - at.factor_right * along)
        wrong = wrong - (at.diagonal * xi - at.factor * (at.factor_right * own + along)[:, None])
        return right, wrong

    def sums_to_zero(self, right: Any, wrong: Any, excess: Any) -> bool:
        """As of others where a direction is flat for all; a bias need not take all."""
        sizes = (self.shares[:, None] * self.alike * np.abs(wrong)).sum(axis=0) + self.shares * np.abs(right)
        return self.flat is not None or bool(np.all(np.abs(self.outputs * excess) <= allowance() * sizes))

    def floored(self, wrong: Any) -> Any:
        """Of x, whose exponentials probabilities are of."""
        factor, offset = self.scaling.factor, self.scaling.offset
        return (super().floored(factor * wrong + offset) - offset) / factor

    def sizes(self, right: Any, wrong: Any, here: Risk) -> Any:
        """With those of x and offsets, which logits needn't be as large as."""
        own_factor, factor, own_offset, offset = self.scaling.entries
        own_x, x = self._inside(here.right, here.wrong)
        inside = np.abs(right / own_factor) * (1.0 + np.abs(own_x) + np.abs(own_offset))
        inside = inside + np.sum(self.alike * np.abs(wrong / factor) * (1.0 + np.abs(x) + 2.0 * np.abs(offset)), axis=1)
        return super().sizes(right, wrong, here) + inside

    @ft.cached_property
    def first_bias(self) -> Float[np.ndarray, " E"]:
        """Where logits of every size's own sample are logarithms of shares, but for what changes nothing."""
        own_factor, _, own_offset, _ = self.scaling.entries
        return (np.log(self.omega) - own_offset) / own_factor
