"""Imbalance: rare classes merge, or vanish, at thresholds that are known, and SELI is met logarithmically.

Two kinds of classes, frequent and rare, are minimised under weight decay (Hong & Ling 2023; Dang et al. 2024), and
within mean balls, the layer-peeled model (Fang et al. 2021). From some ratio of their counts on the classifiers of all
rare classes coincide, and from a larger one, where they are few, they are all zero. As decay vanishes without a bias
logits turn to those of simplex-encoded labels (Thrampoulidis et al. 2022): directions like 1/log(1/c), but what a
decade adds to the logits about like 1/log²(1/c), as far as is seen.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro
import xarray
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.optimize import brentq

import ufm
from ufm import plot
from ufm.console import show
from ufm.theory import imbalanced_cross_entropy, seli

MODELS = {"decay": "weight decay", "balls": "mean balls"}
KINDS = ("frequent", "rare")
FACTORS = ("classifier", "features")
FILLS = ("full", "none")
GREY = "#555555"
ALIVE = 1e-6  # of the largest row, from which on a row has a direction
MERGED = 1e-9  # off a cosine of 1, within which rows coincide
LEAST = 1.001  # R from which a threshold is sought: at 1 there are no two kinds
SIDES = np.array([1 - 1e-4, 1 + 1e-4])  # of a threshold, at which minima are looked at
SURE = 1e-10  # relative gap of the minima among which a threshold is sought
REPORTED = (1e-4, 1e-5, 1e-6, 1e-7)  # c, at which what a decade adds to logits is printed


@dataclasses.dataclass(frozen=True)
class Config:
    """The models, and how unequal their classes are."""

    num_classes: int = 10
    """K of the two kinds of classes, and d."""
    frequent: tuple[int, ...] = (3, 5, 7)
    """How many classes are frequent."""
    largest: float = 1e4
    """R, the ratio of the counts, at the upper end."""
    ratios: int = 41
    """How many R, log-spaced from 1."""
    samples: int = 10_000_000
    """Of a frequent class under weight decay."""
    decay: float = 1e-5
    """λ_A = λ_H there."""
    mean_squares: tuple[float, float] = (5.0, 1.0)
    """E_H and E_A, the squared radii of the mean balls of features and classifier; these are the paper's."""
    counts: tuple[int, ...] = (10, 5, 2, 1)
    """Samples of each class where decay vanishes."""
    decades: int = 15
    """How far c = λ_A = λ_H falls below 1; two minima each."""
    output: pathlib.Path = pathlib.Path("figures/imbalance.png")
    """Figure to write; the data goes beside it as .npz."""


def under_decay(config: Config, frequent: int, ratio: float) -> ufm.Problem:
    """Whole counts and weight decay, without a bias."""
    K, n, decay = config.num_classes, config.samples, config.decay
    counts = [n] * frequent + [round(n / ratio)] * (K - frequent)
    return ufm.Problem(K, K, per_class=counts, lambda_A=decay, lambda_H=decay, bias=False)


def within_balls(config: Config, frequent: int, ratio: float) -> ufm.Problem:
    """Mean balls and no weight decay: weights and counts matter by their product alone, so weights make any R."""
    K = config.num_classes
    weights = np.where(np.arange(K) < frequent, 1.0, 1 / ratio)
    H, A = (ufm.MeanBall(radius) for radius in np.sqrt(config.mean_squares))
    balls: dict[str, Any] = {"features": H, "classifier": A, "lambda_H": 0.0, "lambda_A": 0.0, "bias": False}
    return ufm.Problem(K, K, per_class=1, class_weights=weights / weights.mean(), **balls)


POSED = {"decay": under_decay, "balls": within_balls}


def relaxed(config: Config, balls: ufm.Problem, price: float) -> ufm.Problem:
    """Weight decay instead of mean balls, λ_A λ_H = price².

    Whatever the price, its minimum less price · K√(E_H E_A) is at most that within the balls. At the price √(μν), μ and
    ν the balls' multipliers, they are equal, and the minimisers are the same.
    """
    tilt = float(np.sqrt(config.mean_squares[0] / config.mean_squares[1]))
    free = {"features": ufm.Free(), "classifier": ufm.Free(), "lambda_H": price / tilt, "lambda_A": price * tilt}
    return dataclasses.replace(balls, **free)


