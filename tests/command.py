"""Our commands, each in a process of its own that is forked from one which has imported what all of them need."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

# Imports are nine tenths of what a user's mistake takes. None of these starts a thread or a device, or defines flags.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cropjax.restore", "cropjax.writers", "cropjax.data.pipeline"])


def command(module, *args):
    """As `python -m module args` does: the `subprocess.CompletedProcess` with both streams as text."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = SERVER.Process(target=_run, args=(module, list(map(str, args)), streams, dict(os.environ)))
        process.start()
        process.join()
        stdout, stderr = (path.read_text() for path in streams)
        return subprocess.CompletedProcess([module, *args], process.exitcode, stdout, stderr)


def _run(module, args, streams, environment):
    os.environ.clear()
    os.environ.update(environment)  # as the test has it, which may not be as the server got it
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
