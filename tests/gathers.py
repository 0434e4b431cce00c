"""What a tiny network's training step computes on one device and on four that share its rows; for test_devices.py.

    python tests/gathers.py segformer 257

The branches are those for a GPU, the partitioner is XLA's own, which is the same on every kind of device; nothing is
run. Prints JSON: operations of a device [one of one, one of four], and bytes of the images and of gathered maps.
"""

import json
import sys

from show.sharded_programs import as_on_a_gpu, compiled, exchanges
from tiny import tiny_config


def main(network, size):
    config = tiny_config(network)
    with as_on_a_gpu():
        programs = [compiled(config, mesh, (size, size), batch=2)[0] for mesh in ((1, 1), (1, 4))]
    found = {
        "flops": [program.cost_analysis()["flops"] for program in programs],
        "images": 2 * size * size * 3 * 4,
        "gathered": exchanges(programs[1].as_text())["all-gather"][1],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
