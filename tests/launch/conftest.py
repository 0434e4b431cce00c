"""A folder of programs that stand for a cluster's, and for cropjax; and how the launch files are run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the launch files may use; no nvidia-smi and no scheduler.
TOOLS = ["awk", "bash", "cat", "dirname", "env", "grep", "head", "mkfifo", "mktemp", "rm", "sh", "sleep", "tr"]

# What runs in place of cropjax: says what it was given, then does what STUB asks of it.
STUB = """
import json, os, signal, sys, time
here = os.environ.get("JAX_PROCESS_ID") or os.environ.get("SLURM_PROCID", "0")
given = {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_", "NCCL_", "CROPJAX_", "PYTHONUNB"))}
got = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: got.append(signal.Signals(number).name))
say = lambda line: os.write(1, (line + "\\n").encode())  # at once: another may write to the same pipe
say(json.dumps({"args": sys.argv[1:], "env": given, "cwd": os.getcwd()}))
if "READY" in os.environ:  # waits until so many have come here, and listen to signals
    count, folder = os.environ["READY"].split(" ", 1)
    open(os.path.join(folder, "ready" + here), "w").close()
    while sum(name.startswith("ready") for name in os.listdir(folder)) < int(count):
        time.sleep(0.02)
doing = os.environ.get("STUB", "").replace("{here}", here)
if doing.startswith("statuses "):  # of each process; or `wait` for a signal, or `stay` whatever comes
    doing = doing.split(" ", 1)[1].split(",")[int(here)]
    if doing.isdecimal():
        sys.exit(int(doing))
elif doing.startswith("next "):  # takes the first number from a file: one for each start
    file = doing[5:]
    first, *rest = open(file).read().split()
    open(file, "w").write(" ".join(rest))
    if first != "wait":
        sys.exit(int(first))
    doing = "wait"
for _ in range(1500):  # half a minute, should a test have failed
    if doing not in ("wait", "stay"):
        break
    time.sleep(0.02)
    if got and doing == "wait":
        time.sleep(float(os.environ.get("SAVING", 0)))
        open(__file__ + ".saved" + here, "w").close()
        say("got " + got[0])
        sys.exit(int(os.environ.get("CROPJAX_SAVED_STATUS", 0)))
"""


class Launch:
    """Runs files of launch/ with `bin` first in the path and an environment in which nothing of a cluster is set."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        (folder / "stub.py").write_text(STUB)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.program("python", f'exec {sys.executable} "$@"')
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PYTHONPATH": str(folder),
            "CROPJAX_PYTHON": "python",
            "CROPJAX_MODULE": "stub",
        }

    def program(self, name, text):
        """Puts a Bash script into the path."""
        (self.bin / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (self.bin / name).chmod(0o755)

    def start(self, file, *args, **environment):
        # A test run in the background has SIGINT ignored, and what Bash finds ignored it cannot trap.
        return subprocess.Popen(
            [shutil.which("env"), "--default-signal=INT", self.bin / "bash", ROOT / "launch" / file, *map(str, args)],
            env=self.environment | {k: str(v) for k, v in environment.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, file, *args, **environment):
        process = self.start(file, *args, **environment)
        process.out, process.err = process.communicate(timeout=60)
        return process


@pytest.fixture
def launch(tmp_path):
    return Launch(tmp_path)


@pytest.fixture
def until():
    """Reads lines of a process until one contains a text; all of them, joined."""

    def until(process, text, times=1):
        seen = ""
        while seen.count(text) < times:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        return seen

    return until
