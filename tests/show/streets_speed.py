"""How fast street scenes are drawn: `python tests/show/streets_speed.py`.

Prints images a second at 512x1024 on one core: the median of five rounds of twenty scenes, and the slowest.
"""

import os
import statistics
import time

import cv2

from cropjax.data.streets import Streets

ROUNDS, SCENES, SIZE = 5, 20, (512, 1024)


def main():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    source = Streets("train", ROUNDS * SCENES, SIZE)
    rates = []
    for start in range(0, ROUNDS * SCENES, SCENES):
        began = time.monotonic()
        for i in range(start, start + SCENES):
            source[i]
        rates.append(SCENES / (time.monotonic() - began))
    print(f"{SIZE[0]}x{SIZE[1]}, one core: {statistics.median(rates):.1f} images/s, slowest round {min(rates):.1f}")


if __name__ == "__main__":
    main()
