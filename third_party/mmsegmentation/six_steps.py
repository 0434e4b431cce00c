"""How far mmsegmentation on this machine is from mmsegmentation on another, in six steps of SGD.

    python third_party/mmsegmentation/six_steps.py FOLDER

FOLDER holds {pspnet,deeplabv3plus}_tiny.npz, which upstream wrote: a network, a batch, and the total loss of six steps
in float64. Runs those steps again, with one thread and with two, and prints how far every loss is from the file's.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from upstream import build


def six_steps(file, threads: int) -> np.ndarray:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    torch.set_num_threads(threads)
    meta = json.loads(str(file["meta"]))
    net = build(meta["model"])
    state = {key[3:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("sd/")}
    net.load_state_dict(state, strict=True)
    net = net.double().train()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0  # as in the file
    settings = dict(meta["steps"]["optimizer"])
    settings.pop("type")
    optimizer = torch.optim.SGD(net.parameters(), **settings)
    image = torch.from_numpy(file["train/input"]).double()
    labels = torch.from_numpy(file["train/label"].astype(np.int64))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    totals = []
    for _ in range(6):
        losses = net.loss(image, samples)
        total = sum(value for name, value in losses.items() if "loss" in name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    return np.array(totals)


def main(folder: pathlib.Path) -> None:
    for network in ("pspnet", "deeplabv3plus"):
        file = np.load(folder / f"{network}_tiny.npz")
        for threads in (1, 2):
            away = np.abs(six_steps(file, threads) - file["steps/total_loss64"])
            print(f"{network:14} threads {threads}: {' '.join(f'{x:.1e}' for x in away)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: six_steps.py FOLDER")
    main(pathlib.Path(sys.argv[1]))