def size(config: Config) -> float:
    """K√(E_H E_A), what the nuclear norm of class-mean logits is at most within the balls."""
    return config.num_classes * float(np.sqrt(np.prod(config.mean_squares)))


def multiplier(best: ufm.Optimum) -> float:
    """√(μν) at a minimum within balls: stationarity makes it −⟨∇risk, Z⟩/‖Z‖_* of class-mean logits Z."""
    Z = best.means @ best.A.T
    p = np.exp(Z - np.logaddexp.reduce(Z, axis=1, keepdims=True))
    pull = np.asarray(best.problem.class_weights)[:, None] / len(Z) * (np.eye(len(Z)) - p)
    return float(np.sum(pull * Z) / np.linalg.norm(Z, "nuc"))


def data(config: Config) -> xarray.Dataset:
    """Two kinds of classes over their ratio, and the limit of vanishing decay."""
    kinds = over_ratios(config)
    return xarray.merge([kinds, at_thresholds(config, kinds), as_decay_vanishes(config)])


def over_ratios(config: Config) -> xarray.Dataset:
    """Certified minima of both models, and what theory says of them."""
    ratios = np.geomspace(1, config.largest, config.ratios)
    records = [[records_of(config, model, K_A, ratios) for K_A in config.frequent] for model in MODELS]
    return tabulated(config, records, ("model", "frequent", "ratio", "kind"), {"ratio": ratios, "kind": list(KINDS)})


def tabulated(config: Config, records: list, by: tuple[str, ...], coords: dict[str, Any]) -> xarray.Dataset:
    """Nested lists of dictionaries, by model, by how many classes are frequent, and perhaps further."""
    first, further = records[0][0], isinstance(records[0][0], list)
    variables = {}
    for name in first[0] if further else first:
        values = np.array([[[at[name] for at in row] if further else row[name] for row in rows] for rows in records])
        variables[name] = (by[: values.ndim], values)
    return xarray.Dataset(variables, {"model": list(MODELS), "frequent": list(config.frequent)} | coords)


def records_of(config: Config, model: str, frequent: int, ratios: np.ndarray) -> list[dict[str, Any]]:
    """What is measured and predicted of one model at each ratio."""
    bests = ufm.minimize([POSED[model](config, frequent, ratio) for ratio in ratios.tolist()], tol=SURE)
    apart = THRESHOLDS[model][0]
    return [
        measured(best, frequent) | {"apart": apart(best, frequent)} | predicted(config, model, best, frequent)
        for best in bests
    ]


def measured(best: ufm.Optimum, frequent: int) -> dict[str, Any]:
    """Value, relative gap, norms of a row of each kind, and cosines between rare rows."""
    gram, logits = best.A @ best.A.T, best.A @ best.means.T
    return {
        "value": best.value,
        "gap": best.gap / best.value,
        "norm": np.sqrt(np.diag(gram)[[0, -1]]),
        "cosine": cosine(gram, frequent),
        # of the rows of the Gram matrix of features and classifier together, as the paper's code has it
        "gram_cosine": cosine(logits @ logits.T + gram @ gram, frequent),
    }


def predicted(config: Config, model: str, best: ufm.Optimum, frequent: int) -> dict[str, Any]:
    """The same by theory; of mean balls from the weight decay that their multipliers are."""
    price = multiplier(best) if model == "balls" else 0.0
    known: Any = ufm.predict(relaxed(config, best.problem, price) if model == "balls" else best.problem)
    return {
        "predicted/value": known.value - price * size(config),
        "predicted/norm": np.full(2, np.nan) if known.norms_A is None else known.norms_A[[0, -1]],
        "predicted/cosine": np.nan if known.gram_A is None else cosine(known.gram_A, frequent),
    }


