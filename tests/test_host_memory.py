"""Steps on a CPU work in the memory of the step before, and the process does not grow."""

import json
import platform
import subprocess
import sys

import pytest

# Steps of a program whose buffers take 512 MiB: what the system gave to each, over that, and the most bytes held.
SCRIPT = """
import json, resource, sys
import jax, jax.numpy as jnp
from cropjax.host_memory import StepMemory

jax.config.update("jax_cpu_enable_async_dispatch", False)

@jax.jit
def step(state):
    large = jnp.outer(jnp.arange(8192.0) + state, jnp.arange(8192.0))
    return state + jnp.cumsum(large, 0).mean() * 1e-9

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

step = step.lower(jnp.ones(())).compile()
state, found, most, size = jnp.ones(()), [], 0, step.memory_analysis().temp_size_in_bytes
memory = StepMemory(step) if sys.argv[1] == "kept" else None
for _ in range(24):
    if memory:
        memory.before_step()
    before = pages()
    state = jax.block_until_ready(step(state))
    found.append((pages() - before) * 4096 / size)
    most = max(most, held())
if memory:
    memory.give_back()
print(json.dumps({"given": found, "most": most, "after": held(), "size": size}))
"""


def steps(which):
    result = subprocess.run([sys.executable, "-c", SCRIPT, which], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_most_steps_get_the_memory_of_the_one_before():
    plain, kept = steps("plain"), steps("kept")
    assert min(plain["given"]) > 1  # what it is there for; half of it is not the step's, but an operation's own
    assert sum(given < 0.6 for given in kept["given"]) >= 12
    assert kept["most"] < plain["after"] + 2.5 * kept["size"]
    assert kept["after"] < plain["after"] + 0.2 * kept["size"]
