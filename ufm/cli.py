"""The `ufm` command: what a script does, for people at a terminal."""

import contextlib
import dataclasses
import inspect
import json
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeAlias

import jax
import numpy as np
import tyro

import ufm
from ufm._core.interrupts import end_now
from ufm.console import show
from ufm.metrics import files
from ufm.metrics.classes import Classes, Measured, Uniformity
from ufm.metrics.history import CHIEF
from ufm.metrics.measurement import check_options
from ufm.model import constraints, losses

UNREAD = 141  # exit code, as shells have it
CLASSES_SHOWN = 20  # in a table
SHOWN_BY_LAYER = ("nc1", "nc2", "nc3", "nc4", "self_duality", "trace_ratio", "cdnv", "accuracy")  # which fit on a line
UNIFORMITY = {
    "cosine": "cosines of class means",
    "log_distance": "log distances of class means",
    "duality": "cosines of classifier and means",
}  # of which means and deviations are known
USUAL: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(ufm.Problem)}  # pyright: ignore[reportArgumentType]


def _words(kind: type) -> str:
    """A class's name as one types it: mean-ball."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


def _numbers(kind: Any) -> list[str]:
    """Names of the numbers that a loss or a constraint is made of, and of their flags."""
    return [name for name in inspect.signature(kind).parameters if name != "counts"]


OF_COUNTS: dict[str, Any] = {
    name.replace("_", "-"): getattr(ufm.VectorScaling, name)
    for name in ("logit_adjustment", "cdt", "ldt", "vs", "ldam")
}  # losses that are made of the classes' counts
LOSSES: dict[str, Any] = {_words(kind): kind for kind in losses.OURS if kind is not ufm.VectorScaling} | OF_COUNTS
CONSTRAINTS: dict[str, Any] = {_words(kind): kind for kind in constraints.KINDS if not kind.fixed}
ETF = "etf"  # what a classifier may be fixed at, of what fits on a command line
if TYPE_CHECKING:
    LossName: TypeAlias = str
    FeaturesName: TypeAlias = str
    ClassifierName: TypeAlias = str
else:
    LossName, FeaturesName = Literal[tuple(LOSSES)], Literal[tuple(CONSTRAINTS)]
    ClassifierName = Literal[(*CONSTRAINTS, ETF)]


@dataclasses.dataclass(frozen=True)
class ProblemFlags:
    """An unconstrained features model."""

    num_classes: int | None = None
    """K, number of classes; 10 where neither it nor targets are given."""
    dim: int = 64
    """d, dimension of the features."""
    per_class: tuple[int, ...] | None = None
    """Samples of each class: one number, or K of them; 100 where neither it nor targets are given."""
    targets: pathlib.Path | None = None
    """An .npz of rows (M, K), counts (M,) and, where they aren't ones, weights (M,), instead of classes; or what a
    `ufm.Targets` saved."""
    loss: LossName = "cross-entropy"
    """What a prediction costs; those from logit-adjustment on have offsets and factors made of the classes' counts."""
    alpha: float = 0.1
    """Of label smoothing."""
    gamma: float | None = None
    """Of the focal loss, 2 where not given; of cdt, ldt and vs the power of counts that factors are, 0.2."""
    tau: float = 1.0
    """Of logit-adjustment and vs: what multiplies the logarithms of shares."""
    margin: float = 0.5
    """Of ldam: the margin of the rarest class."""
    lambda_A: float | None = None
    """Weight decay of the classifier; where not given 5e-4, and 0 for what has none: rows on a sphere, and fixed."""
    lambda_H: float | None = None
    """Weight decay of the features, per sample; where not given 5e-4, and 0 on a sphere."""
    lambda_b: float = USUAL["lambda_b"]
    """Weight decay of the bias; 0 leaves it free."""
    bias: bool = USUAL["bias"]
    """Whether there is a bias."""
    target: float = 1.0
    """Of dot regression."""
    features: FeaturesName = "free"
    """Where features may be."""
    feature_radius: float | None = None
    """Of the features' sphere or ball; 1 where not given."""
    classifier: ClassifierName = "free"
    """Where classifier rows may be; etf fixes them at a simplex."""
    classifier_radius: float | None = None
    """Of the classifier's sphere, ball or simplex; 1 where not given."""
    widths: tuple[int, ...] = USUAL["widths"]
    """Of the hidden layers between features and classifier, one after the other."""
    lambda_W: tuple[float, ...] | None = None
    """Weight decay of the hidden layers: one number, or one a layer; where not given 5e-4."""
    activation: Literal["linear", "relu"] = USUAL["activation"]
    """Of each hidden layer."""

    def problem(self) -> ufm.Problem:
        """The problem that the flags name."""
        features = self._constraint("features", self.features, "feature_radius")
        classifier = self._constraint("classifier", self.classifier, "classifier_radius")
        return ufm.Problem(
            **self._samples(),
            dim=self.dim,
            loss=self._loss(),
            lambda_A=self._decay("lambda_A", classifier),
            lambda_H=self._decay("lambda_H", features),
            lambda_b=self.lambda_b,
            bias=self.bias,
            features=features,
            classifier=classifier,
            widths=self.widths,
            lambda_W=_one_or_each(self.lambda_W),
            activation=self.activation,
        )

    def _loss(self) -> Any:
        """The loss, of the counts of the classes where it is made of these."""
        make = LOSSES[self.loss]
        given = {name: getattr(self, name) for name in _numbers(make) if getattr(self, name) is not None}
        if self.loss not in OF_COUNTS:
            return make(**given)
        if self.targets is not None:
            raise ValueError(f"loss = {self.loss!r} with targets: classes, whose counts it is made of, are needed")
        return make(ufm.Problem(**self._samples(), dim=self.dim).class_counts, **given)

    def _samples(self) -> dict[str, Any]:
        """Classes and their counts, or targets; a problem refuses both."""
        per_class = _one_or_each(self.per_class)
        if self.targets is not None:
            return {"targets": _targets(self.targets), "num_classes": self.num_classes, "per_class": per_class}
        K = 10 if self.num_classes is None else self.num_classes
        return {"num_classes": K, "per_class": 100 if per_class is None else per_class}

    def _decay(self, name: str, constraint: Any) -> float:
        given = getattr(self, name)
        return given if given is not None else USUAL[name] if constraint.decays else 0.0

    def _constraint(self, name: str, kind: str, radius_name: str) -> Any:
        radius = getattr(self, radius_name)
        if kind == ETF:
            K = _targets(self.targets).num_outputs if self.targets is not None else self._samples()["num_classes"]
            return ufm.Fixed.etf(K, (self.dim, *self.widths)[-1], radius=1.0 if radius is None else radius)
        if radius is not None and not _numbers(CONSTRAINTS[kind]):
            raise ValueError(
                f"{radius_name} = {radius}: --{name} {kind} has none; a sphere, a ball or an etf has a radius"
            )
        return CONSTRAINTS[kind]() if radius is None else CONSTRAINTS[kind](radius)


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
    """Draw NC1–NC4 into this file, a .png, .pdf or .svg."""

    def __call__(self) -> int:
        """Train, print a table, write what was asked for; 1 after a divergence."""
        import optax

        problem = self.problem.problem()
        self._check_files()
        sgd = optax.sgd(self.rate, momentum=self.momentum)
        optimizer = optax.adam(self.rate) if self.optimizer == "adam" else sgd
        run = ufm.train(
            problem, optimizer, steps=self.steps, seed=self.seed, snapshots=self.snapshots, precision=self.precision
        )
        show(CHIEF, run.history.rows(), caption=run.ended())
        if self.save is not None:
            run.save(self.save)
        if self.figure is not None:
            from ufm import plot

            plot.save(plot.collapse({self.problem.loss: run.history}), self.figure)
        return 0 if run.status is ufm.Status.FINISHED else 1

    def _check_files(self) -> None:
        """Whether what is asked for can be written, before it is computed."""
        if self.figure is not None and self.figure == self.save:
            raise ValueError(f"save and figure = {str(self.save)!r}: two files are needed")
        _check_figure(self.figure)
        if self.save is not None:
            _make_way("save", self.save)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Print the collapse metrics of features in a file.

    It holds H, features or X (N, d), one sample a row; labels, y or targets (N,); and where known a classifier A or
    weight (K, d) with its bias b or bias (K,): .npz, .npy, .safetensors, .h5, .hdf5, .parquet, .pt or .pth.
    """

    file: tyro.conf.Positional[pathlib.Path]
    """Features, and what no other file is named for."""
    labels: tyro.conf.Positional[pathlib.Path | None] = None
    """File of the labels."""
    layers: tuple[str, ...] = ()
    """Features of several layers instead, from the first to the one that the classifier reads: names of arrays in the
    first file, or files of their own."""
    classifier: pathlib.Path | None = None
    """File of the classifier, such as the state of a torch Linear."""
    means: pathlib.Path | None = None
    """Class means (K, d) of training features, as a file's means or its only array, to measure these against."""
    ignore: int | None = None
    """A label whose samples are left out, such as -100."""
    absent: Literal["error", "drop"] = "error"
    """What becomes of classes without a sample: an error, or they are left out."""
    per_class: bool = False
    """Print what each class has of the metrics too."""
    figure: pathlib.Path | None = None
    """Draw what each class has, or NC1–NC3 of each layer, into this file, a .png, .pdf or .svg; with --per-class, or
    --layers."""
    json: bool = False
    """Print JSON instead of a table; what is not finite is null."""

    def __call__(self) -> int:
        """Print the metrics, and write what was asked for."""
        self._check()
        if self.layers:
            return self._measure_layers()
        with files.samples(self.file, self.labels, classifier=self.classifier, means=self.means) as samples:
            if self.means is None:
                metrics = files.measure(samples, absent=self.absent, ignore=self.ignore, per_class=self.per_class)
                self._report(metrics)
            else:
                found = files.evaluate(samples, ignore=self.ignore)._asdict()
                self._print(found, list(found.items()), f"{self.file} against the means in {self.means}")
        return 0

    def _check(self) -> None:
        """Whether options go together, and the figure can be written, before it is computed."""
        if self.layers and (self.means is not None or self.per_class):
            raise ValueError("layers with means or per_class: only whole metrics of each layer are measured")
        if self.means is not None:
            check_options(self.absent, self.per_class)
        if self.figure is not None and not (self.per_class or self.layers):
            raise ValueError(
                f"figure = {str(self.figure)!r}: what each class has is drawn, or each layer: --per-class is needed "
                "too, or --layers"
            )
        _check_figure(self.figure)

    def _measure_layers(self) -> int:
        """A row of metrics of each layer."""
        with files.layers(self.layers, self.file, self.labels, classifier=self.classifier) as found:
            metrics = files.measure_layers(found, absent=self.absent, ignore=self.ignore)
        known = dict(metrics.known())
        if self.json:
            print(json.dumps({"layers": list(self.layers), **_in_json(known)}, indent=2))
        else:
            chief = {name: values for name, values in known.items() if name in SHOWN_BY_LAYER}
            rows = [list(row) for row in zip(self.layers, *chief.values(), strict=True)]
            show(["layer", *chief], rows, caption=f"layers of {self.file}; --json has all that was measured")
        if self.figure is not None:
            from ufm import plot

            plot.save(plot.layers(metrics), self.figure)
        return 0

    def _report(self, metrics: Measured) -> None:
        """Print what was measured, and draw it."""
        self._print(_all_of(metrics), _rows_of(metrics), str(self.file))
        if metrics.classes is not None and not self.json:
            _show_classes(metrics.classes)
        if self.figure is not None:
            from ufm import plot

            plot.save(plot.classes({self.file.name: metrics}), self.figure)

    def _print(self, found: dict[str, Any], rows: list[tuple[str, Any]], caption: str) -> None:
        if self.json:
            print(json.dumps(_in_json(found), indent=2))
        else:
            show(["metric", "value"], [row for row in rows if row[1] is not None], caption=caption)


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
class MaxMargin:
    """Find the direction that logits take without weight decay, and its certificate; exit code 1 if none is found."""

    problem: Annotated[ProblemFlags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ProblemFlags)
    seed: int = 0
    """Of the random starting points, where dimensions are few."""
    save: pathlib.Path | None = None
    """Write the solution here; `ufm.load` reads it."""

    def __call__(self) -> int:
        """Print what was found and its metrics, and write what was asked for."""
        if self.save is not None:
            _make_way("save", self.save)
        margin = ufm.max_margin(self.problem.problem(), seed=self.seed)
        print(margin)
        if margin.status.ok:
            show(["metric", "value"], margin.metrics.known())
        if self.save is not None:
            margin.save(self.save)
        return 0 if margin.status.ok else 1


