"""How long a new process takes until the first step of training is dispatched, and where compilation spends it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from cropjax.config import build_source
from cropjax.errors import UserError

MARK = "first step starts"  # what train.py prints then
CONFIG = """
from cropjax.workdir import load_config

def get_config():
    return load_config({folder!r})
"""


def self_contained(config):
    """A copy of `config` that trains on this machine: on streets, where its data are absent, from drawn weights."""
    copy = config.copy_and_resolve_references().unlock()
    try:
        build_source(config, "train"), build_source(config, "eval")
    except UserError:
        copy.data.update(source="streets", classes=(), colours=())
        copy.data.train_split, copy.data.eval_split = "train", "val"
    if not Path(config.init_from).is_file():
        copy.init_from = ""
    return copy.lock()


def first_dispatch(config, cache):
    """Seconds from the start of `python -m cropjax.main` to its first step, with `cache` as compilation cache."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder, "startup.py")
        file.write_text(CONFIG.format(folder=folder))
        Path(folder, "config.json").write_text(json.dumps(config.to_dict()))
        command = [sys.executable, "-m", "cropjax.main", "--config", file, "--workdir", Path(folder, "run")]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            began = time.perf_counter()
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            try:
                for line in child.stdout:
                    if line.startswith(MARK):
                        return time.perf_counter() - began
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with its workers, in the middle of a step
                child.wait()
                child.stdout.close()
            errors.seek(0)
            words = errors.read().strip().split("\n")[-1]
            raise UserError(
                f"--suites compile: training ended before its first step: {words.removeprefix('cropjax: ')}"
            )


@contextlib.contextmanager
def without_cache():
    """What compiles within is compiled, and neither read from the compilation cache nor written to it."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # or it would not look at the setting again
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
