"""launch/local.sh with a small program in place of cropjax: what each process gets, and how they end."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def told(out, prefix=r"\[(\d+)\] "):
    """What each process says it was given, by its prefix."""
    return {m[1]: json.loads(m[2]) for m in re.finditer(rf"^{prefix}(\{{.*\}})$", out, re.M)}


def test_what_each_gets(launch):
    done = launch("local.sh", 3, "--config", "a 'b'", "", "$HOME")
    assert done.returncode == 0, done.err
    given = told(done.out)
    assert sorted(given) == ["0", "1", "2"]
    address = given["0"]["env"]["JAX_COORDINATOR_ADDRESS"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    for index, one in given.items():
        assert one["args"] == ["--config", "a 'b'", "", "$HOME"]
        assert one["cwd"] == str(ROOT)
        assert {k: v for k, v in one["env"].items() if k.startswith(("JAX", "XLA", "NCCL", "PY"))} == {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "3",
            "JAX_PROCESS_ID": index,
            "PYTHONUNBUFFERED": "1",
        }


def test_a_gpu_each(launch):
    launch.program("nvidia-smi", "echo 'GPU 0: A (UUID: x)'; echo 'GPU 1: A (UUID: y)'")
    given = told(launch("local.sh", 2).out)
    for index, one in given.items():
        assert one["env"]["JAX_LOCAL_DEVICE_IDS"] == index
        assert one["env"]["NCCL_DEBUG"] == "WARN"
        assert one["env"]["XLA_FLAGS"] == "--xla_gpu_enable_latency_hiding_scheduler=true"
    assert told(launch("local.sh", 2, XLA_FLAGS="--mine").out)["0"]["env"]["XLA_FLAGS"] == "--mine"
    for environment in ({}, {"CUDA_VISIBLE_DEVICES": "1"}):
        few = launch("local.sh", 3, **environment)
        assert few.returncode == 2
        assert "JAX_PLATFORMS=cpu" in few.err
    assert "JAX_LOCAL_DEVICE_IDS" not in told(launch("local.sh", 3, JAX_PLATFORMS="cpu").out)["0"]["env"]


def test_dry_run(launch):
    done = launch("local.sh", "--dry_run", 2, "--config", "a b", CROPJAX_PORT=5000)
    assert done.out.splitlines() == [
        f"cd {ROOT}",
        "export PYTHONUNBUFFERED=1",
        "export JAX_COORDINATOR_ADDRESS=127.0.0.1:5000",
        "export JAX_NUM_PROCESSES=2",
        r"env JAX_PROCESS_ID=0 python -m stub --config a\ b &",
        r"env JAX_PROCESS_ID=1 python -m stub --config a\ b &",
    ]


@pytest.mark.parametrize("args", [(), ("--config", "x"), ("0",)])
def test_without_a_number(launch, args):
    done = launch("local.sh", *args)
    assert (done.returncode, done.out) == (2, "")
    assert "number of processes" in done.err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_passes_signals_on(launch, until, name):
    process = launch.start("local.sh", 2, STUB="wait")
    until(process, "JAX_PROCESS_ID", 2)
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=20)
    assert sorted(out.splitlines()) == [f"[0] got {name}", f"[1] got {name}"]
    assert process.returncode == 0


def test_first_status_and_stragglers(launch):
    """Process 1 fails; 0 ends by itself; 2 does not listen, and is killed."""
    start = time.monotonic()
    launch.environment["READY"] = f"3 {launch.folder}"
    done = launch("local.sh", 3, STUB="statuses 0,7,stay", CROPJAX_GRACE=1)
    assert done.returncode == 7
    assert "process 1 ended with status 7" in done.err
    assert "kills process 2, still there after 1 s" in done.err
    assert time.monotonic() - start < 10


def test_all_have_time_to_end(launch):
    done = launch("local.sh", 2, STUB="statuses 3,5")
    assert done.returncode in (3, 5)
    assert "kills" not in done.err
