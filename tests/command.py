"""Our commands, each in a process of its own that is forked from one which has imported what all of them need."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# Imports are nine tenths of what a user's mistake takes. None of these starts a thread or a device, or defines flags.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cropjax.restore", "cropjax.writers", "cropjax.data.pipeline"])


def environments(count, host="127.0.0.1"):
    """What tells `count` processes of this machine, one dict each, that they are a run of their own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"{host}:{s.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PLATFORMS": "cpu"}
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(count)]


class Command:
    """`python -m module args` under way, with `environment` beside the test's own."""

    def __init__(self, module, *args, **environment):
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self.args = [module, *map(str, args)]
        environment = dict(os.environ) | {name: str(value) for name, value in environment.items()}
        self._process = SERVER.Process(target=_run, args=(module, self.args[1:], self._streams, environment))
        self._process.start()

    def send(self, number):
        os.kill(self._process.pid, number)

    def children(self):
        """The numbers of the processes that it has started, and theirs."""
        found = [self._process.pid]
        for pid in found:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        return found[1:]

    def read(self):
        """What it has written so far, both streams."""
        return "".join(path.read_text() for path in self._streams if path.exists())

    def running(self):
        return self._process.is_alive()

    def wait(self, timeout=None):
        """The `subprocess.CompletedProcess` with both streams as text; TimeoutError, and it is killed, if it hangs."""
        self._process.join(timeout)
        if hangs := self._process.is_alive():
            self._process.kill()
            self._process.join()
        stdout, stderr = (path.read_text() for path in self._streams)
        self._folder.cleanup()
        if hangs:
            raise TimeoutError(f"{self.args} hangs:\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(self.args, self._process.exitcode, stdout, stderr)


def command(module, *args):
    """As `python -m module args` does: the `subprocess.CompletedProcess` with both streams as text."""
    return Command(module, *args).wait()


def _run(module, args, streams, environment):
    os.environ.clear()
    os.environ.update(environment)  # as the test has it, which may not be as the server got it
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