@dataclasses.dataclass(frozen=True)
class Theorems:
    """List the theorems known, family by family, with their papers and what they assume."""

    def __call__(self) -> int:
        """Print the list."""
        families: dict[str, list[str]] = {}
        for known in ufm.theorems():
            said = f"{known.name} ({known.paper})\n  assumes: {known.assumes}\n  predicts: {known.predicts}"
            families.setdefault(known.family, []).append(said)
        print("\n\n".join("\n".join([family.upper(), *said]) for family, said in families.items()))
        return 0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Minimise or train over a grid into a zarr store, and summarise it; the same command goes on where it stopped."""

    over: tyro.conf.UseAppendAction[tuple[str, ...]]
    """A name and its values, once a dimension: lambda_A=log:1e-5:1e-1:9, loss.alpha=lin:0:0.5:6, seed=0:8, dim=4,8,
    widths=none,16,16x8, activation=linear,relu."""
    store: pathlib.Path
    """Folder of the store; `xarray.open_zarr` reads it."""
    problem: Annotated[ProblemFlags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ProblemFlags)
    run: Literal["minimize", "sgd", "adam"] = "minimize"
    """The certified minimum, or training with one of two optimisers, whose options can be swept over."""
    rate: float = 1.0
    """Learning rate of training."""
    steps: int = 5000
    """Optimiser steps of training."""
    snapshots: int = 100
    """How often training records the metrics, log-spaced."""
    precision: Literal["float32", "float64"] = "float32"
    """Of training; minima are certified in float64."""
    workers: int = 1
    """Processes that compute."""
    versions: Literal["same", "any"] = "same"
    """Whether to go on in a store that other versions of libraries began."""

    def __call__(self) -> int:
        """Sweep and print a summary."""
        over = _grid(self.over)
        with _workers(self.workers) as executor:
            problem, run = self.problem.problem(), self._run()
            table = ufm.sweep(problem, over, run=run, store=self.store, executor=executor, versions=self.versions)
        _summarise(table, str(self.store))
        return 0

    def _run(self) -> Any:
        if self.run == "minimize":
            return ufm.minimize
        import optax

        options = {"learning_rate": self.rate, **({"momentum": 0.9} if self.run == "sgd" else {})}
        return ufm.Training(
            getattr(optax, self.run), options, steps=self.steps, snapshots=self.snapshots, precision=self.precision
        )


COMMANDS = {
    "train": Train,
    "measure": Measure,
    "verify": Verify,
    "max-margin": MaxMargin,
    "theorems": Theorems,
    "sweep": Sweep,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 where it succeeded, 1 where its answer is no, 2 for bad input, 130 where interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"ufm {ufm.__version__}")
        return 0
    command = None
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="ufm", description=ufm.__doc__, args=arguments, sort_subcommands=False
        )
        code = command()
        sys.stdout.flush()  # here, where it can be said what happened
        return code
    except KeyboardInterrupt:
        _interrupted(command)
    except BrokenPipeError:
        return _unread()
    except (ValueError, OSError) as error:
        return _refused(str(error))
    except MemoryError as error:
        return _refused(f"not enough memory: {error}")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(f"not enough memory: {error}")


def _refused(reason: str) -> int:
    """Say why on one line."""
    print(f"ufm: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _make_way(name: str, path: pathlib.Path) -> None:
    """Make the folder of a file to be written; a ValueError that names the file where it can't be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name} = {str(path)!r}: no folder {str(path.parent)!r} ({error.strerror})") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{name} = {str(path)!r}: {'a folder' if path.is_dir() else 'it cannot be written'}")


