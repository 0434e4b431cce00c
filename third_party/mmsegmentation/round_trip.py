"""One end of ../round_trip.py: write the weights of a published network, and check them when they come back.

    python round_trip.py write NETWORK FILE.pth
    python round_trip.py check NETWORK FILE.safetensors

NETWORK is a full-size one of network_cases.py. Its weights are drawn by tests/reference/rule.py. The file that is
written has what mmengine puts beside them, an object of its own among it. `check` loads strictly, and exits with 1
unless every tensor has the bits that were written; only BatchNorm's counters may differ.
"""

import pathlib
import sys

import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))

from network_cases import NETWORKS, drawn
from upstream import NMF2D, published


def network(name: str) -> torch.nn.Module:
    spec = NETWORKS[name]
    _, model, _ = published(spec.family, spec.size, spec.aligns[0], spec.tiny)
    net = drawn(model).float()
    for module in net.modules():
        if isinstance(module, NMF2D):
            del module.bases  # as published: drawn at every forward, no part of the state
    return net


def main(task: str, name: str, path: str) -> int:
    net = network(name)
    written = {key: value.clone() for key, value in net.state_dict().items()}
    if task == "write":
        torch.save({"meta": {"epoch": 1}, "state_dict": written, "message_hub": HistoryBuffer()}, path)
        return 0
    found = load_file(path)
    for value in net.state_dict().values():
        value.zero_()
    net.load_state_dict(found, strict=True)
    different = [
        key
        for key, value in net.state_dict().items()
        if not key.endswith("num_batches_tracked") and not torch.equal(value, written[key])
    ]
    print(f"{name:24} {len(found)} tensors, {len(different)} differ {' '.join(different[:3])}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
