"""The mean loss over samples: whole, or a block of samples at a time where the logits are too many to hold."""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

from ufm._core.arrays import Array, namespace
from ufm._core.blocks import cut, put, scan_blocks
from ufm.model.layers import ACTIVATIONS, layers
from ufm.model.losses import per_sample
from ufm.model.params import Columns


def weighted_losses(problem, params, labels):
    """w_y loss of each sample (N,), for an H of columns and samples of these groups."""
    loss = per_sample(problem.loss, logits(problem, params), _told(problem, labels, params))
    weights = problem.group_weights
    return loss * namespace(loss, weights).asarray(weights, loss.dtype)[labels]


def _told(problem, labels, params):
    """What samples of these groups are told, in the precision of what it meets."""
    if problem.targets is None:
        return labels
    rows = problem.targets.rows
    return namespace(params.A, rows).asarray(rows, params.A.dtype).T[:, labels]


@jax.custom_jvp
def streamed_loss(H, A, b, W, problem):
    """The mean loss where the logits are too many to hold: blocks of samples, one after the other."""
    labels = jnp.asarray(problem.labels)

    def step(total, first, new):
        return total + _block_loss(cut(H, first, new, 1), A, b, W, problem, cut(labels, first, new), new)

    return scan_blocks(step, jnp.zeros((), H.dtype), problem.num_samples, problem.widest)


@ft.partial(streamed_loss.defjvp, symbolic_zeros=True)
def _streamed_loss_jvp(primals, tangents):
    """Value and gradient of a block together, while its logits are there: three products instead of four.

    The tangent is ⟨gradient, move⟩, summed over those of H, A, b, W and the problem's numbers that move: linear in the
    moves, as a rule must be, and the gradient can be differentiated again. Blocks have columns of H, and of its
    gradient, to themselves; to the gradient of everything else each block adds.
    """
    inputs, moves = (dict(zip(("H", "A", "b", "W", "problem"), each, strict=True)) for each in (primals, tangents))
    moves = jax.tree.map(lambda move: None if isinstance(move, SymbolicZero) else move, moves)
    moving = _where_known(moves, inputs)
    labels = jnp.asarray(inputs["problem"].labels)

    def step(carry, first, new):
        total, gradient = carry

        def block_of(tree):
            return tree if tree["H"] is None else {**tree, "H": cut(tree["H"], first, new, 1)}

        def of_moving(moved):
            return _block_loss(**_completed(moved, block_of(inputs)), labels=cut(labels, first, new), new=new)

        value, slopes = jax.value_and_grad(of_moving)(block_of(moving))
        # a sample that comes twice has no slope the second time
        added = jax.tree.map(jnp.add, block_of(gradient), slopes)
        if moving["H"] is not None:
            added["H"] = put(gradient["H"], added["H"], first, 1)
        return total + value, added

    H, problem = inputs["H"], inputs["problem"]
    start = jnp.zeros((), H.dtype), jax.tree.map(jnp.zeros_like, moving)
    value, gradient = scan_blocks(step, start, problem.num_samples, problem.widest)
    along = jax.tree.map(lambda slope, move: jnp.sum(slope * move).astype(value.dtype), gradient, moves)
    return value, sum(jax.tree.leaves(along))


def _where_known(tree, values):
    """`values` at the leaves of a tree, and None where it has None."""
    return jax.tree.map(lambda leaf, value: None if leaf is None else value, tree, values, is_leaf=_absent)


def _completed(tree, values):
    """A tree with `values` where it has None."""
    return jax.tree.map(lambda leaf, value: value if leaf is None else leaf, tree, values, is_leaf=_absent)


def _absent(leaf):
    return leaf is None


def _block_loss(H, A, b, W, problem, labels, new):
    """What a block's new samples add to the mean loss."""
    losses = weighted_losses(problem, Columns(H, A, b, W), labels)
    return jnp.sum(jnp.where(new, losses, 0.0)) / problem.num_samples


def logits(problem: Any, params: Columns) -> Float[Array, "K N"]:
    """A X + b of what the classifier reads, one sample a column."""
    products = _products(problem.activation, params)
    return products + params.b[:, None] if problem.bias else products


def _products(activation: str, params: Columns) -> Float[Array, "K N"]:
    """A X; of linear layers in the order that takes the fewest multiplications, which is mostly not layer by layer."""
    if params.W and ACTIVATIONS[activation].passes is None:
        matrices = [params.A, *params.W[::-1], params.H]
        return namespace(*matrices).linalg.multi_dot(matrices)
    return params.A @ layers(activation, params)[-1]
