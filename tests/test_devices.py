"""One device and several give the same result: to 1e-9 in float64, as near as a permuted batch in float32."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import environments

from cropjax.config import NETWORKS

TESTS = Path(__file__).parent


def start(*args, devices, environment=(), script="devices.py"):
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"} | dict(environment)
    command = [sys.executable, str(TESTS / script), *args]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def found(processes):
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return json.loads(outputs[0][0].splitlines()[-1])


def compare(*args, devices=4):
    return found([start(*args, devices=devices)])


def compare_processes(*args, count, devices):
    return found([start(*args, devices=devices, environment=place) for place in environments(count)])


def assert_same(differences):
    for name, difference in differences.items():
        assert difference["update"] < 1e-9, name
        assert difference["first_loss"] < 1e-10, name
        if not name.startswith(("accumulated", "aided")):  # whose parts are a loop
            assert difference["nested_exchanges"] == 0, name


@pytest.mark.parametrize(
    ("network", "meshes"),
    [
        ("deeplabv3plus", ["4x1", "--variants", "groups 1"]),
        pytest.param("deeplabv3plus", ["4x1", "--variants", "accumulated"], marks=pytest.mark.slow),
        pytest.param("deeplabv3plus", ["4x1", "2x2", "1x4", "--variants", "every loss"], marks=pytest.mark.slow),
        pytest.param("deeplabv3plus", ["2x2", "--variants", "aided"], marks=pytest.mark.slow),
        *(pytest.param(network, ["2x2", "1x4"], marks=pytest.mark.slow) for network in NETWORKS),
    ],
    ids=str,
)
def test_float64_is_the_same_on_any_mesh(network, meshes):
    assert_same(compare("float64", network, *meshes))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "meshes"), [(2, 1, ["2x1"]), (2, 2, ["4x1", "2x2"]), (4, 1, ["4x1"])])
def test_float64_is_the_same_in_several_processes(count, devices, meshes):
    assert_same(compare_processes("float64", "deeplabv3plus", *meshes, count=count, devices=devices))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_float32_differs_no_more_than_a_permuted_batch(network):
    found = compare("float32", network, "4x1", "2x2", "1x4")
    for groups in (1, 4):
        scale = found[f"groups {groups}, permuted batch"]["update"]
        for name, difference in found.items():
            if name.startswith(f"groups {groups}, mesh"):
                assert difference["update"] < 3 * scale, name
                assert difference["first_loss"] < 1e-6, name
                assert difference["nested_exchanges"] == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_rows_that_do_not_divide_stay_split(network):
    """Each device computes a quarter, and rows around it, not all; and no large map is gathered."""
    program = found([start(network, "257", devices=8, script="gathers.py")])
    one, four = program["flops"]
    assert four < 0.6 * one
    assert program["gathered"] < program["images"]
