"""More classes than dimensions: the codes that softmax finds on the sphere, and how far apart they keep classes.

Features and classifier rows have norm 1 and the temperature τ is annealed. As it grows, (1/τ) log f at the minimum
goes to minus the largest one-vs-rest distance ρ* of K unit rows (Jiang et al. 2023). Up to K = d + 1 it is that of
the simplex, from there to K = 2d exactly 1, and beyond it falls; only on the circle is it known for every K. What is
found bounds ρ* from below: other starts may find better.
"""

import dataclasses
import functools as ft
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
import xarray
from jaxtyping import Array, Float

from ufm import geometry, plot
from ufm.console import progress, show
from ufm.minima import solver

ABSENT = -1e30  # added to the logarithm of what a smaller code lacks
DEGREE = np.pi / 180
# cosines of the largest least angle of K directions in three dimensions (Tammes's problem): Schütte & van der Waerden
# 1951 to K = 9, Danzer 1963 for 10 and 11, which is the icosahedron without a vertex, Fejes Tóth 1943 for 12
TAMMES = {
    7: 1 / (np.tan(40 * DEGREE) * np.tan(80 * DEGREE)),
    8: (2 * np.sqrt(2) - 1) / 7,
    9: 1 / 3,
    10: np.cos(66.1468 * DEGREE),
    11: 1 / np.sqrt(5),
    12: 1 / np.sqrt(5),
}
AGREEMENT = 1e-4  # of two starts that found the same distance


@dataclasses.dataclass(frozen=True)
class Config:
    """Which codes are looked for, and how."""

    dims: tuple[int, ...] = (2, 3, 4, 8)
    """Dimensions d; each has from d − 1 to `most` · d classes."""
    most: int = 4
    """Classes a dimension, at most."""
    seeds: int = 8
    """Random starts of each schedule."""
    temperatures: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    """τ, rising; each minimum is the next one's start."""
    late: float = 30.0
    """A second schedule begins at this τ: a gentle start may lead into another basin."""
    tol: float = 1e-7
    """Relative, of log f."""
    max_steps: int = 2000
    """Function evaluations at each temperature."""
    output: pathlib.Path = pathlib.Path("figures/dimension.png")
    """Figure to write; the data goes beside it as .npz."""


def class_range(dim: int, config: Config) -> range:
    """Numbers of classes in so many dimensions."""
    return range(max(dim - 1, 2), config.most * dim + 1)


def unit_rows(x: Any, num_classes: int) -> Any:
    """Features and classifier (2, K, d, L) of norm 1 at variables (2Kd, L)."""
    rows = x.reshape(2, num_classes, -1, x.shape[-1])
    return rows / (rows**2).sum(axis=2, keepdims=True) ** 0.5


def log_loss(x: Float[Array, "n L"], args: tuple) -> Float[Array, " L"]:
    """log f of each lane: mean cross-entropy of one feature a class, both sides on unit spheres, no bias, no decay.

    Lanes have codes of different sizes, so that one program serves all K: `args` are temperatures (L,) and (K, L)
    numbers that are 0 for a class, and `ABSENT` for one that the lane's code lacks.
    """
    temperature, absent = args
    K = absent.shape[0]
    H, A = unit_rows(x, K)
    logits = sum(A[:, None, i] * H[None, :, i] for i in range(A.shape[1]))
    margins = temperature[None, None] * (logits - jnp.sum(A * H, axis=1)[None])
    others = jnp.where(jnp.eye(K, dtype=bool)[..., None], ABSENT, absent[:, None])
    of_class = _log_softplus(jax.nn.logsumexp(margins + others, axis=0))
    return jax.nn.logsumexp(of_class + absent, axis=0) - jnp.log(jnp.sum(jnp.exp(absent), axis=0))


def _log_softplus(s):
    """log log(1 + eˢ), which is s where eˢ is below rounding."""
    small = s < -40.0
    return jnp.where(small, s, jnp.log(jax.nn.softplus(jnp.where(small, 0.0, s))))