def cosine(gram: np.ndarray, frequent: int) -> float:
    """Mean over pairs of rare classes, of rows as they are, which sum to zero; NaN where they vanish."""
    rare, squares = gram[frequent:, frequent:], np.diag(gram)
    if squares[-1] <= ALIVE**2 * squares[0]:
        return float("nan")
    several = len(rare)
    return float((np.sum(rare) / squares[-1] - several) / (several * (several - 1)))


def at_thresholds(config: Config, kinds: xarray.Dataset) -> xarray.Dataset:
    """R from which rare classifiers coincide, and vanish; and what is there on either side of each."""
    apart = [[kinds.apart.sel(model=model, frequent=K_A) for K_A in config.frequent] for model in MODELS]
    records = [[thresholds_of(config, each) for each in several] for several in apart]
    return tabulated(config, records, ("model", "frequent", "side"), {"side": SIDES})


def thresholds_of(config: Config, known: xarray.DataArray) -> dict[str, Any]:
    """Of one model, from how far apart rare classes are at some R; infinite where none is up to the largest R."""
    model, frequent = str(known.model.values), int(known.frequent)
    apart, merging, vanishing = THRESHOLDS[model]
    ratios, gaps = known.ratio.values, []
    low, high = max([LEAST, *ratios[known > 0]]), min([config.largest, *ratios[known < 0]])

    def minima(ratios: list[float]) -> list[ufm.Optimum]:
        bests = ufm.minimize([POSED[model](config, frequent, ratio) for ratio in ratios], tol=SURE)
        gaps.extend(best.gap / best.value for best in bests)
        return bests

    def beside(ratio: float, name: str) -> np.ndarray:
        if np.isinf(ratio):
            return np.full((2, *[2] * (name == "norm")), np.nan)
        return np.array([measured(best, frequent)[name] for best in minima((ratio * SIDES).tolist())])

    found = crossing(lambda ratio: apart(minima([ratio])[0], frequent), low, high)
    gone = crossing(lambda ratio: vanishing(config, frequent, ratio), LEAST, config.largest)
    return {
        "merging": found,
        "predicted/merging": crossing(lambda ratio: merging(config, frequent, ratio), LEAST, config.largest),
        "predicted/vanishing": gone,
        "cosine_beside": beside(found, "cosine"),
        "norm_beside": beside(gone, "norm")[:, 1],
        "sought": len(gaps),
        "sought_gap": max(gaps),
    }


def crossing(excess: Callable[[float], float], low: float, high: float) -> float:
    """R at which what is positive at first becomes negative; infinite where it doesn't."""
    ends, last = np.log([low, high]), excess(high)
    if last > 0:
        return np.inf
    root: Any = brentq(lambda x: last if x == ends[1] else excess(float(np.exp(x))), *ends, xtol=1e-7)
    return float(np.exp(root))


def differ(best: ufm.Optimum, frequent: int) -> float:
    """1 where rare rows point in different directions, −1 where not."""
    return 1.0 if measured(best, frequent)["cosine"] < 1 - MERGED else -1.0


def slack(best: ufm.Optimum, frequent: int) -> float:
    """By how much the weight of a rare class in the risk is more than √(μν)."""
    problem = best.problem
    return float(np.asarray(problem.class_weights)[-1]) / problem.num_classes - multiplier(best)


def decay_left(config: Config, frequent: int, ratio: float) -> float:
    """By how much c may grow until rare classes merge, at √n_B/N, in units of 1/√n_A."""
    return float(1 / np.sqrt(ratio) / shares(config, frequent, ratio) - decay_of(config))


def shares(config: Config, frequent: int, ratio: float) -> float:
    """N/n_A."""
    return frequent + (config.num_classes - frequent) / ratio


def decay_of(config: Config) -> float:
    """c √n_A under weight decay."""
    return float(config.decay * np.sqrt(config.samples))


def room_left(config: Config, frequent: int, ratio: float) -> float:
    """By how much the mean balls are larger than what logits need where rare classes just merge."""
    balls = within_balls(config, frequent, ratio)
    weight = float(np.asarray(balls.class_weights)[-1])
    kinds = imbalanced_cross_entropy.TwoGroups(relaxed(config, balls, weight / config.num_classes))
    return size(config) - float(np.trace(kinds.shape(kinds.solve()[0])["gram_A"]))


