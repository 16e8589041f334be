"""Matrix products alone, bounds on what a step can cost, beside the steps of ufm that need them.

What is timed here is internal to ufm: the gradient that training takes, and the blocks it is streamed in.
"""

import jax
import jax.numpy as jnp
import numpy as np

import ufm
from timing.problems import Config
from timing.race import OURS, Timed, same
from ufm._core.blocks import cut, put, scan_blocks
from ufm._core.side_by_side import side_by_side
from ufm.model.params import columns, rows
from ufm.model.problem import risk


class Steps:
    """The matrix products of a training's steps, three a layer: what it makes of its features, and both gradients."""

    def __init__(self, problem: ufm.Problem, steps: int):
        H, A, _, W = problem.init(0)
        self.layers, self.slopes, X = (*W, A), [], [H.T]
        for layer in self.layers:
            X.append(layer @ X[-1])
            self.slopes.append(X[-1] / problem.num_samples)
        self.features = X[:-1]
        inputs = self.layers, tuple(self.features), tuple(self.slopes)
        self.steps, self.inputs = steps, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), inputs)

    def run(self) -> list[tuple[jax.Array, ...]]:
        """All steps' products, layer by layer."""
        return products(*self.inputs, self.steps)

    def agreement(self, timed: dict[str, Timed]) -> str:
        """A note that the products were formed."""
        each = zip(timed["products"].result, self.layers, self.features, self.slopes, strict=True)
        for found, *given in each:
            for product, expected in zip(found, _products(*given), strict=True):
                np.testing.assert_allclose(product, expected, rtol=1e-3, atol=1e-5)
        return "a bound, nothing else is done"


def _products(layer, features, slopes):
    return layer @ features, slopes @ features.T, layer.T @ slopes


@jax.jit
def products(layers, features, slopes, steps):
    """Products of every layer and both of its gradients, so many times; a barrier keeps them from being made once."""

    def step(_, carry):
        given = jax.lax.optimization_barrier(carry[0])
        return given, [_products(*each) for each in zip(*given, strict=True)]

    given = layers, features, slopes
    nothing = [
        (jnp.zeros_like(U), jnp.zeros_like(layer), jnp.zeros_like(X)) for layer, X, U in zip(*given, strict=True)
    ]
    return jax.lax.fori_loop(0, steps, step, (given, nothing))[1]


class Streamed:
    """A gradient of training as large as a vocabulary, and the matrix products of its blocks."""

    def __init__(self, config: Config):
        self.problem = ufm.Problem(config.vocabulary, config.vocabulary_dim, per_class=1)
        self.params = columns(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), self.problem.init(0)))
        self.compiled = jax.jit(jax.value_and_grad(risk, argnums=1))

    def gradient(self) -> tuple[jax.Array, ufm.Params]:
        """The objective and its gradient."""
        return self.compiled(self.problem, self.params)

    def products(self) -> tuple[jax.Array, jax.Array]:
        """What its blocks are multiplied to."""
        return streamed_products(self.params.H, self.params.A)

    def agreement(self, timed: dict[str, Timed]) -> str:
        """A note that the objective is the problem's."""
        value, _ = timed[OURS].result
        return same("objective", float(value), float(self.problem.objective(rows(self.params))))


class Recorded:
    """Two passes of a recorder over batches, and the matrix products of the second."""

    def __init__(self, batches: list[tuple[np.ndarray, np.ndarray]], num_classes: int):
        self.batches, self.num_classes = batches, num_classes
        dim = batches[0][0].shape[1]
        self.A = np.random.default_rng(1).standard_normal((num_classes, dim), np.float32)

    def recorder(self) -> ufm.Recorder:
        """One that was fed both passes."""
        found = ufm.Recorder(self.num_classes, absent="drop")
        for batch in self.batches:
            found.add(*batch)
        for batch in self.batches:
            found.revisit(*batch, self.A)
        return found

    def products(self) -> np.ndarray:
        """Scores of the nearest centre and of the classifier in float32, some rows at a time on each core."""
        rows = [H[first : first + 512] for H, _ in self.batches for first in range(0, len(H), 512)]
        return np.sum(list(side_by_side(lambda H: (H @ self.A.T)[0] + (H @ self.A.T)[-1], rows)), axis=0)

    def agreement(self, timed: dict[str, Timed]) -> str:
        """A note that the recorder decides as the products of a batch do."""
        H, labels = self.batches[0]
        right = np.mean(np.argmax(H @ self.A.T, axis=1) == labels)
        return same("accuracy", ufm.measure(H, labels, self.A, absent="drop").accuracy, right)


@jax.jit
def streamed_products(H, A):
    """Logits and both gradients of a step in ufm's blocks, with the logits for the slopes."""

    def step(carry, first, fresh):
        along_H, along_A = carry
        here = cut(H, first, fresh, 1)
        U = A @ here
        return put(along_H, A.T @ U, first, 1), along_A + U @ here.T

    return scan_blocks(step, (jnp.zeros_like(H), jnp.zeros_like(A)), H.shape[1], A.shape[0])
