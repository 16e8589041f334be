"""What is timed: sizes, the problems of these sizes, and how well they were solved."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

import ufm
from timing.race import OURS, SAME, Timed, fastest, same

PARTED = 1e-2  # relative, of losses that float32 reaches through ReLUs in a thousand steps


@dataclasses.dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    only: tuple[str, ...] = ()
    """Groups of rows to time; all where none is named."""
    repeats: int = 5
    """Runs of each side in the training group."""
    repeats_metrics: int = 3
    """Runs of each side in the metrics group."""
    num_classes: int = 10
    """K of the trained problem."""
    dim: int = 64
    """d of the trained problem."""
    per_class: int = 100
    """Samples of each class of the trained problem."""
    lambda_A: float = 5e-3
    """Weight decay of its classifier."""
    lambda_H: float = 5e-5
    """Weight decay of its features."""
    learning_rate: float = 0.5
    """Of gradient descent."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 2000
    """Optimiser steps."""
    snapshots: int = 100
    """How often every metric is recorded in the row that records; 2 in the others."""
    measured_classes: int = 100
    """K of the measured features."""
    measured_dim: int = 2048
    """d of the measured features."""
    measured_samples: int = 50_000
    """N of the measured features."""
    recorded: tuple[int, int, int, int] = (200, 600, 50, 128)
    """Batches fed to a recorder, their mean size, K and d."""
    batch: int = 256
    """Problems of the certified group, decays λ_A log-spaced over [1e-5, 1e-2]."""
    peer_problems: int = 3
    """How many of them the peers solve, once."""
    soft_groups: int = 30
    """Groups of the problems with soft labels, beside as many as classes."""
    regressed: tuple[int, int] = (1_000_000, 20)
    """Samples and outputs of the regression."""
    sweep_side: int = 64
    """Values of each decay of the swept grid, λ_A over [1e-5, 1e-2] and λ_H over [5e-7, 5e-5]."""
    repeats_sweeps: int = 3
    """Runs of each side in the sweeps group."""
    hidden: tuple[int, ...] = (64, 64, 64)
    """Widths of the deep problem that is trained."""
    lambda_W: float = 5e-4
    """Weight decay of its hidden layers."""
    deep_steps: int = 1000
    """Optimiser steps on it."""
    certified_widths: tuple[int, ...] = (64, 64)
    """Of the deep linear problems that are certified: with features and classifier four factors."""
    vocabulary: int = 16_384
    """K and N of the vocabulary group."""
    vocabulary_dim: int = 256
    """Its d."""
    vocabulary_batches: tuple[int, int] = (8, 4096)
    """Batches that a recorder is fed of it, and their size."""
    vocabulary_steps: int = 3
    """Its optimiser steps."""
    alone: tuple[tuple[int, tuple[float, ...]], ...] = ((100, (1e-5, 1e-4)), (300, (1e-6, 1e-5, 5e-5, 2e-4)))
    """Classes, and prices of each number of them, of problems that are solved alone."""
    repeats_alone: int = 5
    """Runs of ufm in the group of problems alone; its peers run once."""
    many_tailed: int = 30
    """Classes of the long-tailed problem with more of them in the imbalance group."""
    repeats_vocabulary: int = 5
    """Runs of each side in the vocabulary group."""
    output: pathlib.Path = pathlib.Path("figures/benchmark.json")
    """Results to write."""


def posed(config: Config, per_class: Any, **words: Any) -> ufm.Problem:
    """A problem of the trained one's classes and dimensions."""
    return ufm.Problem(config.num_classes, config.dim, per_class=per_class, **words)


def trained(config: Config) -> ufm.Problem:
    """The problem that is trained."""
    return posed(config, config.per_class, lambda_A=config.lambda_A, lambda_H=config.lambda_H)


def deep(config: Config, activation: str) -> ufm.Problem:
    """The same with hidden layers."""
    return dataclasses.replace(trained(config), widths=config.hidden, lambda_W=config.lambda_W, activation=activation)


def squared_errors(config: Config, widths: tuple[int, ...]) -> list[ufm.Problem]:
    """A batch of problems of squared error and linear layers of these widths that differ in the classifier's decay."""
    words = {"loss": ufm.SquaredError(), "widths": widths, "lambda_W": config.lambda_W if widths else None}
    return [
        posed(config, config.per_class, lambda_A=float(decay), lambda_H=5e-6, **words)
        for decay in np.geomspace(1e-5, 1e-2, config.batch)
    ]


def counts(config: Config) -> dict[str, Any]:
    """Samples of each class: as many, and from 1,000 down to 10."""
    return {"balanced": config.per_class, "long-tailed": tail(config.num_classes)}


