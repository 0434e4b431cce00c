"""A run of two processes under a real Slurm of two nodes and under Open MPI, disturbed, against one that is not.

    python tests/show/clusters.py

As root on Debian with slurm-wlm, munge and openmpi-bin installed. Under Slurm `launch/slurm.sbatch` is submitted,
queued again by `scontrol requeue` in the middle, and later sent SIGTERM by `scancel`; mpirun is sent SIGUSR1, and is
started again. Exit status 1 if the weights of either are not, bit for bit, those of an undisturbed `launch/local.sh`.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import final_weights, last_step

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests" / "launch" / "slurm_cluster.sh"
STEPS = 90
ARGS = ["--config", str(ROOT / "tests" / "tiny_run.py"), f"--config.train.steps={STEPS}", "--config.eval.every=30"]


def say(*words):
    print(f"{time.strftime('%H:%M:%S')} ", *words, flush=True)


def sh(*command, environment=(), check=True):
    command = [str(word) for word in command]
    environment = os.environ | dict(environment)
    return subprocess.run(
        command, check=check, capture_output=True, text=True, env=environment, cwd=ROOT
    ).stdout.strip()


def wait_until(what, condition, timeout=300):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


@contextlib.contextmanager
def slurm_cluster(folder, **environment):
    """A Slurm of this machine with its files in `folder`: what runs its commands, with `environment` beside our own."""
    sh("bash", CLUSTER, "up", folder)
    environment |= {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{random.randrange(20000, 60000)}",
        "JAX_PLATFORMS": "cpu",
    }
    try:
        yield lambda *command: sh(*command, environment=environment)
    finally:
        sh("bash", CLUSTER, "down", folder, check=False)


def under_slurm(folder):
    workdir = folder / "slurm"
    with slurm_cluster(folder / "cluster") as slurm:
        try:
            submit = ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0"]
            submit += [f"--output={folder}/slurm-%j.out", "launch/slurm.sbatch", *ARGS, "--workdir", workdir]
            job = slurm(*submit)
            say("slurm: submitted job", job)

            def state():
                return slurm("scontrol", "show", "job", job).split("JobState=")[1].split()[0]

            for step, disturb in ((15, ["scontrol", "requeue", job]), (50, ["scancel", "--signal=TERM", job])):
                wait_until(f"step {step}", lambda step=step: last_step(workdir) >= step)
                slurm(*disturb)
                say("slurm:", " ".join(disturb), "after step", last_step(workdir))
                wait_until("queued again", lambda: state() == "PENDING")
                say("slurm: queued again after step", last_step(workdir))
                slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # and not in two minutes
            wait_until("its end", lambda: state() in ("COMPLETED", "FAILED", "CANCELLED"), 600)
            say("slurm: ended", state())
        finally:
            log = "\n".join(path.read_text() for path in folder.glob("slurm-*.out"))
            print(
                "\n".join(
                    line for line in log.splitlines() if "cropjax" in line or "processes" in line or ": step" in line
                )
            )
    return workdir


def under_open_mpi(folder):
    workdir = folder / "mpi"
    command = ["mpirun", "--allow-run-as-root", "-np", "2", "--bind-to", "none", sys.executable, "-m", "cropjax.main"]
    command += [*ARGS, "--workdir", str(workdir)]
    for step in (20, None):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        if step:
            wait_until(f"step {step}", lambda step=step, run=run: last_step(workdir) >= step or run.poll() is not None)
            run.send_signal(signal.SIGUSR1)
        output, _ = run.communicate(timeout=600)
        said = [line for line in output.splitlines() if "processes, started" in line or str(workdir) in line]
        say("mpirun: status", run.returncode, *said)
    return workdir


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)  # munge has a user of its own
        environment = {"JAX_PLATFORMS": "cpu"}
        sh("bash", "launch/local.sh", "2", *ARGS, "--workdir", folder / "local", environment=environment)
        expected = final_weights(folder / "local")
        say("local.sh 2: done, step", expected[0])
        same = {}
        for name, run in (("mpirun", under_open_mpi), ("slurm", under_slurm)):
            same[name] = final_weights(run(folder)) == expected
            say(name, "ends with the same weights:", same[name])
    print(json.dumps(same))
    sys.exit(not all(same.values()))


if __name__ == "__main__":
    main()
