"""Many labels a sample: features of a set are those of its labels, added and scaled by a factor that theory knows.

Certified minima where a sample has a set of labels and the loss of each (Li et al. 2024). If all sets of a size have
equally many samples, h_S = (t_m/t_1) Σ_{k∈S} h_k for sets S of m labels, with margins t_m that one equation gives. The
sets of a size need not be all: a 2-design suffices, such as the seven lines of the Fano plane. Sets that are none, and
unequal counts within a size, break the law; unequal sizes don't.
"""

import dataclasses
import itertools
import pathlib

import numpy as np
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show
from ufm.theory import symmetric_designs

POINTS = 7  # of the Fano plane, which has as many lines
LINES, NEIGHBOURS = (
    [tuple((i + j) % POINTS for j in steps) for i in range(POINTS)] for steps in ((0, 1, 3), (0, 1, 2))
)
TRIPLES = {
    "all 35 triples": {3: 1},
    "7 lines of the Fano plane": dict.fromkeys(LINES, 5),
    "7 triples of neighbours": dict.fromkeys(NEIGHBOURS, 5),
}
PAIRS = list(itertools.combinations(range(4), 2))
UNEQUAL = {  # samples of four labels' sets, by a ratio r ≥ 1
    "labels, up to ratio : 1": lambda r: {(k,): round(2 * r ** (1 - k / 3)) for k in range(4)} | {2: 2},
    "one pair, ratio : 1": lambda r: {1: 2} | {pair: 2 * r if pair == (0, 1) else 2 for pair in PAIRS},
    "labels against pairs, ratio : 1": lambda r: {1: 2 * r, 2: 2},
}
BELOW = 0.98  # of the decay from which nothing is learnt


@dataclasses.dataclass(frozen=True)
class Config:
    """The sets, and the decays."""

    num_classes: int = 6
    """K, number of labels."""
    samples: tuple[int, ...] = (4, 3, 2, 2, 1)
    """Samples of every set of one label, of every pair, and so on; fewer sizes than labels."""
    dim: int = 16
    """d, dimension of the features."""
    smallest: float = 1e-4
    """Weight decay λ_A = λ_H = c at the lower end; the upper one is where nothing is learnt."""
    points: int = 21
    """Decays, log-spaced."""
    decay: float = 5e-3
    """Of the triples, and of unequal counts."""
    ratios: int = 9
    """How many ratios of unequal counts, log-spaced from 1 to 100."""
    output: pathlib.Path = pathlib.Path("figures/multilabel.png")
    """Figure to write; the data goes beside it as .npz."""

    def __post_init__(self):
        if not 0 < len(self.samples) < self.num_classes:
            raise ValueError(
                f"samples = {self.samples}: of one size at least, and of fewer than num_classes = {self.num_classes}, "
                "are needed"
            )


def problem_of(config: Config, targets: ufm.Targets, decay: float) -> ufm.Problem:
    """Cross-entropy with a free bias."""
    return ufm.Problem(targets=targets, dim=config.dim, lambda_A=decay, lambda_H=decay)


def rows_of(problem: ufm.Problem) -> np.ndarray:
    """(M, K) its targets."""
    assert problem.targets is not None
    return np.asarray(problem.targets.rows)


def data(config: Config) -> xarray.Dataset:
    """Minima over decays, of three families of triples, and with unequal counts."""
    return xarray.merge([over_decays(config), over_triples(config), over_counts(config)])


