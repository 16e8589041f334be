import dataclasses
import enum
import functools
import subprocess
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ufm._core.identity import ByContent, Unidentified, described, identity

FACTOR = 2.0


def scaled(x):
    return FACTOR * helper(x)


def helper(x):
    return jnp.sin(x)


def closure(factor):
    return lambda x: factor * x


def recursive(base):
    def power(n):
        return base if n == 0 else base * power(n - 1)

    return power


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Loss:
    alpha: float

    def __call__(self, z, y):
        return self.alpha * z[y]


def method_of(alpha):
    return Loss(alpha).__call__


def with_attribute(value):
    def loss(z, y):
        return z[y]

    loss.convex = value
    return loss


def local_class(factor):
    class Local:
        def __call__(self, x):
            return factor * x

    return Local()


def long_array(value):
    array = np.zeros(5000)
    array[2500] = value
    return array


MAKERS = [
    closure,
    recursive,
    Loss,
    method_of,
    with_attribute,
    local_class,
    long_array,
    lambda x: functools.partial(helper, x=x),
    lambda x: lambda z, y=x: z * y,
    lambda x: lambda z, *, y=x: z * y,
    lambda x: {"a": x, "b": [x, (1, x)]},
    lambda x: {x, "b"},
    lambda x: np.float32(x),
    lambda x: jnp.array([x, 1.0]),
    lambda x: jax.jit(closure(x)),
    lambda x: functools.cache(closure(x)),
    lambda x: jax.random.key(int(x)),
    lambda x: range(int(x)),
    lambda x: closure(long_array(x)),
    lambda x: optax.sgd(x, momentum=0.9),
    lambda x: optax.adamw(x),
    lambda x: optax.lbfgs(x),
    lambda x: optax.sgd(optax.cosine_decay_schedule(x, 100)),
    lambda x: optax.sgd(lambda step: x / (1 + step)),
    lambda x: optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(learning_rate=x)),
    lambda x: optax.GradientTransformation(*optax.sgd(x)),
]


@pytest.mark.parametrize("make", MAKERS)
def test_equal_content_is_equal_and_other_content_is_not(make):
    assert identity(make(1.0)) == identity(make(1.0))
    assert identity(make(1.0)) != identity(make(2.0))
    assert ByContent(make(1.0)) == ByContent(make(1.0))
    assert ByContent(make(1.0)) != ByContent(make(2.0))
    assert len({ByContent(make(1.0)), ByContent(make(1.0)), ByContent(make(2.0))}) == 2


def test_types_are_content():
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        1 + 0j,
        np.float64(1),
        np.float32(1),
        jnp.float32(1),
        [1],
        (1,),
        {1: 1},
        {"1": 1},
    ]
    values += [0.0, -0.0, None, ..., Kind.ONE, Kind.TWO, Kind, float, np.ones(1), np.ones((1, 1)), "", ()]
    assert len({identity(value) for value in values}) == len(values)


def test_code_is_content_but_neither_lines_nor_files_are():
    one, two = {}, {}
    exec(compile("def f(x):\n    return x + 1", "one", "exec"), one)
    exec(compile("\n\n\ndef f(x):\n\n    return x + 1", "two", "exec"), two)
    assert identity(one["f"]) == identity(two["f"])
    for other in ("return x + 2", "return x - 1", "return y", "return [x + 1 for x in (2, 3)]"):
        exec(f"def f(x):\n    {other}", two)
        assert identity(one["f"]) != identity(two["f"])


def test_globals_are_content_where_the_code_names_them(monkeypatch):
    before = identity(scaled)
    monkeypatch.setattr(sys.modules[__name__], "MAKERS", [])
    assert identity(scaled) == before
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    assert identity(scaled) != before
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[__name__], "helper", lambda x: jnp.cos(x))
    assert identity(scaled) != before


def test_modules_of_ones_own_are_read_where_the_code_may(monkeypatch):
    module = types.ModuleType("of_ones_own")
    module.factor, module.other = 1.0, 2.0
    module.loop = module
    monkeypatch.setitem(sys.modules, "of_ones_own", module)

    def imports(x):
        import of_ones_own

        return of_ones_own.factor * x

    for function in (lambda x: module.factor * x, imports):
        module.factor = 1.0
        before = identity(function)
        module.other = 3.0
        assert identity(function) == before
        module.factor = 2.0
        assert identity(function) != before


def test_installed_functions_are_their_names_whatever_wraps_them():
    assert identity(jnp.exp) != identity(jnp.log)
    assert identity(np.exp) != identity(np.log)

    @functools.wraps(jnp.exp)
    def pretender(x):
        return FACTOR * x

    assert identity(pretender) != identity(jnp.exp)
    versions = {}
    assert described(optax.sgd, versions).startswith("sgd (content ")
    assert versions == {"optax": optax.__version__}


def test_cycles_end():
    ring = [1.0]
    ring.append(ring)
    other = [1.0]
    other.append(other)
    assert identity(ring) == identity(other)
    other[0] = 2.0
    assert identity(ring) != identity(other)


class Named:
    def __reduce__(self):
        return "a_name"


HIDDEN = [threading.Lock, lambda: (x for x in ()), lambda: memoryview(b"a"), Named]


@pytest.mark.parametrize("make", HIDDEN)
def test_what_has_hidden_state_is_refused_and_equal_to_itself_alone(make):
    hidden = make()
    for value in (hidden, closure(hidden), [hidden], Loss(hidden)):
        with pytest.raises(Unidentified, match="content can't be read"):
            identity(value)
    assert ByContent(hidden) == ByContent(hidden)
    assert ByContent(hidden) != ByContent(make())


def test_traced_numbers_have_no_content():
    def traced(x):
        with pytest.raises(Unidentified, match="is being traced"):
            identity(closure(x))
        return x

    jax.jit(traced)(1.0)


def test_another_process_says_the_same():
    script = "import test_identity as t; print(t.identity([t.scaled, t.Loss(1.0), {'b', 'a'}]))"
    here = identity([scaled, Loss(1.0), {"a", "b"}])
    there = subprocess.run(
        [sys.executable, "-c", script], cwd=__file__.rpartition("/")[0], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
