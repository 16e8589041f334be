"""How long work ended: one word for a minimisation and a training run, and what to try next."""

import enum

from ufm._core.archive import formerly, storable


@storable
class Status(enum.Enum):
    """How a minimisation or a training run ended; the value says what to try next."""

    CONVERGED = "the gradient is below the tolerance"
    FINISHED = "all steps were taken"
    MAX_STEPS = "the gradient is still above the tolerance; raise max_steps, loosen tol, or try another seed"
    DIVERGED = (
        "the objective is not finite, or unbounded below; in training try a smaller learning rate, or another seed; "
        "otherwise check the loss, and that decay or constraints bound it"
    )

    @property
    def ok(self) -> bool:
        """Whether what was asked for was done."""
        return self in (Status.CONVERGED, Status.FINISHED)

    @property
    def word(self) -> str:
        """Its name as texts and tables have it."""
        return self.name.lower()

    def __str__(self) -> str:
        return f"{self.word}: {self.value}"


formerly("Outcome", Status)  # of training alone
