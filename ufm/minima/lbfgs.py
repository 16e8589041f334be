"""L-BFGS over lanes: one evaluation in every lane, and what follows from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ufm._core.arrays import namespace, replaced
from ufm._core.lanes import chosen_lanes, dot
from ufm._core.programs import kept
from ufm.minima.convergence import RESOLUTION, small_gradient

MEMORY = 4  # pairs; more cost more per iteration than they save in iterations
ARMIJO = 1e-4
MOST_REJECTED = 30  # steps in a row, after which a lane is at its floor


class _State(NamedTuple):
    """One batch of lanes: where each is, where it goes, and what it remembers.

    A lane that isn't done is evaluated next at x + size · direction. The memory is a ring of pairs, the next of which
    is written at `slot` modulo MEMORY in every lane alike; a lane without one has zeros there, which change nothing.
    """

    x: Any  # (n, L), accepted last
    f: Any  # (L,) there; infinite before the first evaluation
    g: Any  # (n, L) there
    direction: Any  # (n, L)
    size: Any  # (L,) of the step to try
    steps_back: Any  # (MEMORY, n, L) s, steps that were accepted
    changes_back: Any  # (MEMORY, n, L) y, of the gradient along them
    inverse_curvatures: Any  # (MEMORY, L) 1/⟨s, y⟩
    scaling: Any  # (L,) ⟨s, y⟩/⟨y, y⟩ of the newest pair: the inverse Hessian that memory corrects
    rejected: Any  # (L,) steps in a row
    steps: Any  # (L,) evaluations
    done: Any  # (L,)
    slot: Any  # ()


@kept
def begin(x) -> _State:
    """Lanes that have not been evaluated: their first step has no length, and is accepted unless f isn't finite."""
    n, L = x.shape
    xp = namespace(x)
    return _State(
        x=x,
        f=xp.full(L, xp.inf, x.dtype),
        g=xp.zeros_like(x),
        direction=xp.zeros_like(x),
        size=xp.zeros(L),
        steps_back=xp.zeros((MEMORY, n, L)),
        changes_back=xp.zeros((MEMORY, n, L)),
        inverse_curvatures=xp.zeros((MEMORY, L)),
        scaling=xp.ones(L),
        rejected=xp.zeros(L, int),
        steps=xp.zeros(L, int),
        done=xp.zeros(L, bool),
        slot=xp.zeros((), int),
    )


@kept
def refill(state, x, chosen):
    """The batch with the chosen lanes begun anew."""
    new = begin(x)
    mixed = jax.tree.map(lambda a, b: chosen_lanes(chosen, a, b), new._replace(slot=None), state._replace(slot=None))
    return mixed._replace(slot=state.slot)


def iterate(fun, state: _State, args, tol, floor, max_steps) -> _State:
    """One evaluation in every lane, and what follows from it.

    Where the step is accepted the lane moves there, remembers it, and sets out in a new direction; where it isn't, the
    lane stays, keeps its direction and tries a shorter step the next time.
    """
    x = state.x + state.size[None] * state.direction
    xp = namespace(x)
    f, g = value_and_grad(fun, x, args)
    slope, new_slope = dot(state.g, state.direction), dot(g, state.direction)
    # Armijo's rule; or, where a decrease drowns in rounding, its approximation by slopes (Hager & Zhang 2005)
    decreased = f <= state.f + ARMIJO * state.size * slope
    level = (f <= state.f + RESOLUTION * xp.abs(state.f)) & (new_slope <= (2 * ARMIJO - 1) * slope)
    accepted = (decreased | level) & xp.isfinite(f) & ~state.done
    # the first direction is −g, of which nothing is known but its length; later ones have the right one
    first_size = 1.0 / xp.maximum(xp.sqrt(dot(g, g)), 1.0)
    next_size = xp.where(xp.isinf(state.f), first_size, 1.0)
    state = _remember(state, chosen_lanes(accepted, x - state.x, 0.0), chosen_lanes(accepted, g - state.g, 0.0))
    shorter = _shorter(state.size, f - state.f, slope)
    state = state._replace(
        x=chosen_lanes(accepted, x, state.x),
        f=xp.where(accepted, f, state.f),
        g=chosen_lanes(accepted, g, state.g),
        rejected=xp.where(accepted, 0, state.rejected + 1),
        steps=xp.where(state.done, state.steps, state.steps + 1),
    )
    direction = _direction(state)  # in every lane, used where the step was accepted
    direction = chosen_lanes(dot(direction, state.g) < 0, direction, -state.g)
    stopped = (state.steps >= max_steps) | (state.rejected > MOST_REJECTED)
    return state._replace(
        direction=chosen_lanes(accepted, direction, state.direction),
        size=xp.where(accepted, next_size, shorter),
        done=state.done | small_gradient(state.x, state.f, state.g, tol, floor) | stopped,
    )


def _remember(state: _State, step, change) -> _State:
    """Keep a pair; where a lane's step was rejected or its curvature is not positive, one without effect."""
    curvature, squares = dot(step, change), dot(change, change)
    good = curvature > 1e-12 * namespace(step).sqrt(squares * dot(step, step))
    slot = state.slot % MEMORY
    return state._replace(
        steps_back=replaced(state.steps_back, slot, step),
        changes_back=replaced(state.changes_back, slot, change),
        inverse_curvatures=replaced(state.inverse_curvatures, slot, _where_over(good, 1.0, curvature, 0.0)),
        scaling=_where_over(good, curvature, squares, state.scaling),
        slot=state.slot + 1,
    )


def _direction(state: _State):
    """−B⁻¹ g by the two-loop recursion (Nocedal 1980), newest pair first and then last."""
    order = [(state.slot - 1 - age) % MEMORY for age in range(MEMORY)]
    pairs = [(state.steps_back[i], state.changes_back[i], state.inverse_curvatures[i]) for i in order]
    q, weights = state.g, []
    for step, change, inverse in pairs:
        weights.append(inverse * dot(step, q))
        q = q - weights[-1][None] * change
    q = state.scaling[None] * q
    for (step, change, inverse), weight in zip(pairs[::-1], weights[::-1], strict=True):
        q = q + (weight - inverse * dot(change, q))[None] * step
    return -q


def _shorter(size, rise, slope):
    """The next trial after a rejected one: the minimum of the parabola through what is known, kept within bounds."""
    minimum = -0.5 * size * slope / (rise / size - slope)
    xp = namespace(minimum)
    return xp.where(xp.isfinite(minimum), xp.clip(minimum, 0.1 * size, 0.5 * size), 0.1 * size)


def value_and_grad(fun, x, args):
    """Values (L,) and the gradient (n, L), in closed form where the function has one."""
    if hasattr(fun, "value_and_grad"):
        return fun.value_and_grad(x, args)
    value, pull = jax.vjp(lambda x: fun(x, args), x)
    return value, pull(jnp.ones_like(value))[0]


def _where_over(good, numerator, denominator, otherwise):
    xp = namespace(good)
    return xp.where(good, numerator / xp.where(good, denominator, 1.0), otherwise)
