"""The Hessian at a balanced optimum, block by block of its symmetry under permutations of the classes.

Let x Q and a Q be the features' scaled means √n M and the classifier, QQᵀ = P = I − J/K; under squared error the common
mode J/K can be alive too, with x₁ and a₁ of its own. In the K − 1 dimensions that the means span moves are F Q and G Q,
with K×K matrices F and G whose rows sum to zero. With the pull U = −√n ∂(risk)/∂Z̄, which is c on P and c_J on J/K,

    2 d²f = (1/K) Σ_k ⟨dz_k, ∇²ℓ_k dz_k⟩ − 2c⟨PF, G⟩ − 2c_J⟨(J/K)F, G⟩ + λ_H‖F‖² + λ_A‖G‖² + λ_b‖db‖²,
    dZ = (a F + x Gᵀ)/√n + 1dbᵀ.

∇²ℓ_k is `across` on rows that sum to zero, with `own` more for the square of the own class's entry, and `shift` on
rows that are constant. F and G are of R^K ⊗ (K − 1) = 1 + 2·standard + symmetric + antisymmetric, the bias of 1 +
standard: a few numbers for each representation, whose Hessian is a small matrix, as often as that has dimensions. Moves
out of the span don't touch the logits; moves of samples about their means meet λ_H and their own ∇²ℓ_k alone.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ufm._core.spectra import Spectrum, lines
from ufm.model.losses import CrossEntropy, LabelSmoothing, SquaredError
from ufm.model.problem import Problem, relaxed_rank
from ufm.theory.formulas import common_weight, is_about, is_plain, margin_price, near, smoothing

TOUCHED = 1e-9  # relative: what an eigenvector does to a metric, or an eigenvalue is, that is more than rounding


class Mode(NamedTuple):
    """Eigenvectors of one eigenvalue that are alike.

    Attributes:
        value: the eigenvalue.
        multiplicity: how many there are.
        moves: what changes to first order (of nc1 and trace_ratio, which are squares: in its root) along them. Samples
            about their means also move "beyond" the means' span or along the "common" mode, where nc1 sees them once
            the span tilts there, by "tilt beyond" or "tilt common"; and the features' "mean" moves, in the span or, by
            "mean beyond", out of it, as that of the classifier's "rows beyond".
        of_logits: whether the logits that the loss sees do.
        invariant: whether permutations of the classes leave them as they are.
    """

    value: float
    multiplicity: int
    moves: tuple[str, ...] = ()
    of_logits: bool = True
    invariant: bool = False


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Optimum:
    """A balanced problem's optimum, with what its Hessian is made of; all for class weights of 1.

    Attributes:
        K, n, q: classes, samples of each, and dimensions that the means don't span.
        lambda_A, lambda_H, lambda_b: weight decay.
        c, common: pulls on P and on J/K.
        bias: whether there is one.
        alive: whether the common mode is.
        a, x, a1, x1: sizes of classifier and features on P and on J/K.
        across, own, shift: second derivatives of the loss.
    """

    K: int
    n: int
    q: int
    lambda_A: float
    lambda_H: float
    lambda_b: float
    c: float
    common: float
    bias: bool
    alive: bool
    a: float
    x: float
    a1: float
    x1: float
    across: float
    own: float
    shift: float

    @property
    def radial(self) -> float:
        """⟨v, ∇²ℓ_k v⟩ of the unit vector v along e_k − 1/K."""
        return self.across + self.own * (self.K - 1) / self.K


def applies(problem: Problem) -> bool:
    """Whether `optimum` knows a problem's: balanced, not collapsed to zero, with dimensions enough."""
    known = is_plain(problem, CrossEntropy, LabelSmoothing, SquaredError) and problem.balanced
    if not known or problem.dim < relaxed_rank(problem):
        return False
    price, lives = problem.num_classes * margin_price(problem), 1.0 - smoothing(problem)
    at_kink = is_about(problem, SquaredError) and near(price, common_weight(problem))
    return price < lives and not near(price, lives) and not at_kink


def modes(problem: Problem) -> tuple[Mode, ...]:
    """The Hessian's eigenvalues at a problem's optimum; of weight w those of 1 with decays λ/w, times w."""
    found, w = _optimum(problem), float(problem.group_weights[0])
    blocks = (_trivial, _standard, _symmetric, _antisymmetric, _beyond, _within)
    kept = (mode for block in blocks for mode in block(found) if mode.multiplicity > 0)
    return tuple(mode._replace(value=w * mode.value) for mode in kept)


