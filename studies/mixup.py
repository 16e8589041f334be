"""Mixup: where the features of mixed samples lie in the plane of their two classes.

Certified minima of samples mixed of two classes, λ of one and 1−λ of the other, with targets mixed alike (Fisher et al.
2024). With squared error mixed features lie on the straight segment between those of the classes. With cross-entropy
they move towards the sum of both as decay falls, though no faster than 1/log(1/ĉ), onto a short channel along a_i − a_j
that only λ close to 1 leave for a class; there the difference of their two logits is log(λ/(1−λ)).
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show
from ufm.theory import regression, symmetric_designs

LOSSES = {"cross-entropy": ufm.CrossEntropy(), "squared error": ufm.SquaredError()}
CURVE = 1 / (1 + np.exp(-np.linspace(-12.0, 12.0, 201)))  # λ of theory's curves, dense at both ends
FAINT = 1e-7  # ĉ down to which theory's curves go
BELOW = 0.95  # of the decay from which nothing is learnt


@dataclasses.dataclass(frozen=True)
class Config:
    """What is mixed, and the decays."""

    num_classes: int = 4
    """K, number of classes, at least 3: the features of two span a line only."""
    mixed: tuple[float, ...] = (0.5, 0.6, 0.75, 0.9, 0.98)
    """λ of mixed samples, from ½ on: those below are the same pairs in the other order."""
    per_pair: int = 1
    """Samples of each ordered pair of classes at each λ."""
    per_class: int = 4
    """Samples of each class alone."""
    dim: int = 16
    """d, dimension of the features."""
    smallest: float = 1e-3
    """ĉ = √(N λ_A λ_H) at the lower end, for λ_A = N λ_H; the upper one is where nothing is learnt."""
    points: int = 13
    """How many ĉ, log-spaced."""
    drawn: int = 4
    """At how many of them the plane is drawn."""
    output: pathlib.Path = pathlib.Path("figures/mixup.png")
    """Figure to write; the data goes beside it as .npz."""

    def __post_init__(self):
        if self.num_classes < 3 or not all(0.5 <= lam < 1 for lam in self.mixed) or not self.mixed:
            raise ValueError(
                f"num_classes = {self.num_classes} and mixed = {self.mixed}: at least 3 classes, and λ from ½ to below "
                "1, are needed"
            )


def data(config: Config) -> xarray.Dataset:
    """Features and logits of the pairs of two classes, over both losses, ĉ and λ, with what theory says of them."""
    samples = dict.fromkeys(config.mixed, config.per_pair)
    targets = ufm.targets.mixup(config.num_classes, samples, config.per_class)
    first = problem_of(config, targets, "cross-entropy", config.smallest)
    collapse = ufm.predict(first).thresholds["c at total collapse"] * np.sqrt(targets.num_samples)
    prices = np.geomspace(config.smallest, BELOW * collapse, config.points)
    keys = itertools.product(LOSSES, prices.tolist())
    problems = {key: problem_of(config, targets, *key) for key in keys}
    bests = ufm.minimize(list(problems.values()))
    rows = np.asarray(targets.rows)
    of_pair = np.flatnonzero(rows[:, :2].sum(axis=1) == 1)  # mixed of the first two classes, or one of them
    of_pair = of_pair[np.argsort(rows[of_pair, 0])]
    measured = [in_plane(best, of_pair) for best in bests]
    predicted = [theory(problem, config.num_classes, *key) for key, problem in problems.items()]
    claims = [ufm.verify(best).claims for best in bests]
    held = [sum(claim.verdict == ufm.Verdict.HOLDS for claim in each) for each in claims]
    axes, shape = ("loss", "price"), (len(LOSSES), len(prices))

    def over(name: str, tables: list[dict[str, np.ndarray]]) -> np.ndarray:
        return np.reshape([each[name] for each in tables], (*shape, -1))

    return xarray.Dataset(
        {
            **{name: ((*axes, "lam"), over(name, measured)) for name in measured[0]},
            **{f"predicted/{name}": ((*axes, "curve"), over(name, predicted)) for name in predicted[0]},
            "gap": (axes, np.reshape([best.gap / best.value for best in bests], shape)),
            "claims": (axes, np.reshape([len(each) for each in claims], shape)),
            "claims_held": (axes, np.reshape(held, shape)),
            **further(config, targets, float(prices[-1])),
            "num_classes": config.num_classes,
            "drawn": config.drawn,
        },
        coords={"loss": list(LOSSES), "price": prices, "lam": rows[of_pair, 0], "curve": CURVE},
    )


def problem_of(config: Config, targets: ufm.Targets, loss: str, price: float) -> ufm.Problem:
    """With a free bias, λ_A = ĉ and N λ_H = ĉ."""
    lambda_H = price / targets.num_samples
    return ufm.Problem(targets=targets, dim=config.dim, loss=LOSSES[loss], lambda_A=price, lambda_H=lambda_H)


def in_plane(best: ufm.Optimum, of_pair: np.ndarray) -> dict[str, np.ndarray]:
    """Of groups mixed of the first two classes: features along a_0 − a_1 and a_0 + a_1, and differences of logits.

    In units of the norm of the classes' own features.
    """
    unit = np.linalg.norm(best.means[of_pair[-1]])
    H, (a, b) = best.means[of_pair] / unit, best.A[:2]
    logits = best.means[of_pair] @ best.A[:2].T + best.b[:2]
    return {
        "along": H @ (a - b) / np.linalg.norm(a - b),
        "across": H @ (a + b) / np.linalg.norm(a + b),
        "difference": logits[:, 0] - logits[:, 1],
    }


def theory(problem: ufm.Problem, num_classes: int, loss: str, price: float) -> dict[str, np.ndarray]:
    """The same at the λ of `CURVE`, of which no sample need be: features are Aᵀz but for a factor."""
    pairs = np.pad(np.stack([CURVE, 1 - CURVE], axis=1), ((0, 0), (0, num_classes - 2)))
    logits = logits_of_pairs if loss == "cross-entropy" else logits_on_segments
    Z, alone = logits(problem, pairs, price)
    unit, K = np.linalg.norm(alone), num_classes  # A has the Gram of a simplex
    return {
        "along": (Z[:, 0] - Z[:, 1]) / (unit * np.sqrt(2)),
        "across": (Z[:, 0] + Z[:, 1]) / (unit * np.sqrt(2 * (K - 2) / K)),
        "difference": Z[:, 0] - Z[:, 1],
    }


def further(config: Config, targets: ufm.Targets, largest: float) -> dict[str, Any]:
    """Theory of cross-entropy down to ĉ that are far below those of the minima, along a price of its own."""
    prices = np.geomspace(FAINT, largest, 30)
    problems = [problem_of(config, targets, "cross-entropy", price) for price in prices.tolist()]
    posed = zip(problems, prices.tolist(), strict=True)
    found = [theory(problem, config.num_classes, "cross-entropy", price) for problem, price in posed]
    tables = {f"further/{name}": (("further", "curve"), [each[name] for each in found]) for name in ("along", "across")}
    return {**tables, "further_price": ("further", prices)}


def logits_of_pairs(problem: ufm.Problem, pairs: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """Centred logits of targets (n, K), and of a class alone, with cross-entropy: rows decouple but for one number."""
    solved = symmetric_designs.design(problem)
    assert solved is not None  # below total collapse
    return symmetric_designs.rows_at(pairs, np.full(len(pairs), solved.sigma / price)), solved.Z[0]


def logits_on_segments(problem: ufm.Problem, pairs: np.ndarray, price: float) -> tuple[np.ndarray, np.ndarray]:
    """The same with squared error: affine in the target."""
    kept = 1 - price / regression.spectrum(problem).s[0]
    K = pairs.shape[1]
    centred = kept * (np.concatenate([pairs, np.eye(K)]) - 1 / K)
    return centred[: len(pairs)], centred[len(pairs)]


def draw(table: xarray.Dataset) -> plot.Figure:
    """The plane of two classes with either loss above; logits over λ, and how far towards the sum, below."""
    made, ((channel, segment), (logits, heights)) = plot.figure(2, 2, width=11.0, height=7.0)
    prices = np.unique(np.linspace(0, table.price.size - 1, int(table.drawn)).round().astype(int))
    for axis, loss in ((channel, "cross-entropy"), (segment, "squared error")):
        draw_plane(axis, table.sel(loss=loss), prices)
    channel.plot(table["further/along"][0], table["further/across"][0], "k:", lw=1.4, label=f"theory: ĉ = {FAINT:.0e}")
    channel.set(title="Cross-entropy: a channel at the sum of both classes")
    segment.set(title="Squared error: the straight segment")
    for axis in (channel, segment):
        handles, labels = axis.get_legend_handles_labels()
        marks = axis.legend(handles[: len(prices)], labels[: len(prices)], loc="upper left", frameon=False)
        axis.legend(handles[len(prices) :], labels[len(prices) :], loc="upper right", frameon=False)
        axis.add_artist(marks)
    draw_logits(logits, table.sel(loss="cross-entropy"), prices)
    draw_heights(heights, table)
    return made


def draw_plane(axis, table: xarray.Dataset, prices: np.ndarray) -> None:
    """Features of pairs, those of the two classes, and their midpoint and sum."""
    K = int(table.num_classes)
    x, y = np.sqrt(K / (2 * (K - 1))), np.sqrt((K - 2) / (2 * (K - 1)))  # of a class
    for colour, mark, index in zip(plot.COLOURS, plot.MARKS, prices[::-1], strict=False):
        at = table.isel(price=index)
        axis.plot(at.along, at.across, mark, color=colour, ms=5, alpha=0.8, label=f"ĉ = {float(at.price):.2g}")
        axis.plot(at["predicted/along"], at["predicted/across"], "k--", lw=0.9)
    axis.plot([], [], "k--", lw=0.9, label="theory: any λ")
    axis.plot([0, 0], [y, 2 * y], "+", color="black", ms=9)
    places = ((x, y, "$h_i$", (0, -14)), (-x, y, "$h_j$", (0, -14)))
    middle = ((0, y, "$(h_i + h_j)/2$", (0, -16)), (0, 2 * y, "$h_i + h_j$", (0, 8)))
    for right, up, said, offset in (*places, *middle):
        axis.annotate(said, (right, up), xytext=offset, textcoords="offset points", ha="center")
    axis.set(xlabel="along $a_i − a_j$, over $‖h_i‖$", ylabel="along $a_i + a_j$, over $‖h_i‖$", aspect="equal")
    axis.set(xlim=(-1.5 * x, 1.5 * x), ylim=(0.6 * y, 2.3 * y))


def draw_logits(axis, table: xarray.Dataset, prices: np.ndarray) -> None:
    """By how much one class's logit exceeds the other's, against the odds of the mixture."""
    odds = np.log(CURVE / (1 - CURVE))
    lam = table.lam.values
    inner = (lam > 0) & (lam < 1)
    for colour, mark, index in zip(plot.COLOURS, plot.MARKS, prices[::-1], strict=False):
        at = table.isel(price=index)
        x = np.log(lam[inner] / (1 - lam[inner]))
        axis.plot(x, at.difference[inner], mark, color=colour, ms=5, alpha=0.8, label=f"ĉ = {float(at.price):.2g}")
        axis.plot(odds, at["predicted/difference"], "k--", lw=0.9)
    axis.plot([], [], "k--", lw=0.9, label="theory: any λ")
    axis.plot(odds, odds, "k:", lw=1.4, label="theory, ĉ → 0: log(λ/(1−λ))")
    most = 1.15 * float(np.log(lam[inner].max() / (1 - lam[inner].max()))) + 1.0
    axis.set(xlim=(-most, most), ylim=(-most, most), xlabel="log(λ/(1−λ))", ylabel="difference of both logits")
    axis.set(title="Cross-entropy: the mixture's odds are learnt")
    axis.legend(loc="upper left", frameon=False)


def draw_heights(axis, table: xarray.Dataset) -> None:
    """How large a part of the sum of both classes' features a mixed one has, against ĉ."""
    unit = 2 * table.across.isel(lam=-1)  # of h_i + h_j
    lams = [lam for lam in table.lam.values if 0.5 <= lam < 1]
    cross, squared = (table.sel(loss=loss) for loss in LOSSES)
    for colour, mark, lam in zip(plot.COLOURS, plot.MARKS, lams, strict=False):
        height = cross.across.sel(lam=lam) / unit.sel(loss="cross-entropy")
        axis.plot(table.price, height, mark, color=colour, ms=5, label=f"λ = {lam:g}")
        axis.plot(table.further_price, predicted_height(table, lam), "k--", lw=0.9)
    axis.plot([], [], "k--", lw=0.9, label="theory, cross-entropy")
    height = squared.across.sel(lam=lams[0]) / unit.sel(loss="squared error")
    axis.plot(table.price, height, "x", color="#666666", ms=5, label="squared error, every λ")
    axis.axhline(0.5, color="black", ls="-.", lw=0.9, label="theory, squared error: ½")
    axis.set(xscale="log", xlabel="ĉ = √(N λ_A λ_H)", ylabel="part of $h_i + h_j$", ylim=(0.45, 1.15))
    axis.set(title="Less decay, nearer to the sum")
    axis.legend(loc="upper right", frameon=False, ncols=2)


