"""Neural regression collapse: a direction of the targets lives where its deviation exceeds ĉ, and dies beyond.

Three measures of twenty bodies are regressed on their exercises (scikit-learn's linnerud), with weight decay on
features and last layer. At the model's minimum that layer has AAᵀ = √(Nλ_H/λ_A) [Σ^{1/2} − ĉI]₊, with Σ the covariance
of the targets (Andriopoulos et al. 2024): as decay grows, eigenvalues √λ_j − ĉ go to zero one by one. A small
perceptron, whose features are its last hidden layer, ends there too. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import functools as ft
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
import xarray
from matplotlib.ticker import FormatStrFormatter, NullFormatter

import ufm
from ufm import plot
from ufm.console import progress, show
from ufm.theory import regression
from ufm.training import schedule

try:
    from sklearn.datasets import load_linnerud
except ModuleNotFoundError as error:
    missing = "this study needs scikit-learn: pip install -e '.[studies]' from the project's root"
    raise ModuleNotFoundError(missing, name=error.name) from None

NRC = ("nrc1", "nrc2", "nrc3")
SAID = {
    "nrc1": "NRC1: features outside K components",
    "nrc2": "NRC2: features outside A's rows",
    "nrc3": "NRC3: $AA^⊤$ from $Σ^{1/2} − ĉI$",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The decays, and the perceptron."""

    dim: int = 16
    """d, dimension of the features."""
    largest: float = 1.6
    """ĉ = √(N λ_A λ_H) at the upper end, for λ_A = N λ_H = ĉ; the largest deviation of the targets is 1.45."""
    smallest: float = 0.02
    """ĉ at the lower end."""
    points: int = 60
    """How many minima, evenly spaced."""
    trained: tuple[float, ...] = (0.05, 0.15, 0.3, 0.6, 1.0)
    """ĉ of the perceptrons."""
    widths: tuple[int, ...] = (128, 128)
    """Of the hidden layers below the features, which are affine in the last of them."""
    steps: int = 20_000
    """Of Adam on all samples at once."""
    rate: float = 3e-3
    """Learning rate at first; it follows a cosine to zero."""
    snapshots: int = 60
    """How often the perceptrons are looked at, log-spaced."""
    seed: int = 0
    """Of their start."""
    output: pathlib.Path = pathlib.Path("figures/regression.png")
    """Figure to write; the data goes beside it as .npz."""


class Body(NamedTuple):
    """Standardised exercises X (N, 3) and measures Y (N, K) of all bodies."""

    X: np.ndarray
    Y: np.ndarray


def bodies() -> Body:
    """All of them, in the data set's order."""
    X, Y = (np.asarray(part, np.float64) for part in load_linnerud(return_X_y=True))
    return Body(*((part - part.mean(axis=0)) / part.std(axis=0) for part in (X, Y)))


def decays_at(price: float, samples: int) -> tuple[float, float]:
    """λ_A and λ_H at ĉ, for λ_A = N λ_H: then AAᵀ has the unit of Σ^{1/2}."""
    return price, price / samples


def rows_of(problem: ufm.Problem) -> np.ndarray:
    """(M, K) its targets."""
    assert problem.targets is not None
    return np.asarray(problem.targets.rows)


def data(config: Config) -> xarray.Dataset:
    """Minima over ĉ, and perceptrons over steps at some ĉ, each beside the minimum of its problem."""
    body = bodies()
    targets = ufm.Targets(body.Y, 1)
    problem = ufm.Problem(targets=targets, dim=config.dim, loss=ufm.SquaredError())
    return xarray.merge([over_decays(config, problem), over_steps(config, problem, body)])


