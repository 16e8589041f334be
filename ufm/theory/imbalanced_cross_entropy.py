"""Cross-entropy and label smoothing on imbalanced classes: which classes merge, and two groups solved exactly."""

from typing import Any

import numpy as np

from ufm.model.losses import CrossEntropy, LabelSmoothing
from ufm.model.problem import Problem
from ufm.theory._scalar import newton
from ufm.theory._zero_point import at_zero, collapse
from ufm.theory.formulas import TOTAL, WITHIN, decay_scale, factor_norms, is_plain, known_bias, near, smoothing
from ufm.theory.registry import Prediction, theorem


def _kinds(problem: Problem) -> list[np.ndarray]:
    """The classes of each kind, which are those of one count and weight; the largest w²n first."""
    n, w = problem.class_counts, problem.group_weights
    # count and weight of a class as (w²n, n), by which `unique` sorts
    kinds, kind_of_class = np.unique(np.stack([w**2 * n, n], axis=1), axis=0, return_inverse=True)
    return [np.flatnonzero(kind_of_class.ravel() == i) for i in reversed(range(len(kinds)))]


def _reach(problem: Problem) -> np.ndarray:
    """(K,) the c up to which a class differs from another of the same count and weight: (1−α) w √n/N."""
    return (1 - smoothing(problem)) * problem.group_weights * np.sqrt(problem.class_counts) / problem.num_samples


def _merging(problem: Problem) -> list[np.ndarray]:
    """Kinds of at least two classes that c reaches."""
    c, reach = decay_scale(problem), _reach(problem)
    return [kind for kind in _kinds(problem) if len(kind) > 1 and c >= reach[kind[0]]]


def _merge_thresholds(problem: Problem) -> dict[str, float]:
    reach = _reach(problem)
    first = [kind[0] for kind in _kinds(problem) if len(kind) > 1]
    return {f"c at which class {k} merges with its like": float(reach[k]) for k in first}


def _rank(problem: Problem) -> int:
    """The largest rank that logits can have at the optimum of the convex form."""
    return problem.num_classes - 1 - sum(len(kind) - 1 for kind in _merging(problem))


def _is_smoothed(problem: Problem) -> bool:
    return is_plain(problem, CrossEntropy, LabelSmoothing)


@theorem(
    "total collapse",
    paper="Dang et al. 2024",
    family="imbalanced classes",
    assumes="cross-entropy or label smoothing, weight decay on A and H; any counts, class weights, bias and d",
    applies=lambda problem: _is_smoothed(problem) and not (problem.balanced and problem.dim >= problem.num_classes - 1),
)
def total_collapse(problem: Problem) -> Prediction:
    """Whether the minimiser is the zero point, and then its value and bias.

    At A = H = 0 with the best bias let U = −∂(mean loss)/∂Z, rows w_k(T_k − softmax b)/N for targets T_k. If ‖U‖_op ≤ c
    the zero point is a global minimum by convexity; else a rank-one step along the top singular pair descends, for any
    d. Without bias ‖U‖_op = √λ_max(PDP)/N; with a free one b = log of the mean target and, with equal weights,
    ‖U‖_op = (1−α)√λ_max(D − nnᵀ/N)/N. Trap: decided by the largest mode, long after minorities have died.
    """
    return collapse(problem)


