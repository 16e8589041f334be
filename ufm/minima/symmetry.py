"""The exact reduction by symmetry: classes of equal count and weight share one block of a smaller problem.

*Sizes.* With decay on both factors and d at least the rank of the solution, the minimum over H and A is that of a
problem in the logits Z (K × K, of class means) alone, which is convex where the loss is:

    min  Σ_k ω_k ℓ(z_k + b, k) + c ‖diag(n)^{1/2} Z‖_* + (λ_b/2) ‖b‖²,   ω_k = w_k n_k/N,  c = √(λ_A λ_H).

Where the loss treats all wrong classes alike, permuting classes of equal count n and weight w, in the samples and in
the logits together, changes nothing. The mean of an optimum over these permutations is optimal by Jensen's inequality.
So there is one that treats the classes of a size alike: G sizes of m_g classes each, with

    z_kl = B_gh for class k of size g and l of size h ≠ g,   B_gg − u_g/m_g + δ_kl u_g for h = g,   b_k = b_g.

ℝ^K is the sum of what is constant on each size, with the basis 1_g/√m_g, and for each size of what sums to zero on its
classes. On the first diag(n)^{1/2} Z is the matrix C_gh = √(n_g m_g m_h) B_gh, on the others √n_g u_g times the
identity of m_g − 1 dimensions. So the minimum is that of

    Σ_g m_g ω_g ℓ_g + c [ Σ_g (m_g − 1) √n_g |u_g| + ‖C‖_* ] + (λ_b/2) Σ_g m_g b_g²

over C, u and b: G² + 2G numbers, whatever K is. Nothing here asks m_g to be a whole number. A loss of scaled logits
says which classes can be exchanged as far as it is concerned; sizes are those of equal count and weight among these.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from ufm._core.arrays import silent
from ufm.minima.block_bound import RANK_CUT
from ufm.minima.blocks import BlockPoint, Blocks, risk, surplus, with_bias
from ufm.minima.scaled_blocks import ScaledBlocks
from ufm.minima.sectors import Sectors
from ufm.model.losses import ON_SIZES, CrossEntropy, closed, declares, facts_of
from ufm.model.problem import Problem


def symmetric(problem: Problem) -> bool:
    """Whether classes of equal count and weight are exchangeable, and the relaxation over logits is of the form above.

    It is the minimum where d is at least the rank of its solution, which the solution says.
    """
    return (
        problem.targets is None
        and problem.num_groups == problem.num_classes
        and relaxed(problem)
        and (declares(problem.loss, "scaling") or all(declares(problem.loss, name) for name in ON_SIZES))
    )


def relaxed(problem: Problem) -> bool:
    """Whether the minimum over two factors is one over logits, of a convex loss of ours, where d is large enough."""
    decayed = all(f.decay > 0 and unbound(f.constraint) for f in problem.factors())
    return not problem.widths and decayed and closed(problem.loss) and bool(facts_of(problem.loss).convex)


def unbound(constraint: Any) -> bool:
    """Whether all rows are allowed: what can be scaled and rotated at will, and is no single choice."""
    free = constraint.cone and constraint.rotatable and constraint.decays
    return free and not constraint.bounds and not constraint.fixed


def blocks_of(problem: Problem) -> tuple[Blocks, Int[np.ndarray, " K"]]:
    """The problem on sizes, and the size of each class; classes that can be exchanged share one."""
    _, first, size_of, multiplicities = np.unique(
        _told(problem), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    size_of = size_of.ravel()
    words = {
        "counts": problem.group_counts[first].astype(np.float64),
        "weights": np.asarray(problem.group_weights, np.float64)[first],
        "multiplicities": multiplicities.astype(np.float64),
        "num_samples": float(problem.num_samples),
        "num_classes": problem.num_classes,
        "price": float(np.sqrt(problem.lambda_A) * np.sqrt(problem.lambda_H)),
        "lambda_b": float(problem.lambda_b),
        "bias_kind": problem.bias_kind,
    }
    if not declares(problem.loss, "scaling"):
        return Blocks(**words, loss=problem.loss), size_of
    last = np.zeros(len(first), int)
    last[size_of] = np.arange(len(size_of))
    flat = problem.loss.flat(problem.num_classes)
    flat = None if flat is None else np.asarray(flat, np.float64)[first]
    return ScaledBlocks(**words, loss=CrossEntropy(), scaling=problem.loss.scaling(first, last), flat=flat), size_of


def _told(problem):
    """What exchangeable classes share, by which sizes are sorted: count, weight, and kind of factors and offsets."""
    told = [problem.group_counts, problem.group_weights]
    scaled = [problem.loss.kinds(problem.num_classes)] if declares(problem.loss, "scaling") else []
    return np.column_stack([*told, *scaled]).astype(np.float64)


def sectors_of(
    problem: Problem, blocks: Blocks, size_of: Int[np.ndarray, " K"], point: BlockPoint
) -> tuple[Sectors, int]:
    """Balanced factors of a point, and how many dimensions they need.

    λ_H Σ n_k ‖μ_k‖² = λ_A ‖A‖² in each singular direction, so that weight decay is c times the nuclear norm.
    """
    X, singular, Vt = np.linalg.svd(point.C, full_matrices=False)
    roots = np.sqrt(blocks.counts)
    standard = np.where(blocks.several, roots * np.abs(point.u), 0.0)
    cut = RANK_CUT * max(float(np.max(singular)), float(np.max(standard)))
    alive, living = singular > cut, standard > cut
    rank = int(np.sum(alive)) + int(np.sum(np.rint(blocks.others[living])))
    ratio = (problem.lambda_A / problem.lambda_H) ** 0.25
    split = np.sqrt(singular[alive])
    of_standard = np.sqrt(np.where(living, standard, 0.0))
    sectors = Sectors(
        size_of=size_of,
        trivial_H=ratio * X[:, alive] * split / roots[:, None],
        trivial_A=Vt[alive].T * split / ratio,
        standard_H=np.sign(point.u) * ratio * of_standard / roots,
        standard_A=of_standard / ratio,
        b=point.b,
    )
    return sectors, rank


def at_sectors(problem: Problem, blocks: Blocks, sectors: Sectors) -> tuple[float, float]:
    """The objective of the problem as posed at lifted parameters, and the norm of its gradient there.

    A sample's gradient is the n_m-th part of its group's, so that its n_m copies add up to ‖g_m‖²/n_m.
    """
    n = blocks.counts
    M, A, x, y = sectors.trivial_H, sectors.trivial_A, sectors.standard_H, sectors.standard_A
    roots = np.sqrt(n)
    point = BlockPoint(roots[:, None] * (M @ A.T), x * y, sectors.b)
    with silent():
        here = risk(blocks, with_bias(blocks, point), point.u)
    of_H = problem.lambda_H * (np.sum(n[:, None] * M**2) + blocks.others @ (n * x**2))
    of_A = problem.lambda_A * (np.sum(A**2) + blocks.others @ y**2)
    value = here.value + 0.5 * float(of_H + of_A + blocks.lambda_b * (blocks.outputs @ sectors.b**2))
    slopes, differences = roots[:, None] * here.along_C, roots * here.along_u
    along_H = slopes @ A + problem.lambda_H * n[:, None] * M
    along_A = slopes.T @ M + problem.lambda_A * A
    standard = (differences * y + problem.lambda_H * n * x) ** 2 / n + (differences * x + problem.lambda_A * y) ** 2
    squares = np.sum(along_H**2 / n[:, None]) + np.sum(along_A**2) + blocks.others @ standard
    if blocks.bias_kind != "none":
        along_b = surplus(blocks, here.along_C) + blocks.lambda_b * sectors.b
        squares = squares + blocks.outputs @ along_b**2
    return value, float(np.sqrt(squares))