def over_decays(config: Config, problem: ufm.Problem) -> xarray.Dataset:
    """Spectra and residuals of certified minima, and theory's of each."""
    N, prices = problem.num_samples, np.linspace(config.smallest, config.largest, config.points)
    decays = [decays_at(price, N) for price in prices.tolist()]
    swept = ufm.sweep(problem, {("lambda_A", "lambda_H"): decays}, params=True)
    deviations = regression.spectrum(problem).s
    alive = deviations > prices[:, None]
    points = zip(swept.H.values, swept.A.values, swept.b.values, strict=True)
    return xarray.Dataset(
        {
            "eigenvalue": (("price", "direction"), [spectrum_of(A) for A in swept.A.values]),
            "residual": ("price", [residual_of(problem, H, A, b) for H, A, b in points]),
            "predicted/eigenvalue": (("price", "direction"), np.maximum(deviations - prices[:, None], 0.0)),
            "predicted/residual": ("price", np.sum(np.where(alive, prices[:, None], deviations) ** 2, axis=1)),
            "gap": ("price", (swept.gap / swept["value"]).values),
            "deviation": ("direction", deviations),
        },
        coords={"price": prices, "direction": range(1, len(deviations) + 1)},
    )


def spectrum_of(A: np.ndarray) -> np.ndarray:
    """Eigenvalues of AAᵀ, descending."""
    return np.linalg.svd(A, compute_uv=False)[: len(A)] ** 2


def residual_of(problem: ufm.Problem, H: np.ndarray, A: np.ndarray, b: np.ndarray) -> float:
    """Mean squared, over samples."""
    return float(np.mean(np.sum((H @ A.T + b - rows_of(problem)) ** 2, axis=1)))


class Network(NamedTuple):
    """Weights (above, below) and shifts of hidden layers, the last of which gives the features; A (K, d) and b (K,)."""

    layers: tuple
    A: Any
    b: Any


def over_steps(config: Config, problem: ufm.Problem, body: Body) -> xarray.Dataset:
    """Perceptrons over steps: objective, metrics at γ = ĉ², and where their spectra and residuals end."""
    N = problem.num_samples
    posed = [dataclasses.replace(problem, lambda_A=a, lambda_H=h) for a, h in (decays_at(p, N) for p in config.trained)]
    bests = ufm.minimize(posed)
    claims = [claim for best in bests for claim in ufm.verify(best).claims]
    steps, looks = fit(config, body)
    found = {name: np.zeros((len(posed), len(steps))) for name in ("objective", *NRC)}
    for (i, one), (j, (H, A, b)) in itertools.product(enumerate(posed), enumerate(looks)):
        found["objective"][i, j] = one.objective(ufm.Params(H[i], A[i], b[i]))
        metrics = ufm.measure_regression(H[i], body.Y, A[i], gamma=config.trained[i] ** 2)
        for name in NRC:
            found[name][i, j] = getattr(metrics, name)
    ends = list(zip(posed, *looks[-1], strict=True))
    return xarray.Dataset(
        {
            **{name: (("trained", "step"), values) for name, values in found.items()},
            "minimum": ("trained", [best.value for best in bests]),
            "minimum_gap": ("trained", [best.gap / best.value for best in bests]),
            "trained_eigenvalue": (("trained", "direction"), [spectrum_of(A) for _, _, A, _ in ends]),
            "trained_residual": ("trained", [residual_of(*end) for end in ends]),
            "claims": len(claims),
            "claims_held": sum(claim.verdict == ufm.Verdict.HOLDS for claim in claims),
        },
        coords={"trained": list(config.trained), "step": steps},
    )


def fit(config: Config, body: Body) -> tuple[list[int], list[tuple[np.ndarray, ...]]]:
    """Train a perceptron at each ĉ of the configuration, side by side from the same start.

    Returns:
        Steps at which they were looked at, and at each of them features H (P, N, d), A (P, K, d) and b (P, K), float64.
    """
    X, Y, prices = (jnp.asarray(part, jnp.float32) for part in (*body, config.trained))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.rate, config.steps))
    advance = jax.jit(jax.vmap(ft.partial(advanced, optimizer), in_axes=(0, None, None, 0, None, None)))
    one = start(config, body)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(prices)), (one, optimizer.init(one)))
    steps, looks = schedule(config.steps, config.snapshots), []
    with progress(config.steps, "steps") as update:
        for done, to in itertools.pairwise([0, *steps]):
            state = advance(state, X, Y, prices, done, to)
            looks.append(look(state[0], X))
            update(to, "perceptrons")
    return steps, looks