def tail(num_classes: int) -> tuple[int, ...]:
    """Samples of each class, from 1,000 down to 10."""
    return tuple(int(n) for n in np.round(np.geomspace(1000, 10, num_classes)))


def decays(config: Config, per_class: Any) -> list[ufm.Problem]:
    """A batch of problems that differ in the classifier's decay."""
    return [
        posed(config, per_class, lambda_A=float(decay), lambda_H=5e-6)
        for decay in np.geomspace(1e-5, 1e-2, config.batch)
    ]


def imbalanced(config: Config) -> dict[str, list[ufm.Problem]]:
    """Batches of imbalanced problems without bias: two groups at ratios from 1 to 1,000, long tails over decays.

    Under weight decay, c = 1e-3, the minority of two groups of five classes merges at a ratio of about 200.
    """
    K, L = config.num_classes, config.many_tailed
    groups = [(round(ratio),) * (K - K // 2) + (1,) * (K // 2) for ratio in np.geomspace(1, 1000, config.batch)]
    priced: dict[str, Any] = {"lambda_A": 5e-3, "lambda_H": 2e-4, "bias": False}
    held: dict[str, Any] = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}
    held |= {"features": ufm.MeanBall(), "classifier": ufm.MeanBall()}
    return {
        f"two groups, K = {K}": [posed(config, group, **priced) for group in groups],
        f"two groups layer-peeled, K = {K}": [posed(config, group, **held) for group in groups],
        f"long-tailed, K = {K}": without_bias(decays(config, tail(K))),
        f"long-tailed, K = {L}": without_bias(decays(dataclasses.replace(config, num_classes=L), tail(L))),
    }


def without_bias(problems: list[ufm.Problem]) -> list[ufm.Problem]:
    """The same without bias."""
    return [dataclasses.replace(problem, bias=False) for problem in problems]


def on_spheres(config: Config, per_class: Any) -> list[ufm.Problem]:
    """A batch of problems on spheres that differ in their radius, of temperatures from 1 to 30."""
    held: dict[str, Any] = {"lambda_A": 0.0, "lambda_H": 0.0, "bias": False}
    radii = np.sqrt(np.geomspace(1.0, 30.0, config.batch)).tolist()
    return [posed(config, per_class, features=ufm.Sphere(r), classifier=ufm.Sphere(r), **held) for r in radii]


def soft(config: Config, groups: int) -> list[ufm.Problem]:
    """A batch of problems whose groups have soft labels of their own, at one price."""
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.full(config.num_classes, 0.5), (config.batch, groups))
    counts = random.integers(1, 20, (config.batch, groups))
    made = [ufm.Targets(*each) for each in zip(rows, counts, strict=True)]
    words: dict[str, Any] = {"dim": config.dim, "lambda_A": 1e-3}
    return [ufm.Problem(targets=each, **words, lambda_H=1e-3 / each.num_samples) for each in made]


def regression(config: Config) -> tuple[np.ndarray, ufm.Problem]:
    """Correlated real targets (N, K), and the problem that regresses them."""
    (N, K), random = config.regressed, np.random.default_rng(0)
    Y = random.standard_normal((N, K)) @ random.standard_normal((K, K))
    words: dict[str, Any] = {"loss": ufm.SquaredError(), "lambda_A": 1e-2, "lambda_H": 1e-2 / N}
    return Y, ufm.Problem(targets=ufm.targets.of_samples(Y), dim=config.dim, **words)


def same_minimum(timed: dict[str, Timed]) -> str:
    """A note that the certified minimum is the peer's."""
    best = timed[OURS].result
    assert best.certified
    return same("value", best.value, timed["moments"].result[0])


def grid(config: Config) -> dict[Any, list[float]]:
    """Decays of the swept grid."""
    return {
        "lambda_A": np.geomspace(1e-5, 1e-2, config.sweep_side).tolist(),
        "lambda_H": np.geomspace(5e-7, 5e-5, config.sweep_side).tolist(),
    }


def decayed(problem: ufm.Problem, pairs: list[tuple[float, float]]) -> list[ufm.Problem]:
    """The problem at pairs of decays, λ_A and λ_H."""
    return [dataclasses.replace(problem, lambda_A=a, lambda_H=h) for a, h in pairs]


def unlike(config: Config) -> dict[str, ufm.Problem]:
    """One problem at a time: few classes, and many of counts that all differ, at several prices √(λ_A λ_H)."""
    few = {
        f"K = {config.num_classes}, {name}": posed(config, n, lambda_A=config.lambda_A, lambda_H=config.lambda_H)
        for name, n in counts(config).items()
    }
    return few | {f"K = {K}, price {price:g}": long_tailed(K, price) for K, prices in config.alone for price in prices}