def spectrum(problem: Problem) -> Spectrum:
    """The same as lines."""
    found = modes(problem)
    return lines(np.array([mode.value for mode in found]), np.array([mode.multiplicity for mode in found]))


def _optimum(problem: Problem) -> Optimum:
    """The optimum's numbers, from the theorems of the simplex ETF and of the orthogonal frame."""
    K, n, w = problem.num_classes, int(problem.class_counts[0]), float(problem.group_weights[0])
    decays = {name: float(getattr(problem, name)) / w for name in ("lambda_A", "lambda_H", "lambda_b")}
    kappa, root = margin_price(problem), np.sqrt(n)
    if is_about(problem, SquaredError):
        mu = common_weight(problem)
        alive = mu > K * kappa
        margin, margin1 = 1.0 - K * kappa, 1.0 - K * kappa / mu if alive else 0.0
        across, own, shift = 1.0, 0.0, 1.0
        common = min(kappa, mu / K) / root
    else:
        wrong = kappa + smoothing(problem) / K
        margin, margin1 = float(np.log1p(-(K - 1) * wrong) - np.log(wrong)), 0.0
        across, own, shift = wrong, K * wrong * (1.0 - K * wrong), 0.0
        alive, common = False, 0.0
    ratio = np.sqrt(problem.lambda_H / problem.lambda_A)  # a/x, as both decays weigh alike
    return Optimum(
        K=K,
        n=n,
        q=problem.dim - (K - 1) - alive,
        **decays,
        c=kappa / root,
        common=common,
        bias=bool(problem.bias),
        alive=alive,
        a=float(np.sqrt(margin * root * ratio)),
        x=float(np.sqrt(margin * root / ratio)),
        a1=float(np.sqrt(margin1 * root * ratio)),
        x1=float(np.sqrt(margin1 * root / ratio)),
        across=across,
        own=own,
        shift=shift,
    )


class _Block:
    """A quadratic form in a few numbers by name, of which the moves of one representation are combinations."""

    def __init__(self, **decays: float):
        self.names = list(decays)
        self.matrix = np.diag(list(decays.values())).astype(float)
        self.logits: list[np.ndarray] = []

    def row(self, **weights: float) -> np.ndarray:
        """A linear function of the numbers, by name; those that the block lacks are zero."""
        return np.array([weights.get(name, 0.0) for name in self.names])

    def pulled(self, one: str, other: str, by: float) -> None:
        """Take 2 `by` times the product of two numbers off, where the block has them."""
        if one in self.names:
            pair = [self.names.index(one), self.names.index(other)]
            self.matrix[pair, pair[::-1]] -= by

    def seen(self, weight: float, row: np.ndarray) -> None:
        """Add a weight times the square of a linear function, which the loss sees of the logits."""
        self.matrix += weight * np.outer(row, row)
        self.logits.append(np.sqrt(weight) * row)

    def modes(self, multiplicity: int, responses: dict[str, list[np.ndarray]] | None = None) -> Iterator[Mode]:
        """One for each eigenvector, with what has a response that is not zero along it."""
        values, vectors = np.linalg.eigh(self.matrix)
        for value, vector in zip(values, vectors.T, strict=True):
            moved = tuple(name for name, rows in (responses or {}).items() if _touched(rows, vector))
            yield Mode(float(value), multiplicity, moved, _touched(self.logits, vector))


def _touched(rows: list[np.ndarray], vector: np.ndarray) -> bool:
    """Whether a response is more than rounding along a unit vector."""
    return bool(np.linalg.norm(np.array(rows) @ vector) > TOUCHED * np.linalg.norm(rows)) if rows else False


def _trivial(at: Optimum) -> Iterator[Mode]:
    """F, G ∝ P, the sizes; and F, G ∝ J/K where that is alive, with the bias's mean."""
    root = np.sqrt(at.n)
    sizes = _Block(f=at.lambda_H, g=at.lambda_A)
    sizes.pulled("f", "g", at.c)
    sizes.seen(at.radial / at.K, sizes.row(f=at.a, g=at.x) / root)
    yield from (mode._replace(invariant=True) for mode in sizes.modes(1))
    shared = _Block(**({"f": at.lambda_H, "g": at.lambda_A} if at.alive else {}), **_bias(at))
    shared.pulled("f", "g", at.common)
    shared.seen(at.shift / at.K, shared.row(f=at.a1 / root, g=at.x1 / root, b=np.sqrt(at.K)))
    yield from (mode._replace(invariant=True) for mode in shared.modes(1))


