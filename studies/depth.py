"""Depth: with hidden layers beneath the classifier, classes die by a jump, and every layer collapses.

A product of L matrices under weight decay is features, L − 2 hidden layers and a classifier. With squared error and
linear layers the minimum is known for every L (Dang et al. 2023): as decay λ grows, a direction of the targets is lost
all at once for L ≥ 3, and beyond that jump it is a local minimum still, up to a fold. What training ends at there
depends on where it begins. With ReLU layers and more classes collapse is no minimum: solutions of low rank lie below it
(Súkeník et al. 2024), and lower ones are found from there. A perceptron on handwritten digits whose upper layers are
linear has the singular values that the model predicts in each of them, and behind ReLUs nearly these: there the first
features may have other ones at the same objective. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import functools as ft
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
import xarray
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

import ufm
from handwriting import NUM_CLASSES, split_by_class
from ufm import plot
from ufm.console import progress, show
from ufm.theory import deep_linear, deep_relu
from ufm.training import schedule

METRICS = ("nc1", "nc2", "nc3")
ACTIVATIONS = {"linear": "linear", "relu": "ReLU"}
LINES = {"linear": {"ls": "-", "marker": "o"}, "relu": {"ls": "-.", "marker": "s"}}


@dataclasses.dataclass(frozen=True)
class Config:
    """The models, how they are trained, and the perceptrons."""

    num_classes: int = 4
    """K of the models."""
    dim: int = 32
    """Dimension of their features, and of all hidden layers."""
    per_class: int = 5
    """Samples of each class."""
    depths: tuple[int, ...] = (2, 3, 4, 5, 6)
    """L, how many matrices are multiplied, features and classifier included."""
    smallest: float = 2e-3
    """Weight decay λ of every matrix at the lower end; features have λ/N each."""
    largest: float = 0.6
    """λ at the upper end."""
    points: int = 25
    """How many minima at each depth, log-spaced."""
    trained_depth: int = 4
    """L of the models that are trained."""
    shares: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7, 0.85, 0.95, 1.05, 1.13, 1.21, 1.29, 1.37, 1.5)
    """Their λ, in units of the jump's."""
    scales: tuple[float, ...] = (0.3, 1.0, 2.0)
    """Of the initial points: norms of their rows."""
    seeds: int = 4
    """Initial points of each scale."""
    steps: int = 6000
    """Of gradient descent with momentum."""
    rate: float = 0.03
    """Its learning rate."""
    followed: float = 0.1
    """λ, in units of the jump's, at which layers are followed along training."""
    relu_classes: tuple[int, ...] = (3, 4, 6, 10)
    """K of ReLU models of one sample a class that are minimised; layers have K dimensions."""
    relu_layers: tuple[int, ...] = (2, 3, 4)
    """Hidden layers of those of the most classes; others have as many as there are in the middle."""
    relu_decay: float = 2e-3
    """Weight decay of all of their matrices."""
    relu_steps: int = 10_000
    """Function evaluations of each start of these minimisations."""
    samples: int = 50
    """Training samples of each digit."""
    below: tuple[int, ...] = (256,)
    """Widths of the perceptrons' layers below the features; these are cut at zero, and the features are affine."""
    width: int = 64
    """Dimension of the features, and of the two layers between them and the classifier."""
    decays: tuple[float, ...] = (4e-3, 6e-3, 9e-3)
    """Weight decay of these layers and of the classifier; there is none below the features."""
    lambda_H: float = 1e-5
    """That of the features, per sample."""
    epochs: int = 6000
    """Steps of Adam on all samples at once."""
    adam_rate: float = 4e-3
    """Its learning rate at first; it follows a cosine to zero."""
    snapshots: int = 40
    """How often layers are looked at, log-spaced."""
    output: pathlib.Path = pathlib.Path("figures/depth.png")
    """Figure to write; the data goes beside it as .npz."""