def start(config: Config, body: Body) -> Network:
    """Weights of variance 2 over the number of their inputs, those of affine layers of half that; shifts of zero."""
    rng, inputs = np.random.default_rng(config.seed), [body.X.shape[1], *config.widths]
    gains = [2.0] * len(config.widths) + [1.0, 1.0]
    sides = itertools.pairwise([*inputs, config.dim, body.Y.shape[1]])
    made = [rng.normal(0.0, np.sqrt(gain / n), (m, n)) for gain, (n, m) in zip(gains, sides, strict=True)]
    weights = [jnp.asarray(W, jnp.float32) for W in made]
    shifts = [jnp.zeros(len(W), jnp.float32) for W in weights]
    *layers, (A, b) = zip(weights, shifts, strict=True)
    return Network(tuple(layers), A, b)


def advanced(optimizer: optax.GradientTransformation, state: tuple, X, Y, price, done, to) -> tuple:
    """Network and optimiser's state at step `to`, from those at `done`."""

    def step(_, state):
        network, moments = state
        updates, moments = optimizer.update(jax.grad(objective)(network, X, Y, price), moments, network)
        return optax.apply_updates(network, updates), moments

    return jax.lax.fori_loop(done, to, step, state)


def objective(network: Network, X, Y, price):
    """That of the model, with what the layers below make of X for features."""
    H = features(network, X)
    errors = 0.5 * jnp.mean(jnp.sum((H @ network.A.T + network.b[None, :] - Y) ** 2, axis=1))
    lambda_A, lambda_H = decays_at(price, len(X))
    return errors + 0.5 * lambda_A * jnp.sum(network.A**2) + 0.5 * lambda_H * jnp.sum(H**2)


def features(network: Network, X):
    """H (N, d): hidden layers cut at zero, but for the last."""
    *hidden, (W, shift) = network.layers
    for V, low in hidden:
        X = jax.nn.relu(X @ V.T + low[None, :])
    return X @ W.T + shift[None, :]


def look(networks: Network, X) -> tuple[np.ndarray, ...]:
    """H, A and b of all."""
    H = jax.vmap(features, in_axes=(0, None))(networks, X)
    return tuple(np.asarray(part, np.float64) for part in (H, networks.A, networks.b))


def draw(table: xarray.Dataset) -> plot.Figure:
    """Spectrum and residual over ĉ above; objective and collapse of the perceptrons over steps below."""
    made, ((spectra, residuals), (objectives, metrics)) = plot.figure(2, 2, width=10.5, height=8.0)
    draw_spectra(spectra, table)
    draw_residuals(residuals, table)
    draw_objectives(objectives, table)
    first = table.isel(trained=0)
    for colour, width, name in zip(plot.COLOURS, (4.0, 1.6, 1.6), NRC, strict=False):
        metrics.plot(table.step[1:], first[name][1:], color=colour, lw=width, label=SAID[name])
    metrics.set(xscale="log", yscale="log", xlabel="step", ylabel="NRC, zero at collapse")
    metrics.set(title=f"Features collapse, at ĉ = {float(first.trained):g}")
    metrics.legend(loc="lower left", frameon=False)
    return made


