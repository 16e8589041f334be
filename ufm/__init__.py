"""The unconstrained features laboratory: neural collapse simulated, certified and checked claim by claim."""

from importlib.metadata import version as _version

from ufm import console as console
from ufm import geometry as geometry
from ufm import metrics as metrics
from ufm import targets as targets
from ufm._core.archive import load as load
from ufm._core.spectra import Spectrum as Spectrum
from ufm._core.status import Status as Status
from ufm.hessian import curvature as curvature
from ufm.hessian import spectrum as spectrum
from ufm.metrics.definitions import Metrics as Metrics
from ufm.metrics.measurement import measure as measure
from ufm.metrics.recorder import Recorder as Recorder
from ufm.metrics.regression import RegressionMetrics as RegressionMetrics
from ufm.metrics.regression import measure_regression as measure_regression
from ufm.metrics.stream import Stream as Stream
from ufm.minima.certificate import dual_bound as dual_bound
from ufm.minima.certificate import lower_bound as lower_bound
from ufm.minima.max_margin import Margin as Margin
from ufm.minima.max_margin import max_margin as max_margin
from ufm.minima.optimum import Optimum as Optimum
from ufm.minima.optimum import minimize as minimize
from ufm.model.constraints import Ball as Ball
from ufm.model.constraints import Fixed as Fixed
from ufm.model.constraints import Free as Free
from ufm.model.constraints import MeanBall as MeanBall
from ufm.model.constraints import Nonnegative as Nonnegative
from ufm.model.constraints import Sphere as Sphere
from ufm.model.losses import CrossEntropy as CrossEntropy
from ufm.model.losses import DotRegression as DotRegression
from ufm.model.losses import Focal as Focal
from ufm.model.losses import LabelSmoothing as LabelSmoothing
from ufm.model.losses import SquaredError as SquaredError
from ufm.model.params import Params as Params
from ufm.model.problem import Problem as Problem
from ufm.model.targets import Targets as Targets
from ufm.model.vector_scaling import VectorScaling as VectorScaling
from ufm.sweeps.grid import sweep as sweep
from ufm.sweeps.trainer import Training as Training
from ufm.theory import theorems as theorems
from ufm.training import Run as Run
from ufm.training import train as train
from ufm.verification import Claim as Claim
from ufm.verification import Report as Report
from ufm.verification import Verdict as Verdict
from ufm.verification import predict as predict
from ufm.verification import verify as verify

__version__ = _version("ufm")
