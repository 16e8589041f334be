"""Problems that properties are tried on, and hypothesis strategies that draw more of them."""

import numpy as np
from hypothesis import strategies as st

import ufm

SHAPES = ((2, 1), (4, 3), (5, 12))  # (K, d): few, since each compiles anew

LOSSES = (ufm.CrossEntropy(), ufm.SquaredError(), ufm.LabelSmoothing(0.1), ufm.Focal(2.0))


def problem(**words):
    """A small problem, with what `words` say instead."""
    return ufm.Problem(**{"num_classes": 3, "dim": 4, "per_class": 5, "lambda_A": 1e-2, "lambda_H": 1e-2, **words})


MEAN_BALLS = {"features": ufm.MeanBall(2.0), "classifier": ufm.MeanBall(1.5), "lambda_A": 0.0, "lambda_H": 0.0}

ZOO = {
    "cross-entropy": problem(),
    "squared error": problem(loss=ufm.SquaredError(), bias=False),
    "label smoothing": problem(loss=ufm.LabelSmoothing(0.2), lambda_b=1e-2),
    "focal": problem(loss=ufm.Focal(1.5)),
    "imbalanced": problem(per_class=[7, 3, 2], class_weights=[1.0, 2.0, 0.5]),
    "vector scaling": problem(per_class=[7, 3, 3], loss=ufm.VectorScaling.vs([7, 3, 3]), lambda_b=1e-2),
    "spheres": problem(lambda_A=0.0, lambda_H=0.0, features=ufm.Sphere(2.0), classifier=ufm.Sphere(1.5), bias=False),
    "sphere": problem(lambda_H=0.0, features=ufm.Sphere(2.0)),
    "balls": problem(lambda_H=0.0, features=ufm.Ball(2.0), classifier=ufm.Ball(9.0), per_class=[7, 3, 2]),
    "mean balls": problem(per_class=[7, 3, 2], bias=False, **MEAN_BALLS),
    "non-negative": problem(dim=12, features=ufm.Nonnegative(), bias=False),
    "forced ETF": problem(lambda_A=0.0, classifier=ufm.Fixed.etf(3, 4), per_class=[7, 3, 2]),
}


FREE = [name for name, p in ZOO.items() if isinstance(p.features, ufm.Free) and isinstance(p.classifier, ufm.Free)]


@st.composite
def features(draw, least_per_class=1):
    """Random features about random means: (H (N, d), labels (N,), A (K, d), b (K,)) in float64."""
    K, d = draw(st.sampled_from(SHAPES))
    per_class = draw(st.sampled_from((least_per_class, least_per_class + 3)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = 10.0 ** draw(st.integers(-6, 1))
    labels = random.permutation(np.repeat(np.arange(K), per_class))
    means = random.normal(size=(K, d))
    H = means[labels] + spread * random.normal(size=(len(labels), d))
    return H, labels, random.normal(size=(K, d)), random.normal(size=K)