def draw_spectra(axis, table: xarray.Dataset) -> None:
    """Eigenvalues of AAᵀ, which fall by as much as ĉ grows until they are zero."""
    for colour, mark, j in zip(plot.COLOURS, plot.MARKS, table.direction.values, strict=False):
        label = f"minima, $\\sqrt{{λ_{j}}}$ = {float(table.deviation.sel(direction=j)):.2f}"
        axis.plot(table.price, table.eigenvalue.sel(direction=j), mark, color=colour, ms=3, label=label)
        axis.plot(table.trained, table.trained_eigenvalue.sel(direction=j), "x", color=colour, ms=8, mew=1.8)
        axis.plot(table.price, table["predicted/eigenvalue"].sel(direction=j), "k--", lw=1.0)
    axis.plot([], [], "kx", ms=8, mew=1.8, label="perceptrons")
    axis.plot([], [], "k--", lw=1.0, label="theory: $[\\sqrt{λ_j} − ĉ]_+$")
    axis.set(xlabel="ĉ = √(N λ_A λ_H)", ylabel="eigenvalues of $AA^⊤$, for $λ_A = Nλ_H$")
    axis.set(title="Directions die one by one")
    axis.legend(loc="upper right", frameon=False)


def draw_residuals(axis, table: xarray.Dataset) -> None:
    """Mean squared residual, a power of ĉ while all directions live."""
    axis.plot(table.price, table.residual, "o", color=plot.COLOURS[0], ms=3, label="minima")
    axis.plot(table.trained, table.trained_residual, "x", color=plot.COLOURS[1], ms=8, mew=1.8, label="perceptrons")
    axis.plot(table.price, table["predicted/residual"], "k--", lw=1.0, label="theory: $Σ_j\\,\\min(ĉ^2, λ_j)$")
    for deviation in table.deviation.values:
        axis.axvline(deviation, color="black", ls=":", lw=1.0)
    axis.plot([], [], "k:", lw=1.0, label="theory: $ĉ = \\sqrt{λ_j}$")
    axis.set(xscale="log", yscale="log", xlabel="ĉ = √(N λ_A λ_H)", ylabel="mean squared residual")
    axis.set(title="What is left of the targets")
    axis.legend(loc="upper left", frameon=False)


def draw_objectives(axis, table: xarray.Dataset) -> None:
    """Objectives of the perceptrons, above certified minima."""
    for colour, price in zip(plot.COLOURS, table.trained.values, strict=False):
        at = table.sel(trained=price)
        axis.plot(table.step[1:], at.objective[1:], color=colour, label=f"ĉ = {price:g}")
        axis.axhline(float(at.minimum), color="black", ls="--", lw=1.0)
    axis.plot([], [], "k--", lw=1.0, label="theory: minimum of the UFM")
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="objective", title="Perceptrons end at the minimum")
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set(
        yticks=[value for value in (0.1, 0.2, 0.5, 1, 2, 5, 10) if axis.get_ylim()[0] < value < axis.get_ylim()[1]]
    )
    axis.legend(loc="upper right", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print how far minima are from theory, and where the perceptrons end."""
    off = float(np.abs(table.eigenvalue - table["predicted/eigenvalue"]).max())
    residual = float(np.abs(table.residual / table["predicted/residual"] - 1).max())
    rows = [
        ["certified minima", table.gap.size + table.minimum_gap.size],
        ["largest relative gap", max(float(table.gap.max()), float(table.minimum_gap.max()))],
        ["claims of theorems that hold", f"{int(table.claims_held)} of {int(table.claims)}"],
        ["largest error of an eigenvalue of AAᵀ", off],
        ["largest relative error of the residual", residual],
    ]
    show(["quantity", "measured"], rows)
    ends, rows = table.isel(step=-1), []
    for price in table.trained.values:
        end = ends.sel(trained=price)
        excess = float(end.objective / end.minimum - 1)
        shown = ", ".join(f"{value:.4f}" for value in end.trained_eigenvalue.values)
        expected = ", ".join(f"{max(value - price, 0):.4f}" for value in table.deviation.values)
        rows.append([f"ĉ = {price:g}", excess, *(float(end[name]) for name in NRC), shown, expected])
    titles = ["excess over the minimum", "NRC1", "NRC2", "NRC3", "eigenvalues of AAᵀ", "theory"]
    show(["perceptron", *titles], rows)


def main(config: Config) -> None:
    """Minimise, train, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
