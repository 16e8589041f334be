import importlib.util
import os
import pathlib
import random
import shutil
import sys
import tempfile

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]

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


@pytest.fixture
def study():
    """Load a study by name, as the script that it is."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"study_{name}", ROOT / "studies" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
