"""Many problems: a grid, solved or trained in batches of one shape, labelled and stored."""

from ufm.sweeps.grid import sweep as sweep
from ufm.sweeps.trainer import Training as Training