def long_tailed(num_classes: int, price: float) -> ufm.Problem:
    """Counts from 256 K down to K or so, all different."""
    found = np.round(np.geomspace(256.0, 1.0, num_classes) * num_classes).astype(int)
    assert len(set(found)) == num_classes
    return ufm.Problem(num_classes, num_classes, per_class=found, lambda_A=price, lambda_H=price)


def grown(config: Config) -> dict[str, tuple[ufm.Problem, ufm.Problem]]:
    """A problem, and the same with more samples or other dimensions at the same minimum, by what is other."""
    small = ufm.Problem(config.num_classes, 64, per_class=10, lambda_A=5e-3, lambda_H=5e-5)
    changes = ({"per_class": 1000}, {"per_class": 100_000}, {"dim": 10}, {"dim": 4096})
    return {
        ", ".join(f"{name} = {value}" for name, value in words.items()): (
            small,
            dataclasses.replace(small, **words, lambda_H=small.lambda_H * 10 / words.get("per_class", 10)),
        )
        for words in changes
    }


def features(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Random features (N, d) about random means, and their labels (N,)."""
    random = np.random.default_rng(0)
    K, d, N = config.measured_classes, config.measured_dim, config.measured_samples
    labels = np.arange(N) % K
    H = random.standard_normal((N, d), np.float32)
    H += random.standard_normal((K, d), np.float32)[labels]
    return H, labels


def batches(sizes: Any, num_classes: int, dim: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features (n, d) and labels (n,) of batches of these sizes; of all, each class has a sample."""
    random = np.random.default_rng(0)
    of = np.split(np.arange(np.sum(sizes)) % num_classes, np.cumsum(sizes)[:-1])
    means = random.standard_normal((num_classes, dim), np.float32)
    return [(means[labels] + 0.5 * random.standard_normal((len(labels), dim), np.float32), labels) for labels in of]


def spaced(listed: list[Any], number: int) -> list[Any]:
    """Evenly spaced entries of a list, at least so many where it has them."""
    return listed[:: max(len(listed) // number, 1)]


def relative_gap(best: ufm.Optimum) -> float:
    """How far from optimal a solution can be, relative to its value."""
    return best.gap / best.value


def largest_gap(timed: dict[str, Timed]) -> str:
    """A note on our gaps, all of which are certified."""
    found = timed[OURS].result
    assert all(best.certified for best in found)
    return f"largest relative gap {max(map(relative_gap, found)):.0e}"


def gaps(problems: list[ufm.Problem], timed: dict[str, Timed]) -> str:
    """A note on the relative gaps reached, each to the lower bound at the peer's own parameters."""
    _, peer = fastest(timed)
    theirs = [
        (p.objective(q) - ufm.lower_bound(p, q)) / p.objective(q) for p, q in zip(problems, peer.result, strict=True)
    ]
    ours = max(map(relative_gap, timed[OURS].result))
    return f"worst relative gap {ours:.1e}, peer's {max(theirs):.1e}"


def program_gaps(some: list[ufm.Optimum], timed: dict[str, Timed]) -> str:
    """A note on relative gaps, ours and of the values that the fastest peer says where it has one, to our bounds."""
    found = zip(some, fastest(timed)[1].result, strict=True)
    known = [(best, value) for best, value in found if np.isfinite(value)]
    for best, value in known:
        same("value", best.value, value)
    ours = max(map(relative_gap, timed[OURS].result))
    theirs = max((abs(value - best.lower_bound) / best.value for best, value in known), default=np.nan)
    failed = f", which gave up on {len(some) - len(known)} of {len(some)}" if len(known) < len(some) else ""
    return f"worst relative gap {ours:.1e}, peer's {theirs:.1e}{failed}"


def same_loss(problem: ufm.Problem, timed: dict[str, Timed]) -> str:
    """A note that every peer ended at the loss where ufm did; rounding parts runs where it opens and closes ReLUs."""
    within = PARTED if problem.activation == "relu" else SAME
    ours = problem.objective(timed[OURS].result)
    losses = {name: problem.objective(side.result) for name, side in timed.items() if name != OURS}
    notes = {name: same("loss", ours, loss, within) for name, loss in losses.items()}
    return notes[fastest(timed)[0]]


def same_values(problems: list[ufm.Problem], pairs: list[tuple[float, float]], timed: dict[str, Timed]) -> str:
    """A note that the fastest peer's minima are those of a sweep at these pairs of decays, on average."""
    table, peer = timed[OURS].result, fastest(timed)[1]
    ours = [float(table["value"].sel(lambda_A=a, lambda_H=h)) for a, h in pairs]
    theirs = [float(problem.objective(params)) for problem, params in zip(problems, peer.result, strict=True)]
    return same("mean value", float(np.mean(ours)), float(np.mean(theirs)))