def over_decays(config: Config) -> xarray.Dataset:
    """Factors, norms, cosines and probabilities of sets of each size, with what theory says of them."""
    K, sizes = config.num_classes, np.arange(1, len(config.samples) + 1)
    targets = ufm.targets.multilabel(K, dict(zip(sizes.tolist(), config.samples, strict=True)))
    collapse = ufm.predict(problem_of(config, targets, config.smallest)).thresholds["c at total collapse"]
    decays = np.geomspace(config.smallest, BELOW * collapse, config.points)
    bests = ufm.minimize([problem_of(config, targets, decay) for decay in decays.tolist()])
    measured = [of_sizes(best, sizes) for best in bests]
    margins = np.array([margins_of(best.problem, sizes) for best in bests])
    factors = margins / margins[:, :1]
    predicted = {
        "factor": factors,
        "norm": factors * np.sqrt(sizes * (K - sizes) / (K - 1)),
        "cosine": np.broadcast_to(np.sqrt((K - sizes) / (sizes * (K - 1))), factors.shape),
        "stray": 1 / (sizes * np.exp(margins) + K - sizes),
    }
    axes = ("c", "size")
    claims = [ufm.verify(best).claims for best in bests]
    return xarray.Dataset(
        {
            **{name: (axes, [each[name] for each in measured]) for name in predicted},
            **{f"predicted/{name}": (axes, values) for name, values in predicted.items()},
            "gap": ("c", [best.gap / best.value for best in bests]),
            "claims": ("c", [len(each) for each in claims]),
            "claims_held": ("c", [sum(claim.verdict == ufm.Verdict.HOLDS for claim in each) for each in claims]),
            "total_collapse": collapse,
        },
        coords={"c": decays, "size": sizes},
    )


def of_sizes(best: ufm.Optimum, sizes: np.ndarray) -> dict[str, list[float]]:
    """Of sets of each size: the factor of their labels' sum, the norm and cosine beside labels, and p outside."""
    rows = rows_of(best.problem)
    labels, sums = best.means[: rows.shape[1]], rows @ best.means[: rows.shape[1]]
    odds = np.exp(best.means @ best.A.T + best.b)
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    cosines = units(best.means) @ units(labels).T
    found: dict[str, list[float]] = {"factor": [], "norm": [], "cosine": [], "stray": []}
    for size in sizes:
        chosen = rows.sum(axis=1) == size
        inside = chosen[:, None] & (rows > 0)
        found["factor"].append(factor(best.means[chosen], sums[chosen]))
        found["norm"].append(np.linalg.norm(best.means[chosen], axis=1).mean() / np.linalg.norm(labels, axis=1).mean())
        found["cosine"].append(cosines[inside].mean())
        found["stray"].append(probabilities[chosen[:, None] & (rows == 0)].mean())
    return found


def factor(H: np.ndarray, sums: np.ndarray) -> float:
    """f of the nearest H = f · sums."""
    return float(np.sum(H * sums) / np.sum(sums**2))


def units(X: np.ndarray) -> np.ndarray:
    """Rows of norm 1."""
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def margins_of(problem: ufm.Problem, sizes: np.ndarray) -> np.ndarray:
    """t, by how much logits inside exceed those outside, of sets of each size."""
    solved = symmetric_designs.design(problem)
    assert solved is not None  # below total collapse
    of_size = rows_of(problem).sum(axis=1)
    return np.array([np.ptp(solved.Z[of_size == size][0]) for size in sizes])


def over_triples(config: Config) -> xarray.Dataset:
    """Cosines of triples and labels, and the classifier's spectrum, of families of triples of seven labels."""
    posed = [ufm.targets.multilabel(POINTS, {1: 5} | triples) for triples in TRIPLES.values()]
    bests = ufm.minimize([problem_of(config, targets, config.decay) for targets in posed])
    found = {"inside": [], "outside": [], "eigenvalue": []}
    for best in bests:
        triples = rows_of(best.problem)[POINTS:] > 0
        cosines = units(best.means[POINTS:]) @ units(best.means[:POINTS]).T
        eigenvalues = np.linalg.eigvalsh(best.A @ best.A.T)[:0:-1]
        found["inside"].append(np.sort(cosines[triples]))
        found["outside"].append(np.sort(cosines[~triples]))
        found["eigenvalue"].append(eigenvalues / eigenvalues.mean())
    longest = {name: max(map(len, rows)) for name, rows in found.items()}
    padded = {
        name: (
            ("triples", f"{name}_index"),
            [np.pad(row, (0, longest[name] - len(row)), constant_values=np.nan) for row in rows],
        )
        for name, rows in found.items()
    }
    K, m = POINTS, 3
    return xarray.Dataset(
        {
            **padded,
            "predicted/inside": np.sqrt((K - m) / (m * (K - 1))),
            "predicted/outside": -np.sqrt(m / ((K - m) * (K - 1))),
            "triples_gap": ("triples", [best.gap / best.value for best in bests]),
        },
        coords={"triples": list(TRIPLES)},
    )