@theorem(
    "minority collapse",
    paper="Fang et al. 2021; Dang et al. 2024",
    family="imbalanced classes",
    assumes="cross-entropy or label smoothing, imbalanced, weight decay on A and H, d ≥ rank of the optimal logits",
    applies=lambda problem: _is_smoothed(problem) and not problem.balanced and problem.dim >= _rank(problem),
)
def minority_collapse(problem: Problem) -> Prediction:
    """Which classifier rows coincide: those of equal count n ≤ N² λ_A λ_H, whatever the other classes are.

    In the convex form Σ π_k CE(z_k, k) + c‖D^{1/2}Z̄‖_* average over permutations of the K_B classes of one count n: the
    only part of Z̄ that tells them apart is v(e_k − 1_B/K_B). At v = 0 the K_B logits of a sample are equal, so the loss
    has the slope −(n/N)(K_B − 1) in v whatever the rest is, and the price is c√n(K_B − 1): v = 0 iff c ≥ √n/N. A class
    weight w and smoothing α put (1−α)w in front of √n/N. The transition is continuous.

    Trap: classes of different counts coincide too where both have died, a_j = a_k = 0, which no formula tells. If
    a_j = a_k, then x = e_j − e_k without bias, and some x on j and k with one, has ‖Ux‖² a mean of (1−α)²w²n/N² over
    the two; as ‖U‖_op ≤ c, that excludes it for most problems. The others are left open.
    """
    c, thresholds = decay_scale(problem), _merge_thresholds(problem)
    reached_zero = at_zero(problem).reach
    unclear = c >= reached_zero or near(c, reached_zero) or _may_die(problem)
    if unclear or any(near(c, reach) for reach in thresholds.values()):
        return Prediction(thresholds=thresholds)
    return Prediction(merged=_listed(_merging(problem)), thresholds=thresholds)


def _may_die(problem: Problem) -> bool:
    """Whether classes of different counts are not excluded from coinciding."""
    c, reach = decay_scale(problem), _reach(problem)
    candidates = [float(reach[kind[0]]) for kind in _kinds(problem) if len(kind) == 1 or c >= reach[kind[0]]]
    if len(candidates) < 2 or problem.bias_kind == "none":
        return len(candidates) > 1 and bool(np.mean(np.square(sorted(candidates)[:2])) <= c**2)
    return smoothing(problem) > 0 or min(candidates) <= c


def _listed(groups: list[np.ndarray]) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted((tuple(int(k) for k in group) for group in groups), key=lambda group: (-len(group), group)))


@theorem(
    "two groups of classes",
    paper="Fang et al. 2021; Hong & Ling 2023; Dang et al. 2024",
    family="imbalanced classes",
    assumes="cross-entropy or label smoothing, two kinds of classes by count and weight, weight decay on A and H, any "
    "bias, d ≥ rank of the optimal logits",
    applies=lambda problem: _is_smoothed(problem) and len(_kinds(problem)) == 2 and problem.dim >= _rank(problem),
)
def two_groups(problem: Problem) -> Prediction:
    """Value, geometry and bias of K_A classes of one count and K_B of another, by a convex problem in few variables.

    Averaging the convex form over permutations within groups leaves, with e = 1_A/K_A − 1_B/K_B and ‖e‖² = g²,

        z_k = u(e_k − 1_A/K_A) + α_A e  (k ∈ A),    v(e_k − 1_B/K_B) − α_B e  (k ∈ B),    b = δe,

    whose nuclear norm has three orthogonal parts, √n_A(K_A−1)u + √n_B(K_B−1)v + g√(K_An_Aα_A² + K_Bn_Bα_B²). With the
    two losses that is jointly convex; u = 0 or v = 0 exactly where the group has merged, and α = 0 where the slope of
    the loss there is no more than cg. Trap: α = 0 with u > 0 happens: the whole minority is dead, a = h = 0, while the
    majority still has a shape.
    """
    groups = TwoGroups(problem)
    x, clear = groups.solve()
    known: dict[str, Any] = {
        "value": float(groups.objective(x)),
        "thresholds": {TOTAL: at_zero(problem).reach, **_merge_thresholds(problem)},
    }
    if not clear:
        return Prediction(**known)
    known |= known_bias(problem, x[4] * groups.e)
    shape = groups.shape(x)
    if not np.any(shape["gram_A"]):
        return Prediction(degenerate=True, **known)
    return Prediction(degenerate=False, metrics=WITHIN, **shape, **known)


