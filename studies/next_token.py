"""Next tokens: the log-odds of what may follow are learnt, and what may not follow falls behind by log(1/ĉ).

The bigrams of a small text, in which adjectives go before nouns that suit them, are the targets of its contexts. As
decay falls, log-odds between tokens that follow a context tend to the text's, linearly in ĉ; logits of all others fall
behind without end, and the direction of all logits tends to the cheapest that tells who follows from who doesn't
(Thrampoulidis 2024; Zhao et al. 2024). As decay grows, two tokens of equal standing come to share a classifier, rare
ones first, at a decay that is known exactly.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
import tyro
import xarray

import ufm
from ufm import plot
from ufm.console import show
from ufm.theory import next_tokens

STOP = "."
NOUNS = {"black": "cat", "white": "dog", "wise": "owl", "sly": "fox"}  # that suit the adjective
PAIRS = {"common": ("black", "white"), "rare": ("wise", "sly")}
VERBS = {"sleeps": 3, "runs": 1}  # how often, for one with another
SUITED = 3  # times as often as the other noun of the pair
CONTEXTS = (STOP, "wise")  # whose logits are drawn
AROUND = (0.1, 1.5)  # of the thresholds, between which tokens are seen to merge


@dataclasses.dataclass(frozen=True)
class Config:
    """The text, and the decays."""

    common: int = 4
    """How often each sentence about a cat or a dog is said, or three times as often, or nine."""
    rare: int = 1
    """The same of an owl or a fox."""
    per_context: bool = True
    """Whether the features of each distinct context decay once, as in the papers, or those of each occurrence."""
    dim: int = 16
    """d, dimension of the features."""
    smallest: float = 1e-4
    """ĉ = √(N λ_A λ_H) at the lower end; the upper one is where nothing is learnt."""
    points: int = 15
    """How many ĉ, log-spaced."""
    near: int = 25
    """How many ĉ where tokens merge, evenly spaced."""
    seed: int = 0
    """Of the sentences' order, which bigrams do not depend on."""
    output: pathlib.Path = pathlib.Path("figures/next_token.png")
    """Figure to write; the data goes beside it as .npz."""


def text(config: Config) -> list[str]:
    """Tokens of all sentences, "wise owl sleeps ." or the like, in random order."""
    sentences = []
    for standing, pair in PAIRS.items():
        for adjective, other, (verb, often) in itertools.product(pair, pair, VERBS.items()):
            times = getattr(config, standing) * often * (SUITED if other == adjective else 1)
            sentences += [[adjective, NOUNS[other], verb, STOP]] * times
    order = np.random.default_rng(config.seed).permutation(len(sentences))
    return [token for index in order for token in sentences[index]]