def price_of(config: Config, frequent: int, u: float) -> tuple[float, float]:
    """Slope of the risk in u, over K_A − 1, where logits are those of frequent classes alone, u(e_k − 1_A/K_A).

    A frequent class weighs 1 in the risk. Also the probability that it gives all rare ones.
    """
    K_A = frequent
    odds = np.array([(K_A - 1) * np.exp(-u), (config.num_classes - K_A) * np.exp(-u * (1 - 1 / K_A))])
    p, q = odds / (1 + odds.sum())
    return float(K_A * (p + q * (1 - 1 / K_A)) / (K_A - 1)), float(q)


def pull_left(config: Config, frequent: int, u: float, rare: float) -> float:
    """By how much the risk pulls harder on rare classes that are zero than the price of u holds them.

    They would leave along e = 1_A/K_A − 1_B/K_B, ‖e‖² = g², by logits α_A e of frequent and −α_B e of rare classes. The
    risk's slopes in these are g² K_A q and g² K_B ρ K_A/K, and they cost g√(K_A α_A² + K_B ν² α_B²) times the price.
    `rare` is ρ/ν, what a rare class weighs in the risk over what it weighs in the norm, where a frequent one weighs 1.
    """
    K, K_A, K_B = config.num_classes, frequent, config.num_classes - frequent
    price, q = price_of(config, frequent, u)
    g = np.sqrt(1 / K_A + 1 / K_B)
    return float(g * np.hypot(np.sqrt(K_A) * q, np.sqrt(K_B) * rare * K_A / K) - price)


def pull_under_decay(config: Config, frequent: int, ratio: float) -> float:
    """The same at the u whose price is c; ρ = 1/R and ν = 1/√R."""
    price = decay_of(config) * shares(config, frequent, ratio)
    u: Any = brentq(lambda u: price_of(config, frequent, u)[0] - price, 0.0, 1e3)
    return pull_left(config, frequent, u, 1 / np.sqrt(ratio))


def pull_within_balls(config: Config, frequent: int, ratio: float) -> float:
    """The same at the u that fills the balls; ρ = 1/R and ν = 1."""
    return pull_left(config, frequent, size(config) / (frequent - 1), 1 / ratio)


THRESHOLDS = {"decay": (differ, decay_left, pull_under_decay), "balls": (slack, room_left, pull_within_balls)}


def as_decay_vanishes(config: Config) -> xarray.Dataset:
    """Angles between classes as c falls, what each decade adds to the logits, and the limits of both."""
    prices = 10.0 ** -np.arange(1, config.decades + 0.5, 0.5)
    K = len(config.counts)
    problems = [ufm.Problem(K, K, per_class=config.counts, lambda_A=c, lambda_H=c, bias=False) for c in prices.tolist()]
    bests = ufm.minimize(problems)
    logits = np.array([best.means @ best.A.T for best in bests])
    limit = np.eye(K) - 1 / K
    added = (logits[2:] - logits[:-2]) / np.log(10)  # two minima a decade
    pairs = [f"{i + 1}, {j + 1}" for i, j in zip(*np.triu_indices(K, 1), strict=True)]
    grams = [[best.A @ best.A.T for best in bests], [best.means @ best.means.T for best in bests]]
    return xarray.Dataset(
        {
            "angle": (("factor", "price", "pair"), [[angles(gram) for gram in several] for several in grams]),
            "predicted/angle": (("factor", "pair"), [angles(gram) for gram in seli.limit(problems[0])]),
            "direction": ("price", [np.linalg.norm(unit(each) - unit(limit)) for each in logits]),
            "added": (
                "price",
                np.concatenate([[np.nan, np.nan], np.abs(added - limit).max(axis=(1, 2))]),
            ),
            "price_gap": ("price", [best.gap / best.value for best in bests]),
        },
        coords={"price": prices, "pair": pairs, "factor": list(FACTORS)},
    )


