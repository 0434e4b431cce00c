"""Run upstream's networks and operations on a CPU and write what our tests compare with.

    python third_party/mmsegmentation/make_fixtures.py tests/reference

Needs the environment of requirements.txt, not cropjax. Weights, inputs and labels come from
tests/reference/rule.py, so a fixture holds results only. `ops.npz` holds single operations (op_cases.py), and
one file a network (network_cases.py):

    names              parameter keys, in upstream's order
    bn_names           running-statistic keys, in upstream's order
    groups             [names, 2]: factors on the learning rate and on the weight decay (AdamW only)
    ac{0,1}/eval       [meta eval, values + 2]: rule.summary of feat0..3, decode_logits, aux_logits, logits
    ac{0,1}/loss       [meta loss]: decode.loss_ce, decode.acc_seg (percent, float32), aux.loss_ce (x 0.4), total
    ac{0,1}/grad       [names, values + 2]: rule.summary of each gradient of the total loss
    ac{0,1}/bn_after   [bn_names, values + 2]: rule.summary of the running statistics after that one forward
    ac{0,1}/steps      [6]: total loss before each of six steps of the published optimiser on the same batch
    ac{0,1}/params     [names]: l2 norm of each parameter after the six steps

`ac1` is align_corners True. Arrays are float64. The name given to rule.summary is the key, and for
activations the name in `meta["eval"]`. `meta` is a JSON string. Only PSPNet and DeepLabV3+ have an auxiliary head.
A `full_` file has the published widths, fewer values of an array, and no `steps` and `params`.
"""

import json
import logging
import pathlib
import platform
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))

import rule
from network_cases import NETWORKS, network_fixture
from op_cases import op_fixtures


def main(out: pathlib.Path) -> None:
    logging.disable(logging.INFO)  # mmengine tells the optimiser's settings of every parameter
    torch.set_num_threads(1)  # the order of a sum, and so its last bit, depends on the threads
    torch.use_deterministic_algorithms(True)
    write(out / "ops.npz", *op_fixtures())
    for name, spec in NETWORKS.items():
        write(out / f"{name}.npz", *network_fixture(spec))


def write(path: pathlib.Path, arrays: dict, meta: dict) -> None:
    versions = {name: sys.modules[name].__version__ for name in ("mmcv", "mmengine", "mmseg", "numpy", "torch")}
    meta |= {
        "command": "python third_party/mmsegmentation/make_fixtures.py tests/reference",
        "versions": versions | {"python": platform.python_version()},
        # Should a NumPy ever change its normal deviates, this tells so before any parity test misleads.
        "rule": {"name": "check", "values": rule.draw("check", (4,)).tolist()},
    }
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(arrays)} arrays", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_fixtures.py FOLDER")
    main(pathlib.Path(sys.argv[1]))
