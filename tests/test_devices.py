"""One device and several give the same result: to 1e-9 in float64, as near as a permuted batch in float32."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def compare(*args):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, str(TESTS / "devices.py"), *args]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("meshes", [["4x1"], pytest.param(["2x2", "1x4"], marks=pytest.mark.slow)], ids=str)
def test_float64_is_the_same_on_any_mesh(meshes):
    for name, difference in compare("float64", *meshes).items():
        assert difference["update"] < 1e-9, name
        assert difference["first_loss"] < 1e-12, name
        assert difference["exchanging_loops"] == 0, name


@pytest.mark.slow
def test_float32_differs_no_more_than_a_permuted_batch():
    found = compare("float32", "4x1", "2x2", "1x4")
    for groups in (1, 4):
        scale = found[f"groups {groups}, permuted batch"]["update"]
        for name, difference in found.items():
            if name.startswith(f"groups {groups}, mesh"):
                assert difference["update"] < 3 * scale, name
                assert difference["first_loss"] < 1e-6, name
                assert difference["exchanging_loops"] == 0, name