def angles(gram: np.ndarray) -> np.ndarray:
    """In degrees, between the rows of each pair that a Gram matrix is of."""
    norms = np.sqrt(np.diag(gram))
    cosines = gram / np.outer(norms, norms)
    return np.degrees(np.arccos(np.clip(cosines[np.triu_indices(len(gram), 1)], -1, 1)))


def unit(X: np.ndarray) -> np.ndarray:
    """X/‖X‖."""
    return X / np.linalg.norm(X)


def draw(table: xarray.Dataset) -> plot.Figure:
    """Two kinds of classes under decay and within balls, then the limit of vanishing decay."""
    made, rows = plot.figure(3, 3, width=13.5, height=11.0)
    for model, axes in zip(MODELS, rows, strict=False):
        draw_kinds(axes, table.sel(model=model), MODELS[model].capitalize())
    draw_angles(rows[2], table)
    draw_speed(rows[2][2], table)
    return made


def draw_kinds(axes: Any, at: xarray.Dataset, name: str) -> None:
    """Cosines of rare rows, norms of both kinds, and minima, against R."""
    cosines, norms, values = axes
    for colour, mark, K_A in zip(plot.COLOURS, plot.MARKS, at.frequent.values, strict=False):
        here, dots = at.sel(frequent=K_A), {"ls": "", "ms": 4, "color": colour}
        cosines.plot(at.ratio, here.cosine, mark, **dots)
        cosines.plot(at.ratio, here.gram_cosine, ":", color=colour, lw=1.0)
        for kind, fill in zip(KINDS, FILLS, strict=True):
            norms.plot(at.ratio, here.norm.sel(kind=kind), mark, fillstyle=fill, **dots)
        values.plot(at.ratio, here["value"], mark, label=f"{K_A} frequent classes", **dots)
        for axis, quantity in zip(axes, ("cosine", "norm", "value"), strict=True):
            axis.plot(at.ratio, here[f"predicted/{quantity}"], "k--", lw=1.0)
        for axis in (cosines, norms):
            axis.axvline(float(here["predicted/merging"]), ymax=0.75, color=colour, ls="--", lw=0.9)
            axis.axvline(float(here["predicted/vanishing"]), ymax=0.75, color=colour, ls="-.", lw=0.9)
    values.plot([], [], "k--", lw=1.0, label="theory")
    cosines.plot([], [], ":", color=GREY, lw=1.0, label="of rows of the\nwhole Gram matrix")
    for kind, fill in zip(KINDS, FILLS, strict=True):
        norms.plot([], [], "o", color=GREY, ms=4, fillstyle=fill, label=f"{kind} classes")
    norms.plot([], [], "--", color=GREY, lw=0.9, label="theory: rare merge")
    norms.plot([], [], "-.", color=GREY, lw=0.9, label="theory: rare vanish")
    cosines.set(ylabel="mean cosine of rare classifiers", title=f"{name}: rare classes merge")
    norms.set(ylabel="norm of a classifier", title=f"{name}: norms", ylim=(0, 1.4 * float(at.norm.max())))
    values.set(ylabel="minimum of the objective", title=f"{name}: minima")
    for axis, place, columns in zip(axes, ("lower right", "upper left", "upper right"), (1, 2, 1), strict=True):
        axis.set(xscale="log", xlabel="R, frequent samples for a rare one")
        axis.legend(loc=place, ncols=columns, frameon=False)


def draw_angles(axes: Any, table: xarray.Dataset) -> None:
    """Angles of both factors as decay vanishes."""
    shown = table.price.values < 0.05  # nearer to total collapse they have yet to open
    x = 1 / np.log(1 / table.price.values[shown])
    for axis, factor in zip(axes, FACTORS, strict=False):
        for colour, mark, pair in zip(plot.COLOURS, plot.MARKS, table.pair.values, strict=False):
            at = table.sel(factor=factor, pair=pair)
            axis.plot(x, at.angle[shown], mark, color=colour, ms=3.5, label=pair)
            axis.axhline(float(at["predicted/angle"]), xmax=0.5, color=colour, ls="--", lw=1.0)
        axis.plot([], [], "--", color=GREY, lw=1.0, label="theory: c → 0")
        axis.set(xlabel="1/log(1/c)", xlim=(0, None), ylabel="angle in degrees", title=f"SELI: angles of the {factor}")
    axes[1].legend(loc="upper right", frameon=False, ncols=2, title="classes")