def anneal(dim: int, sizes: np.ndarray, firsts: np.ndarray, x: np.ndarray, config: Config, advanced: Any) -> tuple:
    """Minima of log f at rising temperatures, each begun from the one before.

    Args:
        dim: d.
        sizes: (L,) classes of each lane's code.
        firsts: (L,) temperatures that the lanes begin at.
        x: (2Kd, L) where they start, K the largest of `sizes`.
        config: the temperatures, and when to stop.
        advanced: is told how many minimisations are done.

    Returns:
        Classifiers (K, d, L), of which a lane's first rows are its code, and margins −(1/τ) log f (L,).
    """
    K, L = max(sizes), len(sizes)
    absent = np.where(np.arange(K)[:, None] < sizes[None], 0.0, ABSENT)
    margins = np.zeros(L)
    for stage, tau in enumerate(config.temperatures):
        args = np.maximum(tau, firsts), absent
        counted = ft.partial(lambda before, done: advanced(before + done), stage * L)
        with jax.enable_x64(True):
            # a code is worth its distance, however near to stationary it is: no Newton steps
            how: Any = {"tol": config.tol, "max_steps": config.max_steps, "polish": False}
            found = solver.minimize(log_loss, x, args, advanced=counted, **how)
        x, margins = unit_rows(found.x, K).reshape(x.shape), -found.value / args[0]
    return x.reshape(2, K, dim, L)[1], margins


def best_codes(dim: int, config: Config, advanced: Any = lambda done: None) -> xarray.Dataset:
    """For every K in so many dimensions, the code with the largest one-vs-rest distance among all starts."""
    classes = class_range(dim, config)
    lanes = list(itertools.product(classes, range(config.seeds), range(2)))
    sizes, firsts = np.array([K for K, *_ in lanes]), np.array([config.late * late for *_, late in lanes])
    x = [np.random.default_rng((dim, *lane)).normal(size=2 * max(classes) * dim) for lane in lanes]
    padded, margins = anneal(dim, sizes, firsts, np.stack(x, axis=-1), config, advanced)
    codes = [padded[:size, :, lane] for lane, size in enumerate(sizes)]
    distances = np.array([geometry.one_vs_rest_distance(code) for code in codes])
    groups = distances.reshape(len(classes), -1)
    best = np.argmax(groups, axis=1) + np.arange(len(classes)) * groups.shape[1]
    entries = {
        "distance": distances[best],
        "margin": margins[best],
        "angle": np.array([geometry.minimal_angle(codes[lane]) for lane in best]),
        "agreed": np.mean(groups > groups.max(axis=1, keepdims=True) - AGREEMENT, axis=1),
    }
    return xarray.Dataset({name: ("num_classes", values) for name, values in entries.items()}, {"num_classes": classes})


def theory(dim: int, num_classes: int) -> dict[str, float]:
    """What is proven or known of K unit rows in d dimensions: bounds of ρ*, and of the least angle in radians.

    Where the bounds meet, ρ* is known: to K = 2d, and on the circle (Jiang et al. 2023; Alcala et al. 2026). Rows θ
    apart have ρ ≥ 1 − cos θ. The least angle is at most Tammes's: 90° from K = d + 2 on (Rankin 1955), and known to
    K = 2d, on the circle, and for a few K in three dimensions.
    """
    K, nan = num_classes, float("nan")
    if dim + 1 >= K:
        return {"lower": K / (K - 1), "upper": K / (K - 1), "largest_angle": np.arccos(-1 / (K - 1))}
    if dim == 2:
        return {"lower": 1 - np.cos(2 * np.pi / K), "upper": 1 - np.cos(2 * np.pi / K), "largest_angle": 2 * np.pi / K}
    if 2 * dim >= K:
        return {"lower": 1.0, "upper": 1.0, "largest_angle": np.pi / 2}
    cosine = TAMMES.get(K, nan) if dim == 3 else nan
    return {"lower": 1 - cosine, "upper": 1.0, "largest_angle": np.arccos(cosine)}


def data(config: Config) -> xarray.Dataset:
    """Distances and angles found, with what theory says, over dimension and number of classes; angles in radians."""
    lanes = [len(config.temperatures) * 2 * config.seeds * len(class_range(dim, config)) for dim in config.dims]
    tables: list[xarray.Dataset] = []
    with progress(sum(lanes), "minimisations") as update:
        for index, dim in enumerate(config.dims):
            before = sum(lanes[:index])
            table = best_codes(dim, config, lambda done, before=before, dim=dim: update(before + done, f"d = {dim}"))
            known = [theory(dim, K) for K in table.num_classes.values.tolist()]
            tables.append(table.assign({name: ("num_classes", [entry[name] for entry in known]) for name in known[0]}))
    dims = xarray.Variable("dim", list(config.dims))
    return xarray.concat(tables, dims, join="outer", data_vars="all", coords="minimal", compat="equals")