def problem_of(config: Config, depth: int, price: float, activation: str = "linear") -> ufm.Problem:
    """Balanced classes, squared error without bias, `depth` matrices with decay λ = `price`, features per sample."""
    K, n, layers = config.num_classes, config.per_class, depth - 2
    hidden: dict[str, Any] = {"lambda_W": price, "activation": activation} if layers else {}
    return ufm.Problem(
        num_classes=K,
        dim=config.dim,
        per_class=n,
        loss=ufm.SquaredError(),
        lambda_A=price,
        lambda_H=price / (K * n),
        bias=False,
        widths=(config.dim,) * layers,
        **hidden,
    )


def data(config: Config) -> xarray.Dataset:
    """Minima over decay and depth, where training ends, layers along training, ReLU models, and perceptrons."""
    parts = over_decays, over_starts, over_steps, over_structures, over_digits
    return xarray.merge([part(config) for part in parts])


def over_decays(config: Config) -> xarray.Dataset:
    """Values and singular values of certified minima, and both of theory's branches on a finer grid."""
    prices = np.geomspace(config.smallest, config.largest, config.points)
    fine = np.geomspace(config.smallest, config.largest, 16 * config.points - 15)
    problems = [problem_of(config, L, price) for L in config.depths for price in prices]
    bests = ufm.minimize(problems)
    shape = len(config.depths), len(prices)
    curves = [[branches_of(problem_of(config, L, price)) for price in fine] for L in config.depths]
    branches = {name: [[at[name] for at in row] for row in curves] for name in curves[0][0]}
    return xarray.Dataset(
        {
            "value": (("depth", "price"), np.reshape([best.value for best in bests], shape)),
            "gap": (("depth", "price"), np.reshape([best.gap / best.value for best in bests], shape)),
            "x": (("depth", "price"), np.reshape([sizes_of(best.params).max() for best in bests], shape)),
            **{f"predicted/{name}": (("depth", "fine"), values) for name, values in branches.items()},
            "jump": ("depth", [jump_of(config, L) for L in config.depths]),
            "target": deep_linear.directions(problems[0]).s[0],
        },
        coords={"depth": list(config.depths), "price": prices, "fine": fine},
    )


def branches_of(problem: ufm.Problem) -> dict[str, float]:
    """The value where all directions live and where none does, and x and whether it lives at the minimum."""
    both = deep_linear.directions(problem).both
    there = both.x[0] > 0
    return {
        "living": float(np.sum(both.value)) if there else np.nan,
        "zero": float(np.sum(both.at_zero)),
        "x": float(both.x[0]) if there else np.nan,
        "lives": float(both.lives[0]),
    }


def jump_of(config: Config, depth: int) -> float:
    """λ at which no direction lives any more: C is λ, and C s^{2/L−2} the same at every s."""
    unit = deep_linear.directions(problem_of(config, depth, 1.0)).s[0] ** (2.0 - 2.0 / depth)
    if depth == 2:
        return float(unit)
    return ufm.predict(problem_of(config, depth, 1.0)).thresholds[deep_linear.JUMP]


def outputs(params: ufm.Params) -> np.ndarray:
    """H W_1ᵀ … Aᵀ of linear layers, (…, N, K)."""
    X = np.asarray(params.H, np.float64)
    for W in (*params.W, params.A):
        X = X @ np.swapaxes(W, -1, -2)
    return X


def sizes_of(params: ufm.Params) -> np.ndarray:
    """Singular values of outputs over √N, largest first: x of each direction."""
    Z = outputs(params)
    return np.linalg.svd(Z, compute_uv=False) / np.sqrt(Z.shape[-2])