def draw_speed(axis: Any, table: xarray.Dataset) -> None:
    """Errors of the logits' direction, and of what a decade adds to them."""
    x = np.log(1 / table.price.values)
    lines = {"direction": "direction of the logits", "added": "what a decade adds to them"}
    for power, (colour, mark, (name, label)) in enumerate(
        zip(plot.COLOURS, plot.MARKS, lines.items(), strict=False), 1
    ):
        axis.plot(x, table[name], mark, color=colour, ms=4, label=label)
        law = f"like 1/log{'²' * (power - 1)}(1/c)"
        line = "k--" if power == 1 else "k-."
        axis.plot(x, float(table[name][-1]) * (x[-1] / x) ** power, line, lw=1.0, label=law)
    axis.set(xscale="log", yscale="log", xlabel="log(1/c)", ylabel="distance to the limit", title="SELI: how fast")
    axis.set(ylim=(1e-5, None))
    axis.xaxis.set_major_locator(FixedLocator([2, 5, 10, 20, 30]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.legend(loc="lower left", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print thresholds, found and known, how fast the limit is met, and how sure the minima are."""
    rows = []
    for model, name in MODELS.items():
        for K_A in table.frequent.values.tolist():
            at = table.sel(model=model, frequent=K_A)
            below, above = at.cosine_beside.values
            found, known, gone = (float(at[key]) for key in ("merging", "predicted/merging", "predicted/vanishing"))
            rows.append(
                [
                    name,
                    K_A,
                    f"{found:.7g}",
                    f"{known:.9g}",
                    f"1 − {1 - below:.0e}, 1 − {abs(1 - above):.0e}",
                    f"{gone:.8g}",
                ]
            )
    header = [
        "model",
        "frequent",
        "R at which rare ones merge",
        "by theory",
        "cosine at 1 ∓ 1e-4 of it",
        "R at which they vanish",
    ]
    show(header, rows)
    gaps = [table[name].values for name in ("gap", "price_gap")]
    minima = sum(gap.size for gap in gaps) + int(table.sought.sum())
    scaled = table.added * np.log(table.price) ** 2
    off = {
        name: float((np.abs(table[name] - table[f"predicted/{name}"]) / scale).max())
        for name, scale in (
            ("value", table["value"]),
            ("norm", table.norm.max("kind")),
            ("cosine", 1.0),
        )
    }
    rows = [
        ["certified minima", minima],
        ["largest relative gap", max(*(float(gap.max()) for gap in gaps), float(table.sought_gap.max()))],
        *([f"largest error of theory's {name}s", error] for name, error in off.items()),
        *(
            [
                f"what a decade adds, distance · log²(1/c) at c = {c:g}",
                f"{float(scaled.sel(price=c, method='nearest')):.4f}",
            ]
            for c in REPORTED
            if c > 0.9 * float(table.price.min())
        ),
    ]
    show(["quantity", "measured"], rows)


def main(config: Config) -> None:
    """Minimise, print, draw."""
    K, most = config.num_classes, config.num_classes - 2
    for K_A in config.frequent:
        if not 2 <= K_A <= most:
            raise SystemExit(f"--frequent {K_A}: two of either kind are needed, that is 2 to {most} of {K} classes")
    if config.ratios < 1:
        raise SystemExit(f"--ratios {config.ratios}: at least 1 is needed")
    if not LEAST < config.largest <= config.samples:
        raise SystemExit(f"--largest {config.largest:g}: more than {LEAST} is needed, and no more than --samples")
    if config.decades < 2:
        raise SystemExit(f"--decades {config.decades}: at least 2 are needed")
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
