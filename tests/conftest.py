import functools
import importlib.util
import os
import pathlib
import random
import shutil
import sys
import tempfile

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest
import typechecker

ROOT = pathlib.Path(__file__).parents[1]

jaxtyping.jaxtyped = typechecker.jaxtyped  # of modules of ufm, none of which is imported yet
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("ufm", deadline=None, derandomize=True, max_examples=20, database=None)
hypothesis.settings.load_profile("ufm")


def pytest_configure(config):
    """What one process of the session has compiled the others read, from a folder that is gone with the session.

    Where whoever calls names a folder, as xdist's controller does to its workers, that one is used.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="ufm-programs-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        jax.config.update("jax_compilation_cache_dir", folder)  # of this process, which has imported JAX already
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_addoption(parser):
    parser.addoption("--seeds", type=int, default=1, metavar="COUNT", help="seeds of each study on digits")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="shuffle the modules, and the tests within each")


def pytest_collection_modifyitems(config, items):
    seed = config.getoption("shuffle")
    if seed is not None:
        shuffled = random.Random(seed)  # the same in every worker, which must agree on the order
        modules = {item.module.__name__: shuffled.random() for item in items}
        items.sort(key=lambda item: (modules[item.module.__name__], shuffled.random()))


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Forget compiled programs when a process has many: each maps memory, and Linux lets it 65,530 times only."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()


def load(name):
    """A study, as the script that it is."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", ROOT / "studies" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def study():
    """Studies by name, each loaded once."""
    return functools.cache(load)


@pytest.fixture
def registered():
    """The theorems known, and these only once more when the test is over."""
    from ufm.theory.registry import THEOREMS

    known = dict(THEOREMS)
    yield known
    THEOREMS.clear()
    THEOREMS.update(known)


@pytest.fixture
def loaded_again():
    """A study by name, loaded once more."""
    return load


@pytest.fixture(scope="session")
def seeds(request):
    """How many seeds of a study on digits a property is tried on."""
    return request.config.getoption("seeds")


@pytest.fixture
def written(tmp_path, capsys, monkeypatch):
    """What a study prints, and the arrays it writes, of data that was computed before."""

    def run(module, table, **changes):
        monkeypatch.setattr(module, "data", lambda config: table)
        file = tmp_path / "figure.png"
        module.main(module.Config(**changes, output=file))
        assert file.stat().st_size > 10_000
        with np.load(file.with_suffix(".npz")) as arrays:
            found = dict(arrays)
        assert {"command", "versions"} <= set(found)
        for name in set(found) & set(table.data_vars):
            np.testing.assert_array_equal(found[name], table[name].values.astype(found[name].dtype))
        return capsys.readouterr().out, found

    return run
