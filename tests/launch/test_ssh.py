"""launch/ssh.sh with a program in place of ssh that does as sshd does: words joined by spaces, to a login shell."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
SSH = """
while [[ $1 == -* ]]; do shift 2; done
host=$1 && shift && cd /
exec env -i PATH="$PATH" HOST="$host" ${LOGIN:-bash} -c "$*"
"""


@pytest.fixture
def ssh(launch):
    launch.program("ssh", SSH)
    if shutil.which("dash"):
        (launch.bin / "dash").symlink_to(shutil.which("dash"))
    launch.environment |= {"CROPJAX_PORT": "5000"}
    return launch


def told(out):
    return {m[1]: json.loads(m[2]) for m in re.finditer(r"^\[(\S+)\] (\{.*\})$", out, re.M)}


def test_what_each_gets(ssh):
    done = ssh("ssh.sh", "h1  me@h2", "--config", "a b", JAX_ENABLE_X64="it's 1", OTHER="left behind")
    assert done.returncode == 0, done.err
    hosts = told(done.out)
    assert sorted(hosts) == ["h1", "me@h2"]
    for index, host in enumerate(sorted(hosts)):
        assert hosts[host]["args"] == ["--config", "a b"]
        assert hosts[host]["cwd"] == str(ROOT)
        assert hosts[host]["env"] == {
            "CROPJAX_MODULE": "stub",
            "CROPJAX_PORT": "5000",
            "CROPJAX_PYTHON": "python",
            "JAX_COORDINATOR_ADDRESS": "h1:5000",
            "JAX_ENABLE_X64": "it's 1",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "NCCL_DEBUG": "WARN",
            "PYTHONUNBUFFERED": "1",
            "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
        }


# What a command line can hold: no NUL; lone surrogates are not text.
WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=4)
NASTY = [
    "",
    " ",
    "a  b",
    "'",
    '"',
    "it's \"",
    "$HOME",
    "`id`",
    "$(id)",
    "\\",
    "\\\n",
    "a\nb",
    "*",
    "~",
    "#",
    "!x",
    "&;|<>",
    "é",
]


@pytest.mark.parametrize("login", ["bash", "sh"])
def test_nasty_arguments_arrive(ssh, login):
    assert told(ssh("ssh.sh", "h1", *NASTY, LOGIN=login).out)["h1"]["args"] == NASTY


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS)
def test_quoting(words):
    """The script's own `quote`, for the shells that a host may have: what they read is what was given."""
    text = (ROOT / "launch" / "ssh.sh").read_text()
    quote = re.search(r"^quote\(\) \{.*?^\}", text, re.M | re.S)[0]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    line = subprocess.run(["bash", "-c", f'{quote}; quote "$@"', "bash", *words], capture_output=True, env=environment)
    show = b"printf '%s\\0' x " + line.stdout
    for shell in filter(shutil.which, ["bash", "dash"]):
        read = subprocess.run([shell, "-c", show], capture_output=True, env=environment).stdout.split(b"\0")
        assert [word.decode() for word in read[1:-1]] == words


def test_dry_run(ssh):
    done = ssh("ssh.sh", "--dry_run", "h1 h2", "--config", "it's")
    lines = done.out.splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        assert line == (
            f"ssh -o BatchMode=yes -o ServerAliveInterval=15 h{index + 1}: cd {ROOT} && env PYTHONUNBUFFERED=1 "
            "NCCL_DEBUG=WARN XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true JAX_COORDINATOR_ADDRESS=h1:5000 "
            "JAX_NUM_PROCESSES=2 CROPJAX_MODULE=stub CROPJAX_PORT=5000 CROPJAX_PYTHON=python "
            f"PYTHONPATH={ssh.folder} JAX_PROCESS_ID={index} python -m stub --config it\\'s "
        )


@pytest.mark.parametrize("hosts", [[], [""], ["--config", "x"], ["h1 -oProxyCommand=x"]])
def test_without_hosts(ssh, hosts):
    done = ssh("ssh.sh", *hosts)
    assert (done.returncode, done.out) == (2, "")
    assert "host" in done.err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_let_all_save(ssh, until, name):
    ssh.program("ssh", SSH.replace("env -i", "env -i STUB=wait"))
    process = ssh.start("ssh.sh", "h1 h2")
    until(process, '"args"', 2)
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=20)
    assert sorted(out.splitlines()) == ["[h1] got SIGTERM", "[h2] got SIGTERM"]
    assert process.returncode == 0


def test_a_lost_shell_lets_all_save(ssh, until):
    ssh.program("ssh", SSH.replace("env -i", "env -i STUB=wait"))
    process = ssh.start("ssh.sh", "h1 h2")
    until(process, '"args"', 2)
    process.kill()
    out, _ = process.communicate(timeout=20)  # until the last that writes has ended
    assert sorted(out.splitlines()) == ["[h1] got SIGTERM", "[h2] got SIGTERM"]


def test_a_fault_ends_all(ssh):
    """h2 fails; h1 saves when asked; h3 does not listen, and is killed."""
    stubs = "declare -A stubs=([h1]=wait [h2]='statuses 0,7' [h3]=stay)\n"
    ssh.program("ssh", stubs + SSH.replace("env -i", f'env -i READY="3 {ssh.folder}" STUB="${{stubs[$host]}}"'))
    done = ssh("ssh.sh", "h1 h2 h3", CROPJAX_GRACE=1)
    assert done.returncode == 7
    assert "[h1] got SIGTERM" in done.out
    assert "h2 ended with status 7" in done.err
    assert "kills h3's process, still there after 1 s" in done.err
    assert "h3 ended with status 137" in done.err
