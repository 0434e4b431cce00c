"""launch/slurm.sbatch with programs in place of srun, squeue and scontrol. On a real Slurm: slurm_cluster.sh."""

import json
import re
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

EXPORTS = ["export PYTHONUNBUFFERED=1", "export NCCL_DEBUG=WARN", "export CROPJAX_SAVED_STATUS=75"]
OVERLAP = "export XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true"


@pytest.fixture
def slurm(launch):
    """Runs the file as a job; `asked` is what scontrol was told."""
    # As the real one: two tasks, and USR1 passed on to them.
    launch.program(
        "srun",
        """
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=0 "$@" & one=$!
SLURM_PROCID=1 "$@" & two=$!
trap 'kill -s USR1 $one $two' USR1
for task in $one $two; do
  while kill -0 $task 2>/dev/null; do ended=0; wait $task || ended=$?; done
  ((ended <= ${status:-0})) || status=$ended
done
exit ${status:-0}""",
    )
    launch.program("squeue", 'echo "${STATE:-RUNNING}"')
    launch.program("scontrol", f'echo "$@" >>{launch.folder}/asked')
    launch.environment |= {"SLURM_JOB_ID": "5", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "2"}
    launch.asked = lambda: (launch.folder / "asked").read_text() if (launch.folder / "asked").exists() else ""
    return launch


def test_dry_run(launch):
    done = launch("slurm.sbatch", "--dry_run", "--config", "a b", "--workdir", "runs/x")
    assert done.out.splitlines() == [
        f"cd {ROOT}",
        *EXPORTS,
        r"srun --kill-on-bad-exit=0 --wait=90 python -m stub --config a\ b --workdir runs/x ",
    ]


@pytest.mark.parametrize(("nodes", "gpus", "overlap"), [(1, 1, False), (1, 4, True), (2, 1, True), (2, 0, False)])
def test_dry_run_in_a_job(launch, nodes, gpus, overlap):
    given = dict(SLURM_JOB_ID=5, SLURM_JOB_NUM_NODES=nodes, SLURM_NTASKS=nodes, SLURM_CPUS_PER_TASK=16)
    done = launch("slurm.sbatch", "--dry_run", SLURM_GPUS_ON_NODE=gpus, SLURM_SUBMIT_DIR=ROOT, **given)
    label = "--label " if nodes > 1 else ""
    assert done.out.splitlines() == [
        f"cd {ROOT}",
        *EXPORTS,
        *([OVERLAP] if overlap else []),
        f"srun --kill-on-bad-exit=0 --wait=90 --cpus-per-task=16 {label}python -m stub ",
    ]


STUDY = """# blank lines and comments are not counted

--config a --workdir "runs/a b"
   # nor this
--config $HOME '#'
--config c
"""


def test_study(launch, slurm):
    study = launch.folder / "study.txt"
    study.write_text(STUDY)
    runs = [["--config", "a", "--workdir", "runs/a b"], ["--config", "$HOME", "#"], ["--config", "c"]]
    for index, run in enumerate(runs):
        done = slurm("slurm.sbatch", "--runs", study, "--all", SLURM_ARRAY_JOB_ID=5, SLURM_ARRAY_TASK_ID=index)
        assert {tuple(json.loads(line)["args"]) for line in done.out.splitlines()} == {(*run, "--all")}, done.err
    for index in ({"SLURM_ARRAY_TASK_ID": 3}, {}):
        done = slurm("slurm.sbatch", "--runs", study, **index)
        assert done.returncode == 2
        assert "--array=0-2" in done.err
    dry = launch("slurm.sbatch", "--dry_run", "--runs", study).out.splitlines()
    assert [line.split("-m stub ")[1] for line in dry[-3:]] == [
        r"--config a --workdir runs/a\ b ",
        r"--config \$HOME \# ",
        "--config c ",
    ]


def test_mistakes(launch, slurm):
    study = launch.folder / "study.txt"
    study.write_text("--config 'a\n")
    for args, environment, wanted in [
        (["--runs", "nowhere"], {}, "cannot read 'nowhere'"),
        (["--runs"], {}, "cannot read ''"),
        (["--runs", study], {"SLURM_ARRAY_TASK_ID": 0}, "cannot split into arguments: --config 'a"),
        ([], {"SLURM_SUBMIT_DIR": launch.folder}, "submit from the project's folder"),
        ([], {"SLURM_JOB_ID": ""}, "--dry_run"),
    ]:
        done = launch("slurm.sbatch", *args, **environment)
        assert (done.returncode, done.out) == (2, "")
        assert wanted in done.err


@pytest.mark.parametrize(
    ("statuses", "status", "starts", "requeued"),
    [
        ("0", 0, 1, False),  # finished
        ("2", 2, 1, False),  # a mistake
        ("75", 75, 1, True),  # saved: the processes got a signal
        ("3 137 0", 0, 3, False),  # faults, then finished
        ("3 3 3 3 3", 3, 4, False),  # given up
        ("3 75", 75, 2, True),
    ],
)
def test_how_it_ends(slurm, statuses, status, starts, requeued):
    for here in "01":
        (slurm.folder / f"next{here}").write_text(statuses)
    done = slurm("slurm.sbatch", "--config", "x", STUB=f"next {slurm.folder}/next{{here}}")
    assert done.returncode == status, done.err
    assert done.out.count('"args"') == 2 * starts
    assert slurm.asked() == ("requeue 5\n" if requeued else "")


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_signals(slurm, until, name, array):
    task = {"SLURM_ARRAY_JOB_ID": 4, "SLURM_ARRAY_TASK_ID": 1} if array else {}
    process = slurm.start("slurm.sbatch", STUB="wait", **task)
    until(process, '"args"', 2)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=20)
    assert out.splitlines() == ["got SIGUSR1"] * 2
    assert slurm.asked() == ("requeue 4_1\n" if array else "requeue 5\n")
    assert f"({name}) and saved" in err


def test_a_job_that_slurm_ends_is_not_requeued(slurm, until):
    process = slurm.start("slurm.sbatch", STUB="wait", STATE="COMPLETING")
    until(process, '"args"', 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert slurm.asked() == ""


def test_what_sbatch_is_told():
    asked = re.findall(r"^#SBATCH (\S+)$", (ROOT / "launch" / "slurm.sbatch").read_text(), re.M)
    wanted = {"--requeue", "--open-mode=append", "--signal=B:USR1@120", "--ntasks-per-node=1", "--output=slurm-%j.out"}
    assert wanted <= set(asked)
