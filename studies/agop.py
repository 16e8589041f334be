"""Collapse without a trained network: Deep recursive feature machines (Beaglehole et al. 2024).

Kernel ridge regression is fitted to handwritten digits; the average gradient outer product (AGOP) of what it learnt
says which directions matter; features are mapped by its square root, then by random weights and a ReLU; and so on
layer after layer. Variability within classes falls at every layer, exponentially, and the means approach a simplex.
The same layers without the AGOP do neither. Needs scikit-learn: `pip install -e '.[studies]'`.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.linalg
import tyro
import xarray
from scipy.spatial.distance import cdist

import ufm
from handwriting import NUM_CLASSES, Digits, split_by_class
from ufm import plot
from ufm.console import show

MACHINES = {"Laplace kernel": "laplace", "Gaussian kernel": "gauss", "no AGOP (Laplace kernel)": None}
SHOWN = ("nc1", "nc2", "trace_ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """The machine, and what it learns."""

    per_class: int = 50
    """Training samples of each digit; the others are for testing."""
    layers: int = 5
    """How often the features are mapped."""
    width: int = 512
    """Random features of a layer."""
    bandwidth: float = 2.0
    """Of either kernel, in the unit of the features, whose norm is 1."""
    ridge: float = 1e-3
    """Added to the kernel matrix's diagonal."""
    seeds: int = 3
    """How many splits and random weights."""
    output: pathlib.Path = pathlib.Path("figures/agop.png")
    """Figure to write; the data goes beside it as .npz."""


class Machine(NamedTuple):
    """A fitted kernel regression: f(x) = Σ_j α_j k(x, x_j).

    Attributes:
        kernel: "laplace", exp(−‖x−x'‖/w), or "gauss", exp(−‖x−x'‖²/(2w²)).
        bandwidth: w.
        X: (N, d) samples.
        alpha: (N, K) coefficients.
    """

    kernel: str
    bandwidth: float
    X: np.ndarray
    alpha: np.ndarray

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """(n, K) scores of (n, d) samples."""
        return kernel_matrix(self.kernel, self.bandwidth, X, self.X) @ self.alpha

    def gradients(self) -> np.ndarray:
        """(K, N, d): ∇f_c at each of the samples; a Laplace kernel's own cusp, x_i = x_j, counts as flat.

        ∇f_c(x_i) = Σ_j α_jc W_ij (x_j − x_i), where W = k/(w‖x_i − x_j‖) or k/w².
        """
        W = kernel_matrix(self.kernel, self.bandwidth, self.X, self.X)
        if self.kernel == "laplace":
            distances = cdist(self.X, self.X)
            W = np.where(distances > 0, W / (self.bandwidth * np.where(distances > 0, distances, 1.0)), 0.0)
        else:
            W = W / self.bandwidth**2
        return np.stack([W @ (a[:, None] * self.X) - (W @ a)[:, None] * self.X for a in self.alpha.T])

    def agop(self) -> np.ndarray:
        """(d, d) average gradient outer product, (1/N) Σ_i Σ_c ∇f_c(x_i) ∇f_c(x_i)ᵀ."""
        rows = self.gradients().reshape(-1, self.X.shape[1])
        return rows.T @ rows / len(self.X)


def kernel_matrix(kernel: str, bandwidth: float, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """(n, m) kernel of (n, d) and (m, d) samples."""
    if kernel == "laplace":
        return np.exp(-cdist(X, Y) / bandwidth)
    return np.exp(-cdist(X, Y, "sqeuclidean") / (2.0 * bandwidth**2))


def fit(kernel: str, bandwidth: float, ridge: float, X: np.ndarray, labels: np.ndarray) -> Machine:
    """Kernel ridge regression on labels ±1, one class against the others."""
    targets = np.where(labels[:, None] == np.arange(NUM_CLASSES)[None, :], 1.0, -1.0)
    gram = kernel_matrix(kernel, bandwidth, X, X) + ridge * np.eye(len(X))
    return Machine(kernel, bandwidth, X, scipy.linalg.solve(gram, targets, assume_a="pos"))


def root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def unit_rows(X: np.ndarray) -> np.ndarray:
    """Rows of norm 1; a zero row stays."""
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1.0)