def _check_figure(path: pathlib.Path | None) -> None:
    """Whether a figure can be written."""
    if path is not None:
        from ufm import plot

        plot.suffix("figure", path)
        _make_way("figure", path)


def _interrupted(command: Any) -> NoReturn:
    """Say what an interrupt leaves behind, and end, whatever interrupts follow."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    left = {
        Train: "nothing was written",
        Sweep: f"the same command goes on from what is stored in {getattr(command, 'store', None)}",
    }
    print("; ".join(["ufm: interrupted", *filter(None, [left.get(type(command))])]), file=sys.stderr)
    end_now()


def _unread() -> int:
    """End quietly where nobody reads what is printed, as programs do that a broken pipe's signal kills."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
    return UNREAD


def _in_json(value: Any) -> Any:
    """Numbers, arrays and dictionaries of them as JSON has them, where None is left out and what isn't finite null."""
    if isinstance(value, dict):
        return {name: _in_json(each) for name, each in value.items() if each is not None}
    numbers = np.asarray(value)
    found = numbers.astype(object)
    found[~np.isfinite(numbers)] = None
    return found.tolist()


def _all_of(metrics: Measured) -> dict[str, Any]:
    """Everything that was measured, by name."""
    uniformity = None if metrics.uniformity is None else metrics.uniformity._asdict()
    classes = None if metrics.classes is None else _columns(metrics.classes)
    beside = {"rank": metrics.rank, "absent": metrics.absent, "uniformity": uniformity, "classes": classes}
    return {**metrics._asdict(), **beside}