def bigrams(tokens: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """(contexts, tokens) how often a token follows another; after the last comes the first."""
    index = {token: k for k, token in enumerate(vocabulary)}
    numbers = np.array([index[token] for token in tokens])
    counts = np.zeros((len(vocabulary), len(vocabulary)), int)
    np.add.at(counts, (numbers, np.roll(numbers, -1)), 1)
    return counts


def vocabulary() -> list[str]:
    """All tokens, each of which is a context too."""
    return [STOP, *NOUNS, *NOUNS.values(), *VERBS]


def problem_of(config: Config, targets: ufm.Targets, price: float) -> ufm.Problem:
    """Without a bias, as the papers have it, λ_A = λ_H."""
    decay = price / float(np.sqrt(targets.num_samples))
    return ufm.Problem(targets=targets, dim=config.dim, lambda_A=decay, lambda_H=decay, bias=False)


def data(config: Config) -> xarray.Dataset:
    """Minima as decay falls, and where tokens merge."""
    counts = bigrams(text(config), vocabulary())
    targets = ufm.targets.next_token(counts, per_context=config.per_context)
    return xarray.merge([as_decay_falls(config, targets), where_tokens_merge(config, targets)])


def as_decay_falls(config: Config, targets: ufm.Targets) -> xarray.Dataset:
    """Logits, distances of probabilities from the targets, norms and directions, with what theory knows of them."""
    first = problem_of(config, targets, config.smallest)
    root = np.sqrt(targets.num_samples)
    collapse = root * ufm.predict(first).thresholds["c at total collapse"]
    prices = np.geomspace(config.smallest, collapse, config.points, endpoint=False)
    bests = ufm.minimize([problem_of(config, targets, price) for price in prices.tolist()])
    logits = np.array([best.means @ best.A.T for best in bests])
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    weighted = np.sqrt(targets.shares)[:, None] * logits
    rows, weights = np.asarray(targets.rows), np.asarray(targets.weights)
    limit = next_tokens.limit(first)
    limit = np.full(rows.shape, np.nan) if limit is None else limit
    claims = [claim for best in bests for claim in ufm.verify(best).claims]
    names = ("context", "token")
    return xarray.Dataset(
        {
            "logits": (("price", *names), logits),
            "rows": (names, rows),
            "distance": (
                ("price", "context"),
                np.linalg.norm(rows - probabilities, axis=-1) * weights * np.sqrt(targets.shares),
            ),
            "norm": ("price", np.linalg.norm(weighted, "nuc", axis=(1, 2))),
            "direction": ("price", [apart(each, np.sqrt(targets.shares)[:, None] * limit) for each in weighted]),
            "limit": (names, limit),
            "limit_norm": nuclear(np.sqrt(targets.shares)[:, None] * limit),
            "gap": ("price", [best.gap / best.value for best in bests]),
            "claims": len(claims),
            "claims_held": sum(claim.verdict == ufm.Verdict.HOLDS for claim in claims),
            "total_collapse": collapse,
        },
        coords={"price": prices, "context": vocabulary(), "token": vocabulary()},
    )


def nuclear(X: np.ndarray) -> float:
    """Sum of singular values; NaN of what is not known."""
    return float(np.linalg.norm(X, "nuc")) if np.all(np.isfinite(X)) else float("nan")


def apart(X: np.ndarray, Y: np.ndarray) -> float:
    """‖X/‖X‖ − Y/‖Y‖‖."""
    return float(np.linalg.norm(X / np.linalg.norm(X) - Y / np.linalg.norm(Y)))


def where_tokens_merge(config: Config, targets: ufm.Targets) -> xarray.Dataset:
    """How sure a context is of the noun that suits it, around the ĉ from which both nouns have one classifier."""
    names, root = vocabulary(), float(np.sqrt(targets.num_samples))
    thresholds = ufm.predict(problem_of(config, targets, config.smallest)).thresholds
    nouns = {standing: [names.index(NOUNS[adjective]) for adjective in pair] for standing, pair in PAIRS.items()}
    merging = [root * thresholds[f"c at which outputs {i} and {j} merge"] for i, j in nouns.values()]
    prices = np.linspace(AROUND[0] * min(merging), AROUND[1] * max(merging), config.near)
    bests = ufm.minimize([problem_of(config, targets, price) for price in prices.tolist()])
    logits = np.array([best.means @ best.A.T for best in bests])
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    places = {standing: (names.index(PAIRS[standing][0]), *pair) for standing, pair in nouns.items()}
    rows = np.asarray(targets.rows)
    return xarray.Dataset(
        {
            "surplus": (("standing", "near"), [p[:, m, i] - p[:, m, j] for m, i, j in places.values()]),
            "wanted": ("standing", [rows[m, i] - rows[m, j] for m, i, j in places.values()]),
            "merging": ("standing", merging),
            "near_gap": ("near", [best.gap / best.value for best in bests]),
        },
        coords={"standing": list(PAIRS), "near": prices},
    )


def predicted_surplus(at: xarray.Dataset, prices: np.ndarray) -> np.ndarray:
    """Of the nouns of one standing: of one pair of contexts it is linear in ĉ until the tokens merge."""
    return float(at.wanted) * np.maximum(1 - prices / float(at.merging), 0.0)


def draw(table: xarray.Dataset) -> plot.Figure:
    """Logits, and how fast probabilities come near, above; norm, direction, and merging tokens, below."""
    made, ((first, second, distances), (norms, directions, merging)) = plot.figure(2, 3, width=13.5, height=8.0)
    for axis, context in ((first, CONTEXTS[0]), (second, CONTEXTS[1])):
        draw_logits(axis, table, context)
    draw_distances(distances, table)
    draw_limit(norms, directions, table)
    draw_merging(merging, table)
    return made


def draw_logits(axis, table: xarray.Dataset, context: str) -> None:
    """Of one context, less their mean over its support."""
    at = table.sel(context=context)
    inside = at.rows.values > 0
    z = (at.logits - at.logits[:, inside].mean("token")).values
    odds = np.log(at.rows.values[inside]) - np.log(at.rows.values[inside]).mean()
    x = 1 / table.price.values
    for colour, level in zip(plot.COLOURS, np.unique(odds.round(9))[::-1], strict=False):
        same = np.flatnonzero(inside)[np.isclose(odds, level)]
        axis.plot(x, z[:, same], "o", color=colour, ms=4)
        axis.plot([], [], "o", color=colour, ms=4, label=", ".join(table.token.values[same]))
        axis.axhline(level, color="black", ls="--", lw=1.0)
    axis.plot(x, z[:, ~inside], "s", color=plot.COLOURS[3], ms=3, alpha=0.6)
    axis.plot([], [], "s", color=plot.COLOURS[3], ms=3, label=f"the other {np.sum(~inside)} tokens")
    axis.plot([], [], "k--", lw=1.0, label="theory: the text's log-odds")
    axis.plot(x, -np.log(x), "k-.", lw=1.0, label="theory: a slope of log(1/ĉ)")
    axis.set(xscale="log", xlabel="1/ĉ", ylabel="logit, less the mean of those that follow")
    axis.set(title=f"After “{context}”")
    axis.legend(loc="lower left", frameon=False)


def draw_distances(axis, table: xarray.Dataset) -> None:
    """Distance of probabilities from the text's in every context, beside the bound of all."""
    axis.plot(table.price, table.distance, "o", color=plot.COLOURS[0], ms=3, alpha=0.6)
    axis.plot([], [], "o", color=plot.COLOURS[0], ms=3, label="every context")
    axis.plot(table.price, table.price, "k--", lw=1.0, label="theory: at most ĉ")
    axis.set(xscale="log", yscale="log", xlabel="ĉ = √(N λ_A λ_H)", ylabel="$w_m \\sqrt{π_m}\\,‖T_m − p_m‖$")
    axis.set(title="Frequencies are learnt linearly")
    axis.legend(loc="upper left", frameon=False)


def draw_limit(norms, directions, table: xarray.Dataset) -> None:
    """The logits' norm and direction, and those of the limit."""
    x, style = 1 / table.price.values, {"color": plot.COLOURS[0], "ms": 4, "ls": "", "label": "certified minima"}
    norms.plot(x, table.norm, "o", **style)
    slope = float(table.limit_norm)
    norms.plot(
        x,
        float(table.norm[0]) + slope * np.log(x / x[0]),
        "k--",
        lw=1.0,
        label=f"theory: a slope of {slope:.3f} log(1/ĉ)",
    )
    norms.set(xscale="log", xlabel="1/ĉ", ylabel="$‖Π^{1/2}Z‖_*$", title="The margins' norm grows")
    norms.legend(loc="upper left", frameon=False)
    inverse = 1 / np.log(x)
    directions.plot(inverse, table.direction, "o", **style)
    trend = [0.0, 2 * inverse[0]]
    directions.plot(
        trend, [0.0, 2 * float(table.direction[0])], "k--", lw=1.0, label="theory: like 1/log(1/ĉ), to zero"
    )
    directions.set(xlabel="1/log(1/ĉ)", ylabel="distance to the limit's direction", xlim=(0, 0.6), ylim=(0, None))
    directions.set(title="Logits turn to the cheapest margins, slowly")
    directions.legend(loc="upper left", frameon=False)


def draw_merging(axis, table: xarray.Dataset) -> None:
    """How much more probable the noun that suits a context is than the other of its pair."""
    fine = np.linspace(0.0, float(table.near[-1]), 401)
    for colour, mark, standing in zip(plot.COLOURS, plot.MARKS, PAIRS, strict=False):
        at = table.sel(standing=standing)
        adjective, other = PAIRS[standing]
        label = f"{standing}: {NOUNS[adjective]} over {NOUNS[other]}, after “{adjective}”"
        axis.plot(table.near, at.surplus, mark, color=colour, ms=4, label=label)
        axis.plot(fine, predicted_surplus(at, fine), "k--", lw=1.0)
        axis.axvline(float(at.merging), ymax=0.55, color="black", ls=":", lw=1.2)
    axis.plot([], [], "k--", lw=1.0, label="theory: linear in ĉ")
    axis.plot([], [], "k:", lw=1.2, label="theory: from here on one classifier")
    axis.set(xlabel="ĉ = √(N λ_A λ_H)", ylabel="difference of probabilities", title="Rare tokens merge first")
    axis.set(ylim=(-0.03, 0.95))
    axis.legend(loc="upper right", frameon=False)


def summary(table: xarray.Dataset) -> None:
    """Print how far the minima are from what theory says."""
    bound = float((table.distance / table.price).max())
    surpluses = [table.sel(standing=standing) for standing in PAIRS]
    off = max(float(np.abs(at.surplus - predicted_surplus(at, table.near.values)).max()) for at in surpluses)
    rows = [
        ["contexts, tokens", f"{table.sizes['context']}, {table.sizes['token']}"],
        ["certified minima", table.gap.size + table.near_gap.size],
        ["largest relative gap", max(float(table.gap.max()), float(table.near_gap.max()))],
        ["claims of theorems that hold", f"{int(table.claims_held)} of {int(table.claims)}"],
        ["largest distance of a context, over its bound", bound],
        ["largest error of a difference of probabilities", off],
        *([f"ĉ from which {at.standing.item()} nouns merge", float(at.merging)] for at in surpluses),
    ]
    show(["quantity", "measured"], rows)


def main(config: Config) -> None:
    """Minimise, compare, draw."""
    table = data(config)
    summary(table)
    plot.write(draw(table), config.output, data=table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
