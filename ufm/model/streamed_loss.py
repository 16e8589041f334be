"""The mean loss over samples: whole, or a block of samples at a time where the logits are too many to hold."""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from ufm._core.blocks import cut, over_blocks, put
from ufm.model.losses import per_sample
from ufm.model.params import Columns


def weighted_losses(problem, params, labels):
    """w_y loss of each sample (N,), for an H of columns."""
    loss = per_sample(problem.loss, logits(problem, params), labels)
    return loss * jnp.asarray(problem.class_weights, loss.dtype)[labels]


@jax.custom_jvp
def streamed_loss(H, A, b, problem):
    """The mean loss where the logits are too many to hold: blocks of samples, one after the other."""
    labels = jnp.asarray(problem.labels)

    def step(total, first, fresh):
        return total + _block_loss(cut(H, first, fresh, 1), A, b, problem, cut(labels, first, fresh), fresh)

    return over_blocks(step, jnp.zeros((), H.dtype), problem.num_samples, problem.num_classes)


@ft.partial(streamed_loss.defjvp, symbolic_zeros=True)
def _streamed_loss_jvp(primals, tangents):
    """Value and gradient of a block together, while its logits are there: three products instead of four.

    The tangent is linear in what moves, and what it is linear with can be differentiated again.
    """
    leaves, structure = jax.tree.flatten(primals)
    moves = {i: move for i, move in enumerate(jax.tree.leaves(tangents)) if not isinstance(move, SymbolicZero)}
    H, problem = leaves[0], primals[-1]
    labels = jnp.asarray(problem.labels)

    def step(carry, first, fresh):
        total, gradient = carry

        def of_moving(moving):
            block = {**dict(enumerate(leaves)), 0: cut(H, first, fresh, 1), **moving}
            here, A, b, problem = structure.unflatten(block.values())
            return _block_loss(here, A, b, problem, cut(labels, first, fresh), fresh)

        at = {i: cut(H, first, fresh, 1) if i == 0 else leaves[i] for i in moves}
        value, slopes = jax.value_and_grad(of_moving)(at)
        added = {i: gradient[i] + slope for i, slope in slopes.items() if i > 0}
        if 0 in moves:  # a repeated sample has no slope the second time
            added[0] = put(gradient[0], cut(gradient[0], first, fresh, 1) + slopes[0], first, 1)
        return total + value, added

    start = jnp.zeros((), H.dtype), {i: jnp.zeros_like(leaves[i]) for i in moves}
    value, gradient = over_blocks(step, start, problem.num_samples, problem.num_classes)
    return value, sum(jnp.sum(gradient[i] * move).astype(value.dtype) for i, move in moves.items())


def _block_loss(H, A, b, problem, labels, fresh):
    """What a block's fresh samples add to the mean loss."""
    losses = weighted_losses(problem, Columns(H, A, b), labels)
    return jnp.sum(jnp.where(fresh, losses, 0.0)) / problem.num_samples


def logits(problem: Any, params: Columns) -> Float[Array, "K N"]:
    """A H + b, one sample a column."""
    products = params.A @ params.H
    return products + params.b[:, None] if problem.bias else products
