"""The `ufm` command: what a script does, for people at a terminal."""

import dataclasses
import pathlib
import sys
import zipfile
from typing import Annotated, Any, Literal

import numpy as np
import tyro

import ufm
from ufm._tables import show

SMALL = ("step", "loss", "nc1", "nc2", "nc3", "nc4", "accuracy")


@dataclasses.dataclass(frozen=True)
class ProblemFlags:
    """An unconstrained features model."""

    num_classes: int = 10
    """K, number of classes."""
    dim: int = 64
    """d, dimension of the features."""
    per_class: tuple[int, ...] = (100,)
    """Samples of each class: one number, or K of them."""
    loss: Literal["cross-entropy", "squared-error", "label-smoothing", "focal"] = "cross-entropy"
    """What a prediction costs."""
    alpha: float = 0.1
    """Of label smoothing."""
    gamma: float = 2.0
    """Of the focal loss."""
    lambda_A: float = 5e-3
    """Weight decay of the classifier."""
    lambda_H: float = 5e-5
    """Weight decay of the features, per sample."""
    lambda_b: float = 0.0
    """Weight decay of the bias; 0 leaves it free."""
    bias: bool = True
    """Whether there is a bias."""
    feature_radius: float | None = None
    """Put features on a sphere of this radius (with --lambda-H 0)."""
    classifier_radius: float | None = None
    """Put classifier rows on a sphere of this radius (with --lambda-A 0)."""

    def problem(self) -> ufm.Problem:
        """The problem that the flags name."""
        losses = {
            "cross-entropy": ufm.CrossEntropy,
            "squared-error": ufm.SquaredError,
            "label-smoothing": lambda: ufm.LabelSmoothing(self.alpha),
            "focal": lambda: ufm.Focal(self.gamma),
        }
        return ufm.Problem(
            num_classes=self.num_classes,
            dim=self.dim,
            per_class=self.per_class[0] if len(self.per_class) == 1 else self.per_class,
            loss=losses[self.loss](),
            lambda_A=self.lambda_A,
            lambda_H=self.lambda_H,
            lambda_b=self.lambda_b,
            bias=self.bias,
            features=ufm.Free() if self.feature_radius is None else ufm.Sphere(self.feature_radius),
            classifier=ufm.Free() if self.classifier_radius is None else ufm.Sphere(self.classifier_radius),
        )


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an unconstrained features model and watch it collapse."""

    problem: Annotated[ProblemFlags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ProblemFlags)
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Gradient descent with momentum, or Adam."""
    rate: float = 1.0
    """Learning rate."""
    momentum: float = 0.9
    """Of gradient descent."""
    steps: int = 5000
    """Optimiser steps."""
    seed: int = 0
    """Of the initial parameters."""
    snapshots: int = 100
    """How often the metrics are recorded, log-spaced."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the computation."""
    save: pathlib.Path | None = None
    """Write the run here; `ufm.load` reads it."""
    figure: pathlib.Path | None = None
    """Draw NC1–NC4 into this PNG."""

    def __call__(self) -> int:
        """Train, print a table, write what was asked for; 1 after a divergence."""
        import optax

        sgd = optax.sgd(self.rate, momentum=self.momentum)
        optimizer = optax.adam(self.rate) if self.optimizer == "adam" else sgd
        run = ufm.train(
            self.problem.problem(), optimizer, self.steps, self.seed, self.snapshots, precision=self.precision
        )
        rows = np.unique(np.linspace(0, len(run.history.step) - 1, 8).astype(int))
        show(SMALL, [[getattr(run.history, name)[row] for name in SMALL] for row in rows], str(run.status))
        if self.save is not None:
            run.save(self.save)
        if self.figure is not None:
            from ufm import plot

            plot.save(plot.collapse({self.problem.loss: run.history}), self.figure)
        return 0 if run.status.outcome.name == "FINISHED" else 1


@dataclasses.dataclass(frozen=True)
class Measure:
    """Print the collapse metrics of an .npz file: H (N, d), labels (N,), and where known A (K, d), b (K,)."""

    file: tyro.conf.Positional[pathlib.Path]
    """An .npz file."""

    def __call__(self) -> int:
        """Print the table."""
        metrics = ufm.measure(**_features(self.file))
        found = [(name, value) for name, value in metrics._asdict().items() if value is not None]
        show(["metric", "value"], found, str(self.file))
        return 0


@dataclasses.dataclass(frozen=True)
class Verify:
    """Minimise a problem, and meet what theory predicts with what was measured; exit code 1 if a claim fails."""

    problem: Annotated[ProblemFlags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ProblemFlags)
    seed: int = 0
    """Of the random starting points, where they are needed."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> int:
        """Print the report."""
        report = ufm.verify(ufm.minimize(self.problem.problem(), seed=self.seed))
        print(report.to_json() if self.json else report)
        return int(report.fails)


@dataclasses.dataclass(frozen=True)
class Theorems:
    """List the theorems known, with their papers and what they assume."""

    def __call__(self) -> int:
        """Print the list."""
        for theorem in ufm.theorems():
            print(f"{theorem.name} ({theorem.paper})\n  assumes: {theorem.assumes}\n  predicts: {theorem.predicts}")
        return 0


COMMANDS = {"train": Train, "measure": Measure, "verify": Verify, "theorems": Theorems}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 where it succeeded, 1 where its answer is no, 2 for bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"ufm {ufm.__version__}")
        return 0
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="ufm", description=ufm.__doc__, args=arguments, sort_subcommands=False
    )
    try:
        return command()
    except (ValueError, OSError) as error:
        print(f"ufm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _features(file: pathlib.Path) -> dict[str, Any]:
    """Arrays of a feature file, or a ValueError that says what it lacks."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; an .npz file with H and labels is needed")
    with file.open("rb") as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: not an .npz file of plain arrays") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError(f"{file}: a single array; an .npz file with H and labels is needed")
        absent = {"H", "labels"} - set(archive.files)
        if absent:
            raise ValueError(f"{file}: no key {' and '.join(sorted(absent))}; it has {', '.join(archive.files)}")
        return {key: archive[key] for key in ("H", "labels", "A", "b") if key in archive.files}


if __name__ == "__main__":
    sys.exit(main())