def over_counts(config: Config) -> xarray.Dataset:
    """How far features of pairs are from one multiple of their labels' sums, where counts are unequal."""
    ratios = np.unique(np.geomspace(1, 100, config.ratios).round()).astype(int)
    posed = [ufm.targets.multilabel(4, counts(r)) for counts in UNEQUAL.values() for r in ratios.tolist()]
    bests = ufm.minimize([problem_of(config, targets, config.decay) for targets in posed])
    shape = (len(UNEQUAL), len(ratios))
    return xarray.Dataset(
        {
            "distance": (("unequal", "ratio"), np.reshape([distance(best) for best in bests], shape)),
            "unequal_gap": (("unequal", "ratio"), np.reshape([best.gap / best.value for best in bests], shape)),
        },
        coords={"unequal": list(UNEQUAL), "ratio": ratios},
    )


def distance(best: ufm.Optimum) -> float:
    """Of features of pairs from the nearest multiple of their labels' sums, relative."""
    rows = rows_of(best.problem)
    labels, pairs = (best.means[rows.sum(axis=1) == size] for size in (1, 2))
    sums = rows[rows.sum(axis=1) == 2] @ labels[np.argsort(np.argmax(rows[rows.sum(axis=1) == 1], axis=1))]
    return float(np.linalg.norm(pairs - factor(pairs, sums) * sums) / np.linalg.norm(pairs))


def draw(table: xarray.Dataset) -> plot.Figure:
    """The law over decays and sizes above; which sets keep it, and which counts, below."""
    made, ((factors, strays, shapes), (cosines, spectra, counts)) = plot.figure(2, 3, width=13.5, height=8.0)
    draw_decays(factors, strays, table)
    draw_sizes(shapes, table)
    draw_triples(cosines, spectra, table)
    draw_counts(counts, table)
    return made


def draw_decays(factors, strays, table: xarray.Dataset) -> None:
    """The factor of each size, and the probability of a label outside the set."""
    for colour, mark, size in zip(plot.COLOURS, plot.MARKS, table["size"].values, strict=False):
        of_size, style = table.sel(size=size), {"color": colour, "ls": "", "ms": 4}
        factors.plot(table.c, of_size.factor, mark, **style)
        strays.plot(table.c, of_size.stray, mark, label=f"sets of {size}" if size > 1 else "labels alone", **style)
        for axis, name in ((factors, "factor"), (strays, "stray")):
            axis.plot(table.c, of_size[f"predicted/{name}"], "k--", lw=1.0)
    factors.plot([], [], "k--", lw=1.0, label="theory: $t_m/t_1$")
    for axis in (factors, strays):
        axis.axvline(float(table.total_collapse), color="black", ls=":", lw=1.2)
        axis.set(xscale="log", xlabel="c = √(λ_A λ_H)")
    factors.plot([], [], "k:", lw=1.2, label="theory: total collapse")
    factors.legend(loc="lower left", frameon=False)
    strays.add_artist(strays.legend(loc="upper left", frameon=False))
    line, said = strays.plot([], [], "k--", lw=1.0), "theory: $1/(m\\,e^{t_m} + K − m)$"
    strays.legend(line, [said], loc="lower right", bbox_to_anchor=(0.94, 0.0), frameon=False)
    factors.set(ylabel="factor of $Σ_{k∈S}\\,h_k$ in $h_S$", title="Features of a set: its labels', added and scaled")
    strays.set(yscale="log", ylabel="probability of a label outside", title="What is left to labels outside")


