"""Rebuild every fixture from the published code and compare it with the committed one.

    python third_party/compare.py mmsegmentation=ENVIRONMENT transformers=ENVIRONMENT cityscapesscripts=ENVIRONMENT

Each argument names a folder beside this file and the virtual environment of its requirements.txt; this script itself
needs NumPy. The status is 1 if a file is missing, holds other names or text, or differs by more than LIMIT. The
difference of two arrays is max |new - old| of a row over the row's largest value. A row below FLOOR of its array's
largest value is rounding, such as the gradient of a bias in front of a BatchNorm, and is held against that floor.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
COMMITTED = HERE.parent / "tests" / "reference"
LIMIT = 1e-9
FLOOR = 1e-5
OF_THE_MACHINE = ("versions", "float32_noise")


def main(environments: dict[str, pathlib.Path]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        rebuilt = pathlib.Path(folder)
        for kit, environment in environments.items():
            command = [environment / "bin" / "python", "-W", "ignore", HERE / kit / "make_fixtures.py", rebuilt]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        names = sorted({path.name for folder in (COMMITTED, rebuilt) for path in folder.glob("*.npz")})
        verdicts = [verdict(COMMITTED / name, rebuilt / name) for name in names]
    for name, (_, text) in zip(names, verdicts, strict=True):
        print(f"{name:28} {text}")
    return 0 if all(good for good, _ in verdicts) else 1


def verdict(committed: pathlib.Path, rebuilt: pathlib.Path) -> tuple[bool, str]:
    if not committed.exists():
        return False, "is not committed"
    if not rebuilt.exists():
        return False, "was not rebuilt"
    old, new = np.load(committed), np.load(rebuilt)
    if sorted(old.files) != sorted(new.files):
        return False, f"arrays differ: {sorted(set(old.files) ^ set(new.files))}"
    if description(old) != description(new):
        return False, "meta differs"
    differences = {key: difference(old[key], new[key]) for key in old.files if key != "meta"}
    worst = max(differences, key=differences.get)
    return differences[worst] <= LIMIT, f"largest difference {differences[worst]:.1e} in {worst}"


def description(fixture: np.lib.npyio.NpzFile) -> dict:
    """`meta` less what another machine may change."""

    def kept(pairs: list) -> dict:
        return {key: value for key, value in pairs if key not in OF_THE_MACHINE}

    return json.loads(str(fixture["meta"]), object_pairs_hook=kept)


def difference(old: np.ndarray, new: np.ndarray) -> float:
    """Largest relative difference of a row; 0 or infinity for text, shapes and missing values (NaN)."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return np.inf
    if old.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(old, new) else np.inf
    if not np.array_equal(np.isnan(old), np.isnan(new)):
        return np.inf
    rows = old.reshape(old.shape[0] if old.ndim else 1, -1)
    scale = np.nanmax(np.abs(rows), axis=1, initial=0.0)
    scale = np.maximum(scale, max(FLOOR * scale.max(), np.finfo(float).tiny))
    return float(np.nanmax(np.abs(new.reshape(rows.shape) - rows) / scale[:, None], initial=0.0))


if __name__ == "__main__":
    chosen = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if sorted(chosen) != ["cityscapesscripts", "mmsegmentation", "transformers"]:
        raise SystemExit(__doc__)
    sys.exit(main({kit: pathlib.Path(environment) for kit, environment in chosen.items()}))