def predicted_height(table: xarray.Dataset, lam: float) -> np.ndarray:
    """Theory's height at one λ over twice that of a class alone."""
    K = int(table.num_classes)
    heights = [np.interp(lam, CURVE, row) for row in table["further/across"].values]
    return np.asarray(heights) / (2 * np.sqrt((K - 2) / (2 * (K - 1))))


def summary(table: xarray.Dataset) -> None:
    """Print how far the minima are from theory, and where the middle of a pair is."""
    middle = float(table.lam[np.argmin(np.abs(table.lam.values - 0.5))])
    part = table.across.sel(lam=middle) / (2 * table.across.isel(lam=-1))
    rows = [
        ["certified minima", table.gap.size],
        ["largest relative gap", float(table.gap.max())],
        ["claims of theorems that hold", f"{int(table.claims_held.sum())} of {int(table.claims.sum())}"],
        ["largest distance from the segment, squared error", off_segment(table.sel(loss="squared error"))],
    ]
    show(["quantity", "measured"], rows)
    rows = [[f"ĉ = {float(price):.3g}", *part.sel(price=price).values.tolist()] for price in table.price]
    show([f"part of h_i + h_j at λ = {middle:g}", *map(str, table.loss.values)], rows)


def off_segment(table: xarray.Dataset) -> float:
    """Of mixed features from λ h_i + (1−λ) h_j, in units of a class's norm."""
    lam, found = table.lam.values, np.stack([table.along.values, table.across.values])
    segment = lam * found[..., -1:] + (1 - lam) * found[..., :1]
    return float(np.max(np.linalg.norm(found - segment, axis=0)))


def main(config: Config) -> None:
    """Minimise, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
