"""launch/lsf.bsub with a program in place of blaunch, so that what several hosts would run is really run."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPORTS = ["export PYTHONUNBUFFERED=1", "export NCCL_DEBUG=WARN", "export CROPJAX_SAVED_STATUS=75"]


@pytest.fixture
def lsf(launch):
    """Runs the file as a job of two hosts with three slots each."""
    # As RES does: in another folder, with an environment of its own; signals are passed on.
    launch.program(
        "blaunch",
        """
[[ $1 == -no-shell ]] && shift
host=$1 && shift && cd /
env -i PATH="$PATH" STUB="$STUB" SAVING=0.2 HOST="$host" "$@" & task=$!
trap 'kill -s TERM $task' TERM
trap 'kill -s USR1 $task' USR1
while kill -0 $task 2>/dev/null; do status=0; wait $task || status=$?; done
exit $status""",
    )
    hosts = launch.folder / "hosts"
    hosts.write_text("b7\nb7\nb7\na1\na1\na1\n")
    launch.environment |= {"LSB_JOBID": "4099", "LSB_DJOB_HOSTFILE": str(hosts), "LS_SUBCWD": str(ROOT)}
    return launch


def given(out):
    return sorted(map(json.loads, re.findall(r"^\{.*\}$", out, re.M)), key=lambda one: one["env"].get("JAX_PROCESS_ID"))


def test_several_hosts(lsf):
    done = lsf("lsf.bsub", CROPJAX_ARGS="--config 'a b' --note '$HOME \"'", JAX_ENABLE_X64="1 2")
    assert done.returncode == 0, done.err
    for index, one in enumerate(given(done.out)):
        assert one["args"] == ["--config", "a b", "--note", '$HOME "']
        assert one["cwd"] == str(ROOT)
        assert one["env"] == {
            "CROPJAX_MODULE": "stub",
            "CROPJAX_PYTHON": "python",
            "CROPJAX_SAVED_STATUS": "75",
            "JAX_COORDINATOR_ADDRESS": f"b7:{61440 + 3}",
            "JAX_ENABLE_X64": "1 2",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "NCCL_DEBUG": "WARN",
            "PYTHONUNBUFFERED": "1",
            "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
        }
    assert index == 1


def test_one_host(lsf):
    (lsf.folder / "hosts").write_text("b7\nb7\n")
    (one,) = given(lsf("lsf.bsub", "--more", CROPJAX_ARGS="--config x").out)
    assert one["args"] == ["--config", "x", "--more"]
    assert not any(name.startswith(("JAX", "XLA")) for name in one["env"])
    (two,) = given(lsf("lsf.bsub", CUDA_VISIBLE_DEVICES="0,1").out)
    assert "XLA_FLAGS" in two["env"]


def test_dry_run(launch):
    done = launch("lsf.bsub", "--dry_run", "--config", "a b")
    assert done.out.splitlines() == [f"cd {ROOT}", *EXPORTS, r"python -m stub --config a\ b "]


def test_dry_run_of_several_hosts(lsf):
    done = lsf("lsf.bsub", CROPJAX_ARGS="--dry_run --config x", JAX_COORDINATOR_ADDRESS="here:5")
    *head, first, second = done.out.splitlines()
    assert head == [f"cd {ROOT}", *EXPORTS, "export XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true"]
    for index, (host, line) in enumerate([("b7", first), ("a1", second)]):
        assert line.startswith(f"blaunch -no-shell {host} /bin/sh -c ")
        assert f" JAX_COORDINATOR_ADDRESS=here:5 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={index} " in line
        assert line.endswith(" python -m stub --config x ")


def test_study(lsf):
    study = lsf.folder / "study.txt"
    study.write_text("# crops\n\n--config a\n --config 'b c'\n")
    for index, config in [(1, "a"), (2, "b c")]:
        done = lsf("lsf.bsub", CROPJAX_ARGS=f"--runs {study} --all", LSB_JOBINDEX=index)
        one, two = given(done.out)
        assert one["args"] == two["args"] == ["--config", config, "--all"]
        assert one["env"]["JAX_COORDINATOR_ADDRESS"] == f"b7:{61440 + 3 + index}"
    for index in (0, 3):
        done = lsf("lsf.bsub", CROPJAX_ARGS=f"--runs {study}", LSB_JOBINDEX=index)
        assert done.returncode == 2
        assert "[1-2]" in done.err


@pytest.mark.parametrize(
    ("statuses", "status", "starts"),
    [("0", 0, 1), ("2", 2, 1), ("75", 75, 1), ("3 137 0", 0, 3), ("3 3 3 3 3", 3, 4), ("3 75", 75, 2)],
)
def test_how_it_ends(lsf, statuses, status, starts):
    for here in "01":
        (lsf.folder / f"next{here}").write_text(statuses)
    done = lsf("lsf.bsub", CROPJAX_ARGS="--config x", STUB=f"next {lsf.folder}/next{{here}}")
    assert done.returncode == status, done.err
    assert len(given(done.out)) == 2 * starts


@pytest.mark.parametrize(("name", "status"), [("SIGUSR1", 75), ("SIGTERM", 143)])
def test_signals(lsf, until, name, status):
    process = lsf.start("lsf.bsub", STUB="wait")
    until(process, '"args"', 2)
    process.send_signal(signal.SIGINT)  # bkill begins with it
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=20) == status
    assert len(list(lsf.folder.glob("stub.py.saved?"))) == 2  # it has waited for them
    out, _ = process.communicate()
    assert out.splitlines() == [f"got {name}"] * 2


def test_mistakes(launch, lsf):
    for args, environment, wanted in [
        ([], {"CROPJAX_ARGS": "--config 'a"}, "cannot split"),
        (["--runs", "nowhere"], {}, "cannot read 'nowhere'"),
        ([], {"LS_SUBCWD": launch.folder}, "submit from the project's folder"),
        ([], {"LSB_JOBID": ""}, "--dry_run"),
    ]:
        done = launch("lsf.bsub", *args, **environment)
        assert (done.returncode, done.out) == (2, "")
        assert wanted in done.err


def test_what_bsub_is_told():
    asked = re.findall(r"^#BSUB (.+)$", (ROOT / "launch" / "lsf.bsub").read_text(), re.M)
    assert {"-r", "-Q 75", "-wa USR1", "-wt 3", "-gpu num=1:j_exclusive=yes"} <= set(asked)
