"""What every test shares: how hypothesis draws, and fixtures for float64 and for quick compilation."""

import jax
import pytest
from hypothesis import settings

# No deadline: the first example of a shape compiles. Derandomized: a second run finds its programs in the cache.
settings.register_profile("cropjax", deadline=None, derandomize=True)
settings.load_profile("cropjax")


@pytest.fixture(scope="module")
def x64():
    """Lets the module's arrays be float64; a module's scope because hypothesis forbids fixtures of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compile():
    """Compiles without most optimisations: for tests that run many programs once, each on a tiny input."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory):
    """The folder of a run of `tiny_config`, see `saved_run.save_run`."""
    from saved_run import save_run
    from tiny import tiny_config

    return save_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_config())