def over_starts(config: Config) -> xarray.Dataset:
    """Where training ends from points of several scales, by decay."""
    L = config.trained_depth
    prices = jump_of(config, L) * np.array(config.shares)
    seeds = range(len(config.scales) * config.seeds)
    fine = np.linspace(config.shares[0], config.shares[-1], 200)
    ends, alive = [], []
    with progress(len(prices), "decays") as update:
        for done, price in enumerate(prices, 1):
            problem = problem_of(config, L, price)
            starts = [problem.init(seed, scale=config.scales[seed // config.seeds]) for seed in seeds]
            together = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
            run = ufm.train(problem, descent(config), steps=config.steps, seed=seeds, params=together, snapshots=2)
            ends.append(run.history.loss[:, -1].reshape(-1, config.seeds))
            sizes = sizes_of(run.params)
            alive.append(np.sum(sizes > 0.1 / np.sqrt(config.num_classes), axis=1).reshape(-1, config.seeds))
            update(done, f"λ = {price:.3g}")
    return xarray.Dataset(
        {
            "end": (("share", "scale", "seed"), ends),
            "alive": (("share", "scale", "seed"), alive),
            "predicted/local": (
                ("fine_share", "living"),
                [local_values(problem_of(config, L, share * jump_of(config, L))) for share in fine],
            ),
            "trained_depth": L,
        },
        coords={
            "share": list(config.shares),
            "fine_share": fine,
            "scale": list(config.scales),
            "seed": range(config.seeds),
            "living": range(config.num_classes + 1),
        },
    )


def descent(config: Config) -> optax.GradientTransformation:
    """Gradient descent with momentum."""
    return optax.sgd(config.rate, momentum=0.9)


def local_values(problem: ufm.Problem) -> np.ndarray:
    """Theory's values where none, one, two, … of the directions live; NaN where these are no minima."""
    both = deep_linear.directions(problem).both
    gains = np.where(both.x > 0, both.at_zero - both.value, np.nan)
    return np.sum(both.at_zero) - np.cumsum([0.0, *gains])


def over_steps(config: Config) -> xarray.Dataset:
    """NC1–NC3 of features and of every hidden layer along training, linear and ReLU: means over seeds, geometric."""
    L, seeds = config.trained_depth, range(config.seeds)
    price = config.followed * jump_of(config, L)
    found, steps = {name: [] for name in METRICS}, np.array([])
    for activation in ACTIVATIONS:
        problem = problem_of(config, L, price, activation)
        run = ufm.train(
            problem, descent(config), steps=config.steps, seed=seeds, snapshots=config.snapshots, precision="float64"
        )
        steps, layers = run.history.step, run.history.layers
        for name in METRICS:
            found[name].append(np.exp(np.mean(np.log(getattr(layers, name)), axis=0)))
    axes = ("activation", "step", "layer")
    coords = {"activation": list(ACTIVATIONS), "step": steps, "layer": range(L - 1)}
    return xarray.Dataset({f"followed/{name}": (axes, values) for name, values in found.items()}, coords)


def over_structures(config: Config) -> xarray.Dataset:
    """ReLU models: values of collapse and low rank over classes and layers, the best found, and one's Gram matrices."""
    most, usual = max(config.relu_classes), config.relu_layers[len(config.relu_layers) // 2]
    cases = {
        "relu_class": [(K, usual) for K in config.relu_classes],
        "relu_layer": [(most, layers) for layers in config.relu_layers],
    }
    found = {}
    for case in sorted({*itertools.chain(*cases.values())}):
        found[case] = ufm.minimize(relu_problem(config, *case), max_steps=config.relu_steps)
    values = {f"{name}/found": (name, [found[case].value for case in each]) for name, each in cases.items()}
    fine = {
        "any_class": [(K, usual) for K in range(3, most + 3)],
        "any_layer": [(most, layers) for layers in range(1, max(config.relu_layers) + 2)],
    }
    for name, each in fine.items():
        known = [structures_of(relu_problem(config, *case)) for case in each]
        values |= {f"{name}/{which}": (name, [one[which] for one in known]) for which in ("collapse", "low rank")}
    features, _ = layers_of(found[most, usual].problem, found[most, usual].params)
    grams = [cosines(X) for X in features[:-1]]
    return xarray.Dataset(
        {**values, "relu/cosine": (("relu_stage", "class", "other_class"), grams), "usual_layers": usual},
        coords={
            "relu_class": list(config.relu_classes),
            "relu_layer": list(config.relu_layers),
            "any_class": [K for K, _ in fine["any_class"]],
            "any_layer": [layers for _, layers in fine["any_layer"]],
        },
    )


def relu_problem(config: Config, classes: int, layers: int) -> ufm.Problem:
    """One sample a class, ReLU layers of as many dimensions as classes, squared error without bias."""
    decay = config.relu_decay
    return ufm.Problem(
        num_classes=classes,
        dim=classes,
        per_class=1,
        loss=ufm.SquaredError(),
        lambda_A=decay,
        lambda_H=decay,
        bias=False,
        widths=(classes,) * layers,
        lambda_W=decay,
        activation="relu",
    )


def structures_of(problem: ufm.Problem) -> dict[str, float]:
    """Theory's value of collapse, and of the best solution of low rank in all classes or some; NaN where none is."""
    model = deep_relu.model_of(problem)
    known = {name: model.value(root) for name, root in deep_relu.roots(model).items()}
    collapse = known.pop("collapse")
    return {"collapse": collapse, "low rank": min(known.values(), default=np.nan)}


def cosines(X: np.ndarray) -> np.ndarray:
    """(N, N) of features (N, w)."""
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    return unit @ unit.T


class Perceptron(NamedTuple):
    """Weights (above, below) and shifts of the layers below the features; layers W above them; classifier A (K, w)."""

    below: tuple
    W: tuple
    A: Any


def problem_on_digits(config: Config, activation: str) -> ufm.Problem:
    """The model: the perceptron's objective with free features in place of the layers below them."""
    *hidden, last = config.decays
    return ufm.Problem(
        num_classes=NUM_CLASSES,
        dim=config.width,
        per_class=config.samples,
        loss=ufm.SquaredError(),
        lambda_A=last,
        lambda_H=config.lambda_H,
        bias=False,
        widths=(config.width,) * len(hidden),
        lambda_W=hidden,
        activation=activation,
    )


def over_digits(config: Config) -> xarray.Dataset:
    """Perceptrons over steps: objective, and singular values and NC1–NC3 of every layer's class means at the end."""
    digits = split_by_class((config.samples,) * NUM_CLASSES, seed=0)
    linear = problem_on_digits(config, "linear")
    best, names = ufm.minimize(linear), ("objective", "singular", "accuracy", *METRICS)
    found: dict[str, list] = {name: [] for name in names}
    epochs = schedule(config.epochs, config.snapshots)
    for activation in ACTIVATIONS:
        problem = problem_on_digits(config, activation)
        looks = list(fit(config, problem, digits.X, epochs))
        features, metrics = layers_of(problem, looks[-1])
        found["objective"].append([problem.objective(params) for params in looks])
        found["singular"].append([singular_values(problem, X) for X in features])
        found["accuracy"].append(metrics.accuracy[-1])
        for name in METRICS:
            found[name].append(getattr(metrics, name))
    axes = {"objective": ("epoch",), "singular": ("stage", "index"), "accuracy": ()} | dict.fromkeys(
        METRICS, ("digits_layer",)
    )
    return xarray.Dataset(
        {
            **{f"digits/{name}": (("activation", *axes[name]), found[name]) for name in names},
            "digits/predicted": ("stage", predicted_sizes(linear)),
            "digits/minimum": best.value,
            "digits/gap": best.gap / best.value,
        },
        coords={"activation": list(ACTIVATIONS), "epoch": epochs},
    )


def predicted_sizes(problem: ufm.Problem) -> np.ndarray:
    """Theory's singular value of class means as features, after each hidden layer, and as outputs; all are equal."""
    theirs = deep_linear.directions(problem)
    first, *others = np.sqrt(theirs.squared[0] / theirs.decays)
    return np.cumprod([first / np.sqrt(problem.group_counts[0]), *others])


def singular_values(problem: ufm.Problem, X: np.ndarray) -> np.ndarray:
    """(K,) of the class means of features (N, w), the largest first."""
    means = X.reshape(problem.num_classes, -1, X.shape[1]).mean(axis=1)
    return np.linalg.svd(means, compute_uv=False)[: problem.num_classes]


def layers_of(problem: ufm.Problem, params: ufm.Params) -> tuple[list[np.ndarray], ufm.Metrics]:
    """Features of every layer and the outputs; and metrics of the layers, each with the mean slopes of its outputs."""
    features, relu = [params.H], problem.activation == "relu"
    for W in params.W:
        X = features[-1] @ W.T
        features.append(np.maximum(X, 0.0) if relu else X)
    readers = [np.repeat(params.A, problem.group_counts, axis=0)]  # a row for each sample, of its class's output
    for W, X in zip(params.W[::-1], features[:0:-1], strict=True):
        readers.insert(0, np.where(X > 0, readers[0], 0.0) @ W if relu else readers[0] @ W)
    slopes = [rows.reshape(problem.num_classes, -1, rows.shape[1]).mean(axis=1) for rows in readers]
    return [*features, features[-1] @ params.A.T], ufm.measure(features, problem.labels, slopes)


def fit(config: Config, problem: ufm.Problem, X: np.ndarray, epochs: list[int]) -> Iterator[ufm.Params]:
    """Train a perceptron by Adam on all samples, and give its features and the layers above them on the way."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.adam_rate, config.epochs))
    network = start(config, X.shape[1])
    state = network, optimizer.init(network)  # pyright: ignore[reportArgumentType]
    advance = jax.jit(ft.partial(advanced, optimizer, problem))
    with progress(config.epochs, "steps") as update:
        for done, to in itertools.pairwise([0, *epochs]):
            state = advance(state, X, done, to)
            update(to, f"perceptron, {ACTIVATIONS[problem.activation]}")
            yield jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), in_model(state[0], X))


def start(config: Config, inputs: int) -> Perceptron:
    """Weights of variance 2 over the number of their inputs, those of affine and upper layers of half that."""
    random = np.random.default_rng(1)

    def normal(below, above, gain):
        return jnp.asarray(random.normal(0.0, np.sqrt(gain / below), (above, below)), jnp.float32)

    sides, w = list(itertools.pairwise([inputs, *config.below, config.width])), config.width
    below = [(normal(*side, 2.0 if side[1] != w else 1.0), jnp.zeros(side[1], jnp.float32)) for side in sides]
    return Perceptron(tuple(below), tuple(normal(w, w, 1.0) for _ in config.decays[1:]), normal(w, NUM_CLASSES, 1.0))


def advanced(optimizer: optax.GradientTransformation, problem: ufm.Problem, state: tuple, X, done, to) -> tuple:
    """Perceptron and optimiser's state at step `to`, from those at `done`."""

    def objective(network):
        return problem.objective(in_model(network, X))

    def step(_, state):
        network, moments = state
        updates, moments = optimizer.update(jax.grad(objective)(network), moments, network)
        return optax.apply_updates(network, updates), moments

    return jax.lax.fori_loop(done, to, step, state)


def in_model(network: Perceptron, X) -> ufm.Params:
    """Parameters of the model, whose features H (N, w) are what the layers below make of pixels."""
    *hidden, (last, shift) = network.below
    for V, low in hidden:
        X = jax.nn.relu(X @ V.T + low[None, :])
    return ufm.Params(X @ last.T + shift[None, :], network.A, jnp.zeros(NUM_CLASSES, jnp.float32), network.W)


def draw(table: xarray.Dataset) -> plot.Figure:
    """Minima and ends of training, layers along training, ReLU models, perceptrons on digits: a row each."""
    made, (minima, followed, structures, digits) = plot.figure(4, 3, width=12.5, height=15.0)
    for axis, panel in zip(minima, (draw_values, draw_sizes, draw_ends), strict=True):
        panel(axis, table)
    for axis, panel in zip(digits, (draw_perceptrons, draw_layers, draw_objectives), strict=True):
        panel(axis, table)
    for axis, name in zip(followed, METRICS, strict=True):
        draw_followed(axis, table, name)
    most, usual = int(table.relu_class.max()), int(table.usual_layers)
    draw_structures(structures[0], table, "class", "classes K", f"ReLU, {usual} hidden layers: value over classes")
    draw_structures(structures[1], table, "layer", "hidden layers", f"ReLU, {most} classes: value over layers")
    draw_cosines(structures[2], table)
    return made


def coloured(table: xarray.Dataset) -> Iterator[tuple[str, str, xarray.Dataset]]:
    """Each depth with its colour and mark."""
    for colour, mark, L in zip(plot.COLOURS, plot.MARKS, table.depth.values, strict=False):
        yield colour, mark, table.sel(depth=L)


def draw_values(axis, table: xarray.Dataset) -> None:
    """The least value at each depth, and the branch of living directions on to its fold; in units of zero's."""
    for colour, mark, at in coloured(table):
        zero, living = at["predicted/zero"], at["predicted/living"]
        axis.plot(table.price, at.value / zero[0].item(), mark, color=colour, ms=4)
        axis.plot(table.fine, np.where(at["predicted/lives"] > 0, living, zero) / zero, "k--", lw=1.0)
        axis.plot(table.fine, (living / zero).where(at["predicted/lives"] == 0), ":", color=colour, lw=1.6)
    axis.plot([], [], "ko", ms=4, label="certified minima, colours as right")
    axis.plot([], [], "k--", lw=1.0, label="theory: Dang et al. 2023")
    axis.plot([], [], "k:", lw=1.6, label="theory: metastable, up to its fold")
    axis.set(xscale="log", yscale="log", xlabel="weight decay λ", ylabel="value / value at zero")
    axis.set(title="The minimum at each depth", ylim=(0.3 * float(table.value.min()), 3.0))
    axis.legend(loc="lower right", frameon=False)


def draw_sizes(axis, table: xarray.Dataset) -> None:
    """What is left of the targets at the minimum, with jumps."""
    for colour, mark, at in coloured(table):
        lives, x = at["predicted/lives"] > 0, at["predicted/x"] / table.target
        axis.plot(table.price, at.x / table.target, mark, color=colour, ms=4, label=f"minima, L = {int(at.depth)}")
        axis.plot(table.fine, x.where(lives, 0.0), "k--", lw=1.0)
        axis.plot(table.fine, x.where(~lives), ":", color=colour, lw=1.6)
    axis.set(xscale="log", xlabel="weight decay λ", ylabel="singular values of outputs / of targets")
    axis.set(title="Directions jump to zero, but for L = 2")
    axis.legend(loc="lower left", frameon=False)


def draw_ends(axis, table: xarray.Dataset) -> None:
    """Where training ends around the jump, on theory's local minima."""
    local = table["predicted/local"]
    zero = local.isel(living=0)
    for living in table.living.values:
        label = f"theory: 0 to {table.living.values[-1]} directions live" if living == 0 else None
        axis.plot(table.fine_share, (local / zero).sel(living=living), "k--", lw=0.9, label=label)
    for colour, mark, scale in zip(plot.COLOURS, plot.MARKS, table.scale.values, strict=False):
        found, label = table.end.sel(scale=scale) / float(zero[0]), f"trained from size {scale:g}"
        for seed in table.seed.values:
            axis.plot(table.share, found.sel(seed=seed), mark, color=colour, ms=5, mfc="none", label=label)
            label = None
    axis.axvline(1.0, color="black", ls=":", lw=1.0, label="theory: jump")
    axis.set(xlabel="weight decay λ / λ of the jump", ylabel="value / value at zero")
    axis.set(title=f"Training ends on either side, L = {int(table.trained_depth)}", ylim=(0.0, None))
    axis.legend(loc="lower right", facecolor="white", edgecolor="none", framealpha=1.0, frameon=True)


def draw_followed(axis, table: xarray.Dataset, name: str) -> None:
    """A metric of each layer along training."""
    for activation, said in ACTIVATIONS.items():
        for colour, layer in zip(plot.COLOURS, table.layer.values, strict=False):
            found = table[f"followed/{name}"].sel(activation=activation, layer=layer)
            label = f"{said}, {'features' if layer == 0 else f'layer {layer}'}"
            axis.plot(table.step[1:], found[1:], color=colour, ms=3, lw=1.2, label=label, **LINES[activation])
    axis.set(xscale="log", yscale="log", xlabel="step")
    axis.set_title(plot.LABELS[name], fontsize="medium")
    axis.legend(loc="lower left", frameon=False, fontsize="small")


def draw_structures(axis, table: xarray.Dataset, over: str, said: str, title: str) -> None:
    """What is found of ReLU models and theory's low rank, in units of collapse's value."""
    collapse, low = (table[f"any_{over}/{which}"] for which in ("collapse", "low rank"))
    found, at = table[f"relu_{over}/found"], table[f"relu_{over}"].values
    there = collapse.sel({f"any_{over}": at}).values
    axis.axhline(1.0, color="black", ls="--", lw=1.2, label="theory: collapse")
    axis.plot(table[f"any_{over}"], low / collapse, "x--", color=plot.COLOURS[3], lw=1.2, label="theory: low rank")
    axis.plot(at, found / there, "o", color=plot.COLOURS[0], ms=6, label="found by minimize")
    axis.set(xlabel=said, ylabel="value / value of collapse", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="lower left", frameon=False)
    axis.set_ylim(bottom=0.9 * float((found / there).min()))


def draw_cosines(axis, table: xarray.Dataset) -> None:
    """Cosines of the classes' features at the best ReLU solution, a block for each layer."""
    blocks = table["relu/cosine"].values
    count, K = len(blocks), blocks.shape[1]
    columns = int(np.ceil(np.sqrt(count)))
    for j, block in enumerate(blocks):
        row, column = divmod(j, columns)
        left, top = column * (K + 1), row * (K + 3)
        axis.imshow(block, vmin=-1.0, vmax=1.0, cmap="PuOr", extent=(left, left + K, top + K, top))
        axis.text(left + K / 2, top - 0.4, "features" if j == 0 else f"layer {j}", ha="center", va="bottom")
    height = (count + columns - 1) // columns * (K + 3)
    axis.set(xlim=(-0.5, columns * (K + 1) - 0.5), ylim=(height - 2.5, -2.5), xticks=[], yticks=[])
    axis.set(title=f"ReLU: cosines of {K} classes, best found")
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    axis.figure.colorbar(axis.images[0], ax=axis, location="bottom", shrink=0.6, aspect=30)


def draw_perceptrons(axis, table: xarray.Dataset) -> None:
    """Singular values of class means after each layer of the perceptrons, beside the model's."""
    stages = np.arange(table.sizes["stage"])
    for colour, (kind, said), aside in zip(plot.COLOURS, ACTIVATIONS.items(), (-0.12, 0.12), strict=False):
        found, label = table["digits/singular"].sel(activation=kind), f"perceptron, upper layers {said}"
        for index in range(table.sizes["index"]):
            mark = LINES[kind]["marker"]
            axis.plot(stages + aside, found.isel(index=index), mark, color=colour, ms=4, mfc="none", label=label)
            label = None
    bars = {"color": "black", "ls": "--", "lw": 1.2, "label": "theory: deep linear"}
    axis.hlines(table["digits/predicted"], stages - 0.35, stages + 0.35, **bars)
    axis.set(yscale="log", ylabel="singular values of class means", title="Digits: singular values by layer")
    axis.set_xticks(stages, ["features", *(f"layer {j}" for j in stages[1:-1]), "outputs"])
    axis.set_ylim(bottom=0.6 * float(table["digits/predicted"].min()))
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="lower left", frameon=False)


def draw_layers(axis, table: xarray.Dataset) -> None:
    """NC1–NC3 by layer of the perceptrons at the end."""
    stages, least = np.arange(table.sizes["digits_layer"]), np.inf
    for activation, said in ACTIVATIONS.items():
        for colour, name in zip(plot.COLOURS, METRICS, strict=False):
            found = table[f"digits/{name}"].sel(activation=activation)
            least = min(least, float(found.min()))
            axis.plot(stages, found, color=colour, ms=5, lw=1.4, label=f"{name.upper()}, {said}", **LINES[activation])
    axis.set_xticks(stages, ["features", *(f"layer {j}" for j in stages[1:])])
    axis.set(yscale="log", ylabel="NC1–NC3, zero at collapse", title="Digits: all layers at the end")
    axis.set_ylim(bottom=least / 1e3)
    axis.legend(loc="lower left", ncols=2, frameon=False)


def draw_objectives(axis, table: xarray.Dataset) -> None:
    """Objectives of the perceptrons, above the certified minimum of the linear model."""
    for colour, (kind, said) in zip(plot.COLOURS, ACTIVATIONS.items(), strict=False):
        found, label = table["digits/objective"].sel(activation=kind), f"perceptron, upper layers {said}"
        axis.plot(table.epoch[1:], found[1:], color=colour, lw=1.6, ls=LINES[kind]["ls"], label=label)
    axis.axhline(float(table["digits/minimum"]), color="black", ls="--", lw=1.2, label="theory: deep linear, minimum")
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="objective", title="Digits: down to the model's minimum")
    axis.legend(frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print how far minima are from theory, where training ends, and the perceptrons."""
    show(
        ["quantity", "measured"],
        [["certified minima", table.gap.size], ["largest relative gap", float(table.gap.max())]],
    )
    rows = [
        [
            f"λ = {share:g} of the jump's",
            *(f"{np.mean(table.alive.sel(share=share, scale=scale) > 0):.2f}" for scale in table.scale.values),
        ]
        for share in table.share.values
    ]
    show(["share of runs that end away from zero", *(f"from scale {scale:g}" for scale in table.scale.values)], rows)
    print_structures(table)
    rows = []
    for activation, said in ACTIVATIONS.items():
        at = table.sel(activation=activation)
        excess = float(at["digits/objective"][-1] / at["digits/minimum"]) - 1.0
        off = float(np.abs(at["digits/singular"] / table["digits/predicted"] - 1.0).max())
        rows.append(
            [said, excess, off, *(float(at[f"digits/{name}"][-1]) for name in METRICS), float(at["digits/accuracy"])]
        )
    titles = ["excess over the minimum", "largest error of a singular value", "NC1", "NC2", "NC3", "accuracy"]
    show(["perceptron", *titles], rows)


def print_structures(table: xarray.Dataset) -> None:
    """Print values of ReLU models, beside those of what is known."""
    for over in ("class", "layer"):
        found = table[f"relu_{over}/found"]
        at = table.sel({f"any_{over}": found[f"relu_{over}"].values})
        columns = at[f"any_{over}"], at[f"any_{over}/collapse"], at[f"any_{over}/low rank"], found
        titles = ["classes" if over == "class" else "hidden layers", "collapse", "low rank", "found"]
        show(
            titles,
            list(zip(*(column.values.tolist() for column in columns), strict=True)),
            caption="value of ReLU models",
        )


def main(config: Config) -> None:
    """Minimise, train, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