def data(config: Config) -> xarray.Dataset:
    """Metrics over layers, of the features of a layer and of what the AGOP makes of them; and the test accuracy."""
    runs = [[through_layers(config, kernel, seed) for seed in range(config.seeds)] for kernel in MACHINES.values()]
    names = [*SHOWN, *(f"{name}_mapped" for name in SHOWN), "test_accuracy"]
    axes = ("machine", "seed", "layer")
    return xarray.Dataset(
        {name: (axes, [[run[name] for run in seeds] for seeds in runs]) for name in names},
        coords={"machine": list(MACHINES), "seed": range(config.seeds), "layer": range(config.layers + 1)},
    )


def through_layers(config: Config, kernel: str | None, seed: int) -> dict[str, np.ndarray]:
    """One machine, from pixels (layer 0) to the last layer; `None` leaves the AGOP out."""
    digits = split_by_class((config.per_class,) * NUM_CLASSES, seed)
    rng = np.random.default_rng([seed, 1])
    X, X_test = (unit_rows(x.astype(np.float64)) for x in (digits.X, digits.X_test))
    records = []
    for _ in range(config.layers + 1):
        machine = fit(kernel or "laplace", config.bandwidth, config.ridge, X, digits.labels)
        right = np.mean(np.argmax(machine(X_test), axis=1) == digits.labels_test)
        feature_map = root(machine.agop()) if kernel else np.eye(X.shape[1])
        records.append(measured(X, X @ feature_map, digits) | {"test_accuracy": right})
        weights = rng.uniform(-1.0, 1.0, (X.shape[1], config.width)) / np.sqrt(X.shape[1])
        X, X_test = (unit_rows(np.maximum(x @ feature_map @ weights, 0.0)) for x in (X, X_test))
    return {name: np.asarray([record[name] for record in records]) for name in records[0]}


def measured(X: np.ndarray, mapped: np.ndarray, digits: Digits) -> dict[str, float]:
    """Metrics before and after the map by the square root of the AGOP."""
    before, after = ufm.measure(X, digits.labels), ufm.measure(mapped, digits.labels)
    named = {name: getattr(before, name) for name in SHOWN}
    return named | {f"{name}_mapped": getattr(after, name) for name in SHOWN}


def draw(table: xarray.Dataset) -> plot.Figure:
    """Each metric over layers: mean of the seeds and their range; halfway, what the AGOP's root has made of them."""
    made, (axes,) = plot.figure(1, 3, width=11.0, height=4.0)
    layers = table.layer.values
    labels = {
        "nc1": plot.LABELS["nc1"],
        "trace_ratio": "Tr Cov_W / Tr Cov_B",
        "nc2": plot.LABELS["nc2"],
    }
    for axis, (name, title) in zip(axes, labels.items(), strict=True):
        for index, machine in enumerate(table.machine.values):
            values, mapped = (table[key].sel(machine=machine) for key in (name, f"{name}_mapped"))
            colour = plot.COLOURS[index]
            axis.plot(layers, values.mean("seed"), plot.MARKS[index] + "-", color=colour, ms=5, label=str(machine))
            axis.fill_between(layers, values.min("seed"), values.max("seed"), color=colour, alpha=0.2, lw=0)
            if MACHINES[str(machine)]:
                axis.plot(layers + 0.5, mapped.mean("seed"), plot.MARKS[index], color=colour, mfc="none", ms=5)
        axis.set(yscale="log", xlabel="layer (0: pixels)", title=title, xticks=layers)
    axes[-1].set_ylim(1e-2, 1.0)
    handles, names = axes[0].get_legend_handles_labels()
    handles.append(axes[0].plot([], [], "o", color="#555555", mfc="none", ms=5)[0])
    made.legend(handles, [*names, "features mapped by AGOP's root"], loc="outside lower center", ncols=4, frameon=False)
    return made


def summary(table: xarray.Dataset) -> None:
    """Print every quantity at every layer."""
    mean = table.mean("seed")
    rows = [
        [
            f"{machine}, layer {layer}",
            *(float(mean[name].sel(machine=machine, layer=layer)) for name in table.data_vars),
        ]
        for machine in table.machine.values
        for layer in table.layer.values
    ]
    titles = ["NC1", "NC2", "trace ratio", "NC1 mapped", "NC2 mapped", "ratio mapped", "test accuracy"]
    show(["features, mean of seeds", *titles], rows)


def main(config: Config) -> None:
    """Run, print, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
