"""A study as an array of two tasks under a real Slurm, one of them queued again in the middle, against one process.

    python tests/show/study_array.py

As root on Debian with slurm-wlm and munge installed. Exit status 1 if a run has been trained twice, or if a result is
not, digit for digit, that of the process which had the study for itself.
"""

import json
import sys
import tempfile
from pathlib import Path

from clusters import ROOT, say, sh, slurm_cluster, wait_until
from faults import last_step

ARGS = ["--config", str(ROOT / "tests" / "tiny_study.py")]
FIRST = "PSPNet,base/seed_0"


def results(workdir):
    """{run: what its tests found, losses} of a study."""
    found = {}
    for path in sorted((workdir / "results").rglob("*.json")):
        one = json.loads(path.read_text())
        tests = {
            test: {name: what for name, what in own.items() if name != "commit"} for test, own in one["tests"].items()
        }
        found[str(path.relative_to(workdir / "results"))] = tests, one["trained"]["losses"]
    return found


def under_slurm(folder):
    """What the logs of the tasks say; their work is in folder/array."""
    workdir = folder / "array"
    with slurm_cluster(folder / "cluster", CROPJAX_MODULE="cropjax.study") as slurm:
        submit = ["sbatch", "--parsable", "--array=0-1", "--cpus-per-task=1", "--gpus-per-node=0"]
        submit += [f"--output={folder}/task-%a.out", "launch/slurm.sbatch", *ARGS, "--workdir", workdir]
        job = slurm(*submit)
        say("submitted array", job)

        def states():
            return slurm("squeue", "--noheader", "--array", "--format=%K %T", "--jobs", job)

        wait_until("step 3", lambda: last_step(workdir / FIRST) >= 3)
        task = next(line.split()[0] for line in states().splitlines() if "RUNNING" in line and _is_at(folder, line))
        slurm("scontrol", "requeue", f"{job}_{task}")
        say(f"scontrol requeue {job}_{task} after step", last_step(workdir / FIRST))
        wait_until("queued again", lambda: f"{task} PENDING" in states())
        slurm("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")  # and not in two minutes
        wait_until("its end", lambda: not states(), 900)
    return {path.stem: path.read_text() for path in sorted(folder.glob("task-*.out"))}


def _is_at(folder, line):
    """Whether the task of a line of squeue is the one that has the first run."""
    log = folder / f"task-{line.split()[0]}.out"
    return log.exists() and f"1 of 4, {FIRST}" in log.read_text()


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)  # munge has a user of its own
        sh(sys.executable, "-m", "cropjax.study", *ARGS, "--workdir", folder / "alone")
        expected = results(folder / "alone")
        say("one process: done,", len(expected), "runs")
        logs = under_slurm(folder)
        begun = [line for log in logs.values() for line in log.splitlines() if line.startswith("study: run ")]
        print(
            "\n".join(f"{task}: {line}" for task, log in logs.items() for line in log.splitlines() if "study" in line)
        )
        same = results(folder / "array") == expected
        once = sorted({line.split(", ", 1)[1].split(";")[0] for line in begun})
        say(f"{len(once)} runs, begun {len(begun)} times; the results are the same: {same}")
    sys.exit(not (same and len(once) == len(expected) and len(begun) == len(expected) + 1))


if __name__ == "__main__":
    main()
