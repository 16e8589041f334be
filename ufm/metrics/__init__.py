"""NC1–NC4 and their relatives, of anybody's features."""

from ufm.metrics.classes import Classes as Classes
from ufm.metrics.classes import Measured as Measured
from ufm.metrics.classes import Uniformity as Uniformity
from ufm.metrics.definitions import Metrics as Metrics
from ufm.metrics.evaluation import Evaluation as Evaluation
from ufm.metrics.measurement import evaluate as evaluate