class TwoGroups:
    """The convex problem in x = (u, v, m_A, m_B, δ), where α_A = m_A − δ and α_B = m_B + δ: the loss doesn't see δ.

    The two groups are the two kinds of classes; arrays of two entries are of the first and the second, `sizes` K_A and
    K_B, `counts` n_A and n_B, `mass` their shares of the risk, `reach` the c at which they merge.
    """

    def __init__(self, problem: Problem):
        self.problem, self.members = problem, _kinds(problem)
        first = [group[0] for group in self.members]
        self.sizes = np.array([len(group) for group in self.members])
        self.counts = problem.class_counts[first]
        self.mass = self.sizes * self.counts * problem.group_weights[first] / problem.num_samples
        self.c, self.alpha, self.reach = decay_scale(problem), smoothing(problem), _reach(problem)[first]
        self.e = np.zeros(problem.num_classes)
        self.e[self.members[0]], self.e[self.members[1]] = 1 / self.sizes[0], -1 / self.sizes[1]
        self.g = float(np.linalg.norm(self.e))
        self.price = self.c * self.g  # of a unit of ‖α‖, stretched
        self.stretch = np.sqrt(self.sizes * self.counts)
        self.most = 3.0, 3.0 / self.g**2  # that a step changes u and v, and the others: a margin's exponential by e³
        own, other = self.sizes, self.sizes[::-1]
        self.rivals = np.stack([own - 1, other], axis=1)  # wrong classes in the group of a sample, and in the other
        zeros, ones = np.zeros(2), np.ones(2)
        # of group i at [i]: minus the two margins, as functions of (r, m)
        self.minus_margins = -np.array([[ones, zeros], [1 - 1 / own, ones * self.g**2]]).transpose(2, 0, 1)
        # α z_y: the targets' uniform part, as logits sum to zero
        self.right = self.alpha * np.stack([1 - 1 / own, 1 / own], axis=1)
        # closer than 1e-8 to merging u is of that order too, and adds 1e-16 to the value
        self.apart = (self.sizes > 1) & (self.c < (1 - 1e-8) * self.reach)

    def solve(self) -> tuple[np.ndarray, bool]:
        """The minimiser, and whether it is clear of every threshold."""
        apart, bias = np.eye(5)[:, :2][:, self.apart], int(self.problem.bias)
        # first with α = 0, where only the bias tells the groups apart
        together = np.hstack([apart, np.array([[0.0], [0.0], [1.0], [-1.0], [1.0]])[:, :bias]])
        x = together @ self._minimum(together, np.append(np.ones(apart.shape[1]), [0.0] * bias))
        pull = float(np.linalg.norm(self.smooth(x)[1][2:4] / self.stretch))
        merges = any(near(self.c, float(reach)) for reach in self.reach[self.sizes > 1])
        clear = not merges and not near(pull, self.price)
        # closer than 1e-12 α is of that order too
        if pull > (1 + 1e-12) * self.price:
            free = np.hstack([apart, np.eye(5)[:, 2 : 4 + bias]])
            x = free @ self._minimum(free, free.T @ self._leaving(x), self.price)
        return x, clear

    def _leaving(self, x: np.ndarray) -> np.ndarray:
        """x moved off α = 0 the way on which the objective falls fastest, while it does.

        From there on no descent comes back to α = 0, where the norm has its kink.
        """
        _, gradient, hessian = self.smooth(x)
        way = np.zeros(5)
        way[2:4] = -gradient[2:4] / self.stretch**2
        way /= np.linalg.norm(self.stretch * way[2:4])
        size = min(-(gradient @ way + self.price) / (way @ hessian @ way), self.most[-1] / np.max(np.abs(way)))
        while self.smooth(x + size * way)[1] @ way + self.price > 0:
            size *= 0.5
        return x + size * way

    def objective(self, x: np.ndarray) -> float:
        """What is minimised."""
        return float(self.smooth(x)[0] + self.price * np.linalg.norm(self.stretched(x)))

    def stretched(self, x: np.ndarray) -> np.ndarray:
        """(2,) √(Kn) α, whose norm is ‖α‖; exactly zero where the solution has it so."""
        return self.stretch * np.array([x[2] - x[4], x[3] + x[4]])

    def smooth(self, x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient and Hessian of all but the norm of α."""
        losses, slopes, curvatures = self._losses(x[:4].reshape(2, 2).T)
        cost = self.c * np.sqrt(self.counts) * (self.sizes - 1)
        decay = self.problem.lambda_b * self.g**2
        value = cost @ x[:2] + decay * x[4] ** 2 / 2 + self.mass @ losses
        gradient, hessian = np.array([*cost, 0.0, 0.0, decay * x[4]]), np.zeros((5, 5))
        gradient[:4] += (self.mass[:, None] * slopes).T.ravel()
        hessian[4, 4] = decay
        for i in (0, 1):
            hessian[i:4:2, i:4:2] = self.mass[i] * curvatures[i]
        return float(value), gradient, hessian

    def shape(self, x: np.ndarray) -> dict[str, Any]:
        """Grams and norms: D^{1/2}Z̄ has singular values √n u, √n v on the groups' centred parts, g‖α‖ along e."""
        K, problem = self.problem.num_classes, self.problem
        stretched = self.stretched(x)
        length = float(np.linalg.norm(stretched))
        values, signs = [self.g * length] * (length > 0), np.zeros(K)
        gram_A, gram_H = length * np.outer(self.e, self.e) / self.g, np.zeros((K, K))
        for i, group in enumerate(self.members):
            s = float(np.sqrt(self.counts[i]) * x[i])
            centred = s * (np.eye(len(group)) - 1 / len(group))
            gram_A[np.ix_(group, group)] += centred
            gram_H[np.ix_(group, group)] += centred / self.counts[i]
            values += [s] * (len(group) - 1) * (s > 0)
            signs[group] = (1 - 2 * i) * stretched[i] / self.stretch[i]
        if length > 0:
            gram_H += self.g * np.outer(signs, signs) / length
        ratio = np.sqrt(problem.lambda_H / problem.lambda_A)
        merged = [group for group, apart in zip(self.members, self.apart, strict=True) if len(group) > 1 and not apart]
        return factor_norms(problem, values) | {
            "gram_A": gram_A,
            "gram_H": gram_H,
            "norms_A": np.sqrt(ratio * np.diag(gram_A)),
            "norms_H": np.sqrt(np.diag(gram_H) / ratio),
            "dead": (np.diag(gram_A) == 0) & (np.diag(gram_H) == 0),
            "merged": _listed(merged),
        }

    def _losses(self, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Losses (2,) of a sample of either group at its (r, m), with gradients (2, 2) and Hessians (2, 2, 2) in them.

        The margins are r over the others of its group, and r(1−1/K_i) + m g² over the other group's.
        """
        J, right = self.minus_margins, self.right
        exponents = np.einsum("ijk,ik->ij", J, margins)
        # log(1 + Σ odds), the right class's being 1, without overflow
        top = np.maximum(exponents.max(axis=1), 0.0)
        odds = self.rivals * np.exp(exponents - top[:, None])
        rest = odds.sum(axis=1)
        total = np.exp(-top) + rest
        values = np.where(top == 0, np.log1p(rest), top + np.log(total))
        p = odds / total[:, None]  # of all wrong classes in the group, and of all in the other
        inner = np.eye(2) * p[:, None] - p[:, :, None] * p[:, None]
        slopes = np.einsum("ijk,ij->ik", J, p) + right
        return values + np.sum(right * margins, axis=1), slopes, J.transpose(0, 2, 1) @ inner @ J

    def _minimum(self, L: np.ndarray, y: np.ndarray, price: float = 0.0) -> np.ndarray:
        """The y that minimises at x = L y with this price of the norm of α, u and v staying positive.

        Where that isn't zero, α is nowhere on the way from y down.
        """
        if not y.size:
            return y
        T = np.stack([self.stretched(column) for column in L.T], axis=1)  # (√(Kn) α) = T y

        def restricted(y: np.ndarray) -> tuple:
            value, gradient, hessian = self.smooth(L @ y)
            gradient, hessian = gradient @ L, L.T @ hessian @ L
            if price > 0:
                length = np.linalg.norm(T @ y)
                along = (T @ y / length) @ T
                value += price * length
                gradient += price * along
                hessian += price / length * (T.T @ T - np.outer(along, along))
            return value, gradient, hessian

        positive = np.arange(len(y)) < np.count_nonzero(self.apart)
        return newton(restricted, y, np.where(positive, *self.most), positive)