def _rows_of(metrics: Measured) -> list[tuple[str, Any]]:
    """The same for a table, but for classes."""
    absent = [("absent classes", metrics.absent)] if metrics.absent else []
    return [*metrics.known(), ("directions of class means", metrics.rank), *absent, *_moments(metrics.uniformity)]


def _moments(uniformity: Uniformity | None) -> Iterator[tuple[str, str]]:
    """Means and deviations, those that are known."""
    for name, words in UNIFORMITY.items():
        mean, deviation = (getattr(uniformity, each, None) for each in (name, f"{name}_spread"))
        if mean is not None:
            yield words, f"{mean:.4g} ± {deviation:.4g}"


def _columns(classes: Classes) -> dict[str, np.ndarray]:
    """What each class has, by name, with samples as whole numbers."""
    return {**classes.known(), "count": classes.count.astype(int)}


def _show_classes(classes: Classes) -> None:
    """Those that have samples, the worst by NC1 first; and how many there are more."""
    columns, present = _columns(classes), np.flatnonzero(classes.count)
    order = present[np.argsort(-columns["nc1"][present], kind="stable")]
    rows = [[int(k), *(column[k] for column in columns.values())] for k in order[:CLASSES_SHOWN]]
    show(["class", *columns], rows, caption="each class, the largest nc1 first")
    if len(order) > CLASSES_SHOWN:
        print(f"and {len(order) - CLASSES_SHOWN:,} classes more; --json has all of them")


