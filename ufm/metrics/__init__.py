"""NC1–NC4 and their relatives, of anybody's features."""

from ufm.metrics.definitions import Metrics as Metrics
from ufm.metrics.measurement import evaluate as evaluate