def draw_sizes(axis, table: xarray.Dataset) -> None:
    """Norms and cosines against the size, norms at two decays."""
    sizes = table["size"].values
    for colour, mark, index in zip(plot.COLOURS, plot.MARKS, (0, 2 * table.sizes["c"] // 3), strict=False):
        said = f"$‖h_S‖/‖h_k‖$ at c = {float(table.c[index]):.1g}"
        axis.plot(sizes, table.norm[index], mark, color=colour, ms=5, label=said)
        axis.plot(sizes, table["predicted/norm"][index], "k--", lw=1.0)
    axis.plot([], [], "k--", lw=1.0, label="theory: $(t_m/t_1)\\,\\sqrt{m(K−m)/(K−1)}$")
    axis.plot(sizes, table.cosine[0], "^", color=plot.COLOURS[2], ms=5, label="cosine of a set and a label in it")
    axis.plot(sizes, table["predicted/cosine"][0], "k-.", lw=1.0, label="theory: $\\sqrt{(K−m)/(m(K−1))}$")
    axis.set(xlabel="m, labels of the set", ylim=(0.0, 2.1), xticks=sizes, title="Norms and cosines of sets")
    axis.legend(loc="upper right", frameon=False)


def draw_triples(cosines, spectra, table: xarray.Dataset) -> None:
    """Two cosines and a flat spectrum of triples that are a 2-design, and more of those that are none."""
    for index, (colour, mark, name) in enumerate(zip(plot.COLOURS, plot.MARKS, table.triples.values, strict=False)):
        of_triples = table.sel(triples=name)
        for kind in ("inside", "outside"):
            values = of_triples[kind].dropna(f"{kind}_index").values
            cosines.plot(index + np.linspace(-0.3, 0.3, len(values)), values, mark, color=colour, ms=4)
        spectra.plot(range(1, POINTS), of_triples.eigenvalue, mark, color=colour, ms=9 - 3 * index, label=str(name))
    for kind, said, style in (("inside", "√((K−m)/(m(K−1)))", "--"), ("outside", "−√(m/((K−m)(K−1)))", "-.")):
        cosines.axhline(float(table[f"predicted/{kind}"]), color="black", ls=style, lw=1.0, label=f"theory: {said}")
    cosines.set(xticks=range(len(TRIPLES)), xticklabels=[name.replace(" of ", "\nof ") for name in TRIPLES])
    cosines.set(ylabel="cosine of a triple and a label", title="Lines of the Fano plane do what all triples do …")
    cosines.legend(loc="center", frameon=False)
    spectra.axhline(1.0, color="black", ls="--", lw=1.0, label="theory: simplex ETF, of a 2-design")
    spectra.set(xlabel="eigenvalue of $AA^⊤$, largest first", ylabel="over the mean of all")
    spectra.set(title="… and as many other triples don't", ylim=(0.0, 2.8))
    spectra.legend(loc="upper right", frameon=False)


def draw_counts(axis, table: xarray.Dataset) -> None:
    """The distance from the law, against ratios of counts."""
    for colour, mark, name in zip(plot.COLOURS, plot.MARKS, table.unequal.values, strict=False):
        axis.plot(table.ratio, 100 * table.distance.sel(unequal=name), mark + "-", color=colour, ms=4, label=str(name))
    axis.axhline(0.0, color="black", ls="--", lw=1.4, label="theory, equal counts within a size: zero")
    axis.set(xscale="log", xlabel="ratio of counts", ylabel="distance of pairs from the law, %")
    axis.set(title="Unequal counts within a size break the law", ylim=(-1.0, 160 * float(table.distance.max())))
    axis.legend(loc="upper left", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print how far the minima are from the law, and from each other where counts are unequal."""
    said = {"factor": "factor t_m/t_1", "norm": "norm", "cosine": "cosine", "stray": "probability outside"}
    off = {name: float(np.abs(table[name] / table[f"predicted/{name}"] - 1).max()) for name in said}
    rows = [
        ["certified minima", table.c.size + table.triples.size + table.distance.size],
        ["largest relative gap", max(float(table[name].max()) for name in ("gap", "triples_gap", "unequal_gap"))],
        ["claims of theorems that hold", f"{int(table.claims_held.sum())} of {int(table.claims.sum())}"],
        *([f"largest relative error of the {said[name]}", value] for name, value in off.items()),
    ]
    show(["quantity", "measured"], rows)
    percent = 100 * table.distance
    rows = [[str(ratio), *percent.sel(ratio=ratio).values.tolist()] for ratio in table.ratio.values]
    show(["ratio", *map(str, table.unequal.values)], rows, caption="distance of pairs from the law, %")


def main(config: Config) -> None:
    """Minimise, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
