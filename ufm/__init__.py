"""The unconstrained features laboratory: neural collapse simulated, certified and checked claim by claim."""

from importlib.metadata import version as _version

from ufm import geometry as geometry
from ufm.archive import load as load
from ufm.certificate import lower_bound as lower_bound
from ufm.constraints import Ball as Ball
from ufm.constraints import Fixed as Fixed
from ufm.constraints import Free as Free
from ufm.constraints import MeanBall as MeanBall
from ufm.constraints import Nonnegative as Nonnegative
from ufm.constraints import Sphere as Sphere
from ufm.hessian import curvature as curvature
from ufm.losses import CrossEntropy as CrossEntropy
from ufm.losses import DotRegression as DotRegression
from ufm.losses import Focal as Focal
from ufm.losses import LabelSmoothing as LabelSmoothing
from ufm.losses import SquaredError as SquaredError
from ufm.measurement import Stream as Stream
from ufm.measurement import measure as measure
from ufm.metrics import Metrics as Metrics
from ufm.optimum import Optimum as Optimum
from ufm.optimum import minimize as minimize
from ufm.problem import Params as Params
from ufm.problem import Problem as Problem
from ufm.recorder import Recorder as Recorder
from ufm.sweeps import Training as Training
from ufm.sweeps import sweep as sweep
from ufm.theory import theorems as theorems
from ufm.training import Run as Run
from ufm.training import train as train
from ufm.verification import Claim as Claim
from ufm.verification import Report as Report
from ufm.verification import predict as predict
from ufm.verification import verify as verify

__version__ = _version("ufm")