def _standard(at: Optimum) -> Iterator[Mode]:
    """Of a unit u with sum zero: W = P diag(u) P √(K/(K−2)) in f, g; 1uᵀ/√K in f1, g1; u1ᵀ/√K in f2, g2; b ∝ u.

    W's own entries are √(1−2/K) u, and what normalising the means' norms takes off nc2 and nc3 leaves them moved.
    """
    of_pairs = {"f": at.lambda_H, "g": at.lambda_A} if at.K > 2 else {}
    of_common = {"f2": at.lambda_H, "g2": at.lambda_A} if at.alive else {}
    block = _Block(**of_pairs, f1=at.lambda_H, g1=at.lambda_A, **of_common, **_bias(at))
    for one, other, by in (("f", "g", at.c), ("f1", "g1", at.common), ("f2", "g2", at.c)):
        block.pulled(one, other, by)
    root = np.sqrt(at.n)
    of_pair = block.row(f=at.a, g=at.x) / root
    of_mean = block.row(f1=at.a / root, g2=at.x1 / root, b=np.sqrt(at.K))
    of_rows = block.row(g1=at.x, f2=at.a1) / root
    block.seen(at.across / at.K, of_pair)
    block.seen(at.across / at.K, of_mean)
    block.seen(at.own / at.K, np.sqrt(1 - 2 / at.K) * of_pair + of_mean / np.sqrt(at.K))
    block.seen(at.shift / at.K, of_rows)
    shapes = [block.row(f=at.a), block.row(g=at.x)]
    responses = {"nc2": shapes[:1] if at.K > 2 else [], "nc3": [*shapes, of_rows], "tilt common": [block.row(f2=1.0)]}
    responses["mean"] = [block.row(f1=1.0)]
    yield from block.modes(at.K - 1, responses)


def _symmetric(at: Optimum) -> Iterator[Mode]:
    """F = f W and G = g W of symmetric W without diagonal, whose rows sum to zero."""
    block = _Block(f=at.lambda_H, g=at.lambda_A)
    block.pulled("f", "g", at.c)
    of_logits = block.row(f=at.a, g=at.x) / np.sqrt(at.n)
    block.seen(at.across / at.K, of_logits)
    yield from block.modes(at.K * (at.K - 3) // 2, {"nc2": [block.row(f=at.a)], "nc3": [of_logits]})


def _antisymmetric(at: Optimum) -> Iterator[Mode]:
    """F = f W and G = g W of antisymmetric W: both factors rotate, which is free where they do so together."""
    block = _Block(f=at.lambda_H, g=at.lambda_A)
    block.pulled("f", "g", at.c)
    of_logits = block.row(f=at.a, g=-at.x) / np.sqrt(at.n)
    block.seen(at.across / at.K, of_logits)
    yield from block.modes((at.K - 1) * (at.K - 2) // 2, {"nc3": [of_logits]})


def _beyond(at: Optimum) -> Iterator[Mode]:
    """Dimensions that the means don't span: logits stay, and only the pull joins the factors."""
    named = {"tilt beyond": "f"}, {"mean beyond": "f", "rows beyond": "g"}
    for pull, multiplicity, names in zip((at.c, at.common), (at.K - 1, 1), named, strict=True):
        block = _Block(f=at.lambda_H, g=at.lambda_A)
        block.pulled("f", "g", pull)
        yield from block.modes(at.q * multiplicity, {name: [block.row(**{of: 1.0})] for name, of in names.items()})


def _within(at: Optimum) -> Iterator[Mode]:
    """Samples about their means: what of it the means' span sees is nc1, all is the ratio of traces."""
    several, scale = at.K * (at.n - 1), 1.0 / (at.K * at.n)
    inside = ("nc1", "trace_ratio")
    yield Mode(at.lambda_H + scale * at.across * at.a**2, several * (at.K - 2), inside)
    yield Mode(at.lambda_H + scale * at.radial * at.a**2, several, inside)
    yield Mode(at.lambda_H + scale * at.shift * at.a1**2, several * at.alive, ("trace_ratio", "common"))
    yield Mode(at.lambda_H, several * at.q, ("trace_ratio", "beyond"), of_logits=False)


def _bias(at: Optimum) -> dict[str, float]:
    return {"b": at.lambda_b} if at.bias else {}
