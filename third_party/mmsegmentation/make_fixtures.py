"""Run upstream's networks and operations on a CPU and write what our tests compare with.

    python third_party/mmsegmentation/make_fixtures.py tests/reference

Needs the environment of requirements.txt, not cropjax. Weights, inputs and labels come from
tests/reference/rule.py, so a fixture holds results only. One file a network and `ops.npz`:

    names              parameter keys, in upstream's order
    bn_names           running-statistic keys, in upstream's order
    ac{0,1}/eval       [7, 66]: rule.summary of feat0..3, decode_logits, aux_logits, logits
    ac{0,1}/loss       [4]: decode.loss_ce, decode.acc_seg (percent, float32), aux.loss_ce (x 0.4), total
    ac{0,1}/grad       [names, 6]: rule.summary of each gradient of the total loss
    ac{0,1}/bn_after   [bn_names, 6]: rule.summary of the running statistics after that one forward
    ac{0,1}/steps      [6]: total loss before each of six SGD steps on the same batch
    ac{0,1}/params     [names]: l2 norm of each parameter after the six steps

`ac1` is align_corners True. Arrays are float64. The name given to rule.summary is the key, and for
activations the name in `meta["eval"]`. `meta` is a JSON string.
"""

import json
import pathlib
import platform
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))

import rule
from op_cases import op_fixtures
from upstream import build, tiny_config

NETWORKS = {
    "pspnet": ("pspnet", "r50", (False, True)),
    "deeplabv3plus": ("deeplabv3plus", "r50", (False, True)),
    "pspnet_r18": ("pspnet", "r18", (True,)),
    "deeplabv3plus_r18": ("deeplabv3plus", "r18", (False,)),
}
NUM_CLASSES = 19
EVAL_SHAPE = (1, 3, 97, 129)
TRAIN_SHAPE = (4, 3, 97, 113)  # batch 1 is impossible: BN after 1x1 pooling would see one value
IGNORED = 0.2
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
STEPS = 6
EVAL = ("feat0", "feat1", "feat2", "feat3", "decode_logits", "aux_logits", "logits")
LOSS = ("decode.loss_ce", "decode.acc_seg", "aux.loss_ce", "total")
EVAL_VALUES, OTHER_VALUES = 64, 4


def main(out: pathlib.Path) -> None:
    torch.set_num_threads(1)  # the order of a sum, and so its last bit, depends on the threads
    torch.use_deterministic_algorithms(True)
    for name, (network, depth, aligns) in NETWORKS.items():
        write(out / f"{name}.npz", *network_fixture(network, depth, aligns))
    write(out / "ops.npz", *op_fixtures())


def write(path: pathlib.Path, arrays: dict, meta: dict) -> None:
    versions = {name: sys.modules[name].__version__ for name in ("mmcv", "mmengine", "mmseg", "numpy", "torch")}
    meta |= {
        "command": "python third_party/mmsegmentation/make_fixtures.py tests/reference",
        "versions": versions | {"python": platform.python_version()},
        # Should a NumPy ever change its normal deviates, this tells so before any parity test misleads.
        "rule": {"name": "check", "values": rule.draw("check", (4,)).tolist()},
    }
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(arrays)} arrays")


def network_fixture(network: str, depth: str, aligns: tuple[bool, ...]) -> tuple[dict, dict]:
    arrays, cases = {}, {}
    for align_corners in aligns:
        file, model = tiny_config(network, depth, align_corners)
        case = f"ac{int(align_corners)}"
        kept, noise = evaluate(model)
        arrays[f"{case}/eval"] = kept
        arrays |= {f"{case}/{key}": value for key, value in train(model).items()}
        cases[case] = {"config": file, "model": model, "float32_noise": noise}
    net = drawn(model)
    arrays["names"] = np.array([name for name, _ in net.named_parameters()])
    arrays["bn_names"] = np.array([name for name, _ in running_statistics(net)])
    meta = {
        "cases": cases,
        "eval": EVAL,
        "loss": LOSS,
        "inputs": {"eval": ["input/eval", EVAL_SHAPE], "train": ["input/train", TRAIN_SHAPE]},
        "labels": ["label/train", TRAIN_SHAPE[:1] + TRAIN_SHAPE[2:], NUM_CLASSES, IGNORED],
        "values": {"eval": EVAL_VALUES, "grad": OTHER_VALUES, "bn_after": OTHER_VALUES},
        "sgd": SGD,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    return arrays, meta


def drawn(model: dict) -> torch.nn.Module:
    """The network in float64 with every weight and running statistic drawn by the rule."""
    net = build(model)
    state = net.state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = torch.from_numpy(rule.draw(key, tuple(value.shape)))
    net.load_state_dict(state)
    return net.double()


def evaluate(model: dict) -> tuple[np.ndarray, dict]:
    """Summaries of the float64 activations, and how far a float32 run is from them.

    The noise of an activation is max |f32 - f64| / max |f64|, to two digits.
    """
    net = drawn(model).eval()
    image = torch.from_numpy(rule.draw("input/eval", EVAL_SHAPE))
    exact = activations(net, image.double())
    rounded = activations(net.float(), image)
    noise = {
        name: float(f"{np.abs(rounded[name] - exact[name]).max() / np.abs(exact[name]).max():.1e}") for name in EVAL
    }
    return np.stack([rule.summary(name, exact[name], EVAL_VALUES) for name in EVAL]), noise


@torch.no_grad()
def activations(net: torch.nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    features = net.extract_feat(image)
    found = {f"feat{i}": feature for i, feature in enumerate(features)}
    found["decode_logits"] = net.decode_head(features)
    found["aux_logits"] = net.auxiliary_head(features)
    found["logits"] = net.encode_decode(image, [{"img_shape": tuple(image.shape[2:])}])
    return {name: value.numpy().astype(np.float64) for name, value in found.items()}


def train(model: dict) -> dict[str, np.ndarray]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    image = torch.from_numpy(rule.draw("input/train", TRAIN_SHAPE)).double()
    label_shape = (TRAIN_SHAPE[0], *TRAIN_SHAPE[2:])
    labels = torch.from_numpy(rule.draw_labels("label/train", label_shape, NUM_CLASSES, IGNORED))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]

    net = drawn(model).train()
    optimizer = torch.optim.SGD(net.parameters(), **SGD)
    result, totals = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        parts = net.loss(image, samples)
        total, _ = net.parse_losses(parts)
        total.backward()
        totals.append(total.item())
        if step == 0:
            found = {key: value.item() for key, value in parts.items()} | {"total": total.item()}
            result["loss"] = np.array([found[key] for key in LOSS])
            gradients = ((name, parameter.grad) for name, parameter in net.named_parameters())
            result["grad"] = summaries(gradients)
            result["bn_after"] = summaries(running_statistics(net))
        optimizer.step()
    result["steps"] = np.array(totals)
    result["params"] = np.array([torch.linalg.norm(p.detach()).item() for p in net.parameters()])
    return result


def running_statistics(net: torch.nn.Module):
    return ((name, value) for name, value in net.named_buffers() if ".running_" in name)


def summaries(named) -> np.ndarray:
    return np.stack([rule.summary(name, tensor.numpy(), OTHER_VALUES) for name, tensor in named])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_fixtures.py FOLDER")
    main(pathlib.Path(sys.argv[1]))