def draw(table: xarray.Dataset) -> plot.Figure:
    """One-vs-rest distance and least angle against the number of classes, over what theory knows of them."""
    made, ((left, right),) = plot.figure(1, 2, width=11.0, height=4.8)
    K = table.num_classes.values
    for index, dim in enumerate(table.dim.values):
        style = {
            "color": plot.COLOURS[index % 6],
            "marker": plot.MARKS[index % 6],
            "ls": "",
            "ms": 6,
            "mfc": "none",
            "zorder": 3,
        }
        left.plot(K, table.distance.sel(dim=dim), label=f"found, d = {dim}", **style)
        right.plot(K, np.degrees(table.angle.sel(dim=dim)), label=f"found, d = {dim}", **style)
    few, many = np.arange(2, max(table.dim.values) + 2), np.array([4, K[-1]])
    curves = [
        (few, few / (few - 1), "--", "K ≤ d + 1: K/(K−1), the simplex"),
        (many, np.ones(2), (0, (8, 3)), "K ≥ d + 2: at most 1, reached up to 2d"),
    ]
    angles = [
        (few, np.degrees(np.arccos(-1 / (few - 1))), "--", "K ≤ d + 1: the simplex"),
        (many, np.full(2, 90.0), (0, (8, 3)), "K ≥ d + 2: at most 90° (Rankin), reached up to 2d"),
    ]
    if 2 in table.dim:
        polygons = np.arange(4, int(K[table.distance.sel(dim=2).notnull()].max()) + 1)
        curves.append((polygons, 1 - np.cos(2 * np.pi / polygons), "-.", "d = 2: 1 − cos(2π/K), the K-gon"))
        angles.append((polygons, 360 / polygons, "-.", "d = 2: 2π/K, the K-gon"))
    if 3 in table.dim:
        cosines = np.array(list(TAMMES.values()))
        curves.append((np.array(list(TAMMES)), 1 - cosines, ":", "d = 3: at least 1 − cos θ, θ Tammes’s angle"))
        angles.append((np.array(list(TAMMES)), np.degrees(np.arccos(cosines)), ":", "d = 3: at most θ, Tammes’s angle"))
    for axis, theory_curves in ((left, curves), (right, angles)):
        for x, y, dash, name in theory_curves:
            axis.plot(x, y, color="black", ls=dash, lw=1.2, label=name, zorder=2)
        axis.set(xscale="log", xlabel="K, number of classes")
        axis.set_xticks(ticks := [2, 3, 4, 6, 8, 12, 16, 24, 32], [str(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        axis.legend(loc="upper right", frameon=False, fontsize=8)
    left.set(ylabel="one-vs-rest distance ρ", title="How far the worst class is from the others' hull", ylim=(0.0, 2.1))
    right.set(ylabel="least angle in degrees", title="How far apart the nearest two classes are", ylim=(30.0, 190.0))
    return made


def summary(table: xarray.Dataset) -> None:
    """Print a row a code."""
    rows = []
    for dim in table.dim.values:
        of_dim = table.sel(dim=dim).dropna("num_classes", subset=["distance"])
        for K in of_dim.num_classes.values:
            code = of_dim.sel(num_classes=K)
            lower, upper, largest = float(code.lower), float(code.upper), np.degrees(float(code.largest_angle))
            known = f"{upper:.6f}" if lower == upper else f"{lower:.6f} to 1" if np.isfinite(lower) else "at most 1"
            bound = f"{largest:.3f}" if np.isfinite(largest) else ""
            angle = f"{np.degrees(float(code.angle)):.3f}"
            rows.append(
                [f"{dim}, {K}", f"{float(code.distance):.6f}", known, angle, bound, f"{float(code.agreed):.0%}"]
            )
    header = ["d, K", "distance found", "theory", "least angle found", "largest there is", "starts that agree"]
    show(header, rows)


def main(config: Config) -> None:
    """Anneal, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