def _one_or_each(values: tuple[Any, ...] | None) -> Any:
    """What is the same for all as one number, and what is not as it is."""
    return values[0] if values is not None and len(values) == 1 else values


def _targets(file: pathlib.Path) -> ufm.Targets:
    """Targets of a file: arrays by name, or as they were saved."""
    form = f"{file}: an .npz of rows, counts and weights is needed, as np.savez({file.name!r}, rows=…, counts=…) writes"
    if not file.is_file():
        raise ValueError(f"{form}; there is no such file")
    arrays = _arrays(file, form)
    if "__tree__" in arrays:
        return _saved_targets(file, form)
    if not {"rows", "counts"} <= arrays.keys():
        raise ValueError(f"{form}; it has {', '.join(arrays) or 'nothing'}")
    return ufm.Targets(arrays["rows"], arrays["counts"], weights=arrays.get("weights"))


def _arrays(file: pathlib.Path, form: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, of which none is a pickle; what is wrong follows the form that is needed."""
    try:
        with file.open("rb") as opened:  # NumPy leaves a file open that is no archive
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ValueError("it is one array without a name")
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{form} ({' '.join(str(error).split())})") from error


def _saved_targets(file: pathlib.Path, form: str) -> ufm.Targets:
    saved = ufm.load(file)
    if not isinstance(saved, ufm.Targets):
        raise ValueError(f"{form}; it holds a {type(saved).__name__}")
    return saved


def _grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values by name, of one text a dimension."""
    if not texts:
        raise ValueError("over: a dimension is needed, such as --over lambda_A=log:1e-5:1e-1:9")
    named = [_over(text) for text in texts]
    for name, _ in named:
        if [other for other, _ in named].count(name) > 1:
            raise ValueError(f"over: {name!r} stands in it twice; a list of all of its values is needed")
    return dict(named)


def _over(text: str) -> tuple[str, list[Any]]:
    """A dimension of a grid: its name and values."""
    name, _, values = text.partition("=")
    kind, *bounds = values.split(":")
    try:
        if kind in ("log", "lin"):
            spaced = np.geomspace if kind == "log" else np.linspace
            first, last, count = bounds
            return name, spaced(float(first), float(last), int(count)).tolist()
        if bounds:
            return name, list(range(*map(int, (kind, *bounds))))
        return name, [_value(name, each) for each in values.split(",")]
    except (ValueError, TypeError) as error:
        forms = "NAME=log:FIRST:LAST:COUNT, NAME=lin:FIRST:LAST:COUNT, NAME=FIRST:END or NAME=VALUE,VALUE"
        raise ValueError(f"over = {text!r}: {forms} is needed") from error


def _value(name: str, text: str) -> Any:
    """A truth value, a whole number or another number, several joined by x, or a name where one is meant."""
    if name == "activation":
        return text
    if text in ("True", "False"):
        return text == "True"
    if name == "widths" or "x" in text:
        return () if text == "none" else tuple(_number(each) for each in text.split("x"))
    return _number(text)


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Any]:
    """Processes, or this one alone. An interrupt is this one's to answer: the others are ended by it."""
    if count < 1:
        raise ValueError(f"workers = {count}: an integer of at least 1 is needed")
    if count == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as executor:
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as processes that begin now are to do
        try:
            for _ in range(count):
                executor.submit(int)
        finally:
            signal.signal(signal.SIGINT, answer)
        try:
            yield executor
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _summarise(table: Any, title: str) -> None:
    """Least, median and largest of what was found at the end."""
    final = table.isel(snapshot=-1) if "snapshot" in table.dims else table
    found = {name: final[name].values for name in final.data_vars if name != "status"}
    status = [f"{int((final.status == at).sum())} {name}" for at, name in _states(final) if (final.status == at).any()]
    if "certified" in found:
        status.append(f"{int(found['certified'].sum())} certified")
    numbers = {name: values[np.isfinite(values)] for name, values in found.items() if values.dtype != bool}
    rows = [[n, *np.quantile(v, (0.0, 0.5, 1.0)).tolist()] for n, v in numbers.items() if v.size]
    caption = f"{title}: {final.status.size} points, {', '.join(status)}"
    show(["quantity", "least", "median", "largest"], rows, caption=caption)


def _states(table: Any) -> zip:
    return zip(table.status.flag_values, table.status.flag_meanings.split(), strict=True)


if __name__ == "__main__":
    sys.exit(main())
