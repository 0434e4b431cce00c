"""Whole networks of mmseg in float64: activations, one training step, and several steps of the published optimiser."""

import dataclasses

import numpy as np
import rule
import torch
from upstream import NUM_CLASSES, build, published


@dataclasses.dataclass(frozen=True)
class Network:
    """One fixture: which published configs it takes, at which width, on images of which size."""

    family: str
    size: str
    aligns: tuple[bool, ...] = (False,)
    eval_shape: tuple[int, ...] = (1, 3, 97, 129)
    train_shape: tuple[int, ...] = (2, 3, 64, 96)
    tiny: bool = True

    @property
    def label_shape(self) -> tuple[int, ...]:
        return self.train_shape[:1] + self.train_shape[2:]

    @property
    def values(self) -> dict[str, int]:
        """How many values of an array its summary keeps."""
        activation, other = (64, 4) if self.tiny else (16, 2)
        return {"eval": activation, "grad": other, "bn_after": other}


BOTH = (False, True)
FOUR = (4, 3, 97, 113)  # batch 1 is impossible: BN after 1x1 pooling would see one value
NETWORKS = {
    "pspnet": Network("pspnet", "r50", BOTH, train_shape=FOUR),
    "deeplabv3plus": Network("deeplabv3plus", "r50", BOTH, train_shape=FOUR),
    "pspnet_r18": Network("pspnet", "r18", (True,), train_shape=FOUR),
    "deeplabv3plus_r18": Network("deeplabv3plus", "r18", (False,), train_shape=FOUR),
    "segformer": Network("segformer", "b0"),
    # Two images: each is decomposed on its own, from the same bases.
    "segnext": Network("segnext", "t", eval_shape=(2, 3, 97, 129)),
    "full_pspnet": Network("pspnet", "r50", BOTH, train_shape=FOUR, tiny=False),
    "full_deeplabv3plus": Network("deeplabv3plus", "r50", BOTH, train_shape=FOUR, tiny=False),
    "full_segformer_b0": Network("segformer", "b0", BOTH, tiny=False),
    "full_segformer_b3": Network("segformer", "b3", BOTH, tiny=False),
    "full_segnext_t": Network("segnext", "t", BOTH, tiny=False),
    "full_segnext_b": Network("segnext", "b", BOTH, tiny=False),
}
IGNORED = 0.2
STEPS = 6
ADAMW = {"lr": 1e-3, "eps": 1e-8}  # the published rate, 6e-5, would move little in six steps
LOSS = ("decode.loss_ce", "decode.acc_seg", "aux.loss_ce", "total")


def network_fixture(spec: Network) -> tuple[dict, dict]:
    arrays, cases = {}, {}
    for align_corners in spec.aligns:
        file, model, optim_wrapper = published(spec.family, spec.size, align_corners, spec.tiny)
        case = f"ac{int(align_corners)}"
        kept, noise = evaluate(model, spec)
        trained, loss_names = train(model, optim_wrapper, spec)
        arrays |= {f"{case}/{key}": value for key, value in ({"eval": kept} | trained).items()}
        cases[case] = {"config": file, "model": model, "float32_noise": noise}
    net = drawn(model)
    arrays["names"] = np.array([name for name, _ in net.named_parameters()])
    arrays["bn_names"] = np.array([name for name, _ in running_statistics(net)])
    optimizer, settings = optimizer_settings(optim_wrapper)
    if optimizer == "adamw":
        arrays["groups"] = multipliers(net, optim_wrapper)
    meta = {
        "cases": cases,
        "eval": list(noise),
        "loss": loss_names,
        "inputs": {"eval": ["input/eval", spec.eval_shape], "train": ["input/train", spec.train_shape]},
        "labels": ["label/train", spec.label_shape, NUM_CLASSES, IGNORED],
        "values": spec.values,
        optimizer: settings,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    for name, buffer in net.named_buffers():
        if name.endswith(".bases"):
            meta["bases"] = [name, tuple(buffer.shape)]
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


def evaluate(model: dict, spec: Network) -> tuple[np.ndarray, dict]:
    """Summaries of the float64 activations, and how far a float32 run is from them.

    The noise of an activation is max |f32 - f64| / max |f64|, to two digits.
    """
    net = drawn(model).eval()
    image = torch.from_numpy(rule.draw("input/eval", spec.eval_shape))
    exact = activations(net, image.double())
    rounded = activations(net.float(), image)
    noise = {
        name: float(f"{np.abs(rounded[name] - value).max() / np.abs(value).max():.1e}") for name, value in exact.items()
    }
    return np.stack([rule.summary(name, value, spec.values["eval"]) for name, value in exact.items()]), noise


@torch.no_grad()
def activations(net: torch.nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    features = net.extract_feat(image)
    found = {f"feat{i}": feature for i, feature in enumerate(features)}
    found["decode_logits"] = net.decode_head(features)
    if net.with_auxiliary_head:
        found["aux_logits"] = net.auxiliary_head(features)
    found["logits"] = net.encode_decode(image, [{"img_shape": tuple(image.shape[2:])}])
    return {name: value.numpy().astype(np.float64) for name, value in found.items()}


def train(model: dict, optim_wrapper: dict, spec: Network) -> tuple[dict[str, np.ndarray], list[str]]:
    """Losses, gradients and running statistics of one step; losses and parameters of six if the network is tiny."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    image = torch.from_numpy(rule.draw("input/train", spec.train_shape)).double()
    labels = torch.from_numpy(rule.draw_labels("label/train", spec.label_shape, NUM_CLASSES, IGNORED))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]

    net = drawn(model).train()
    optimizer = build_optimizer(net, optim_wrapper)
    result, totals = {}, []
    for step in range(STEPS if spec.tiny else 1):
        optimizer.zero_grad()
        parts = net.loss(image, samples)
        total, _ = net.parse_losses(parts)
        total.backward()
        totals.append(total.item())
        if step == 0:
            found = {key: value.item() for key, value in parts.items()} | {"total": total.item()}
            loss_names = [key for key in LOSS if key in found]
            result["loss"] = np.array([found[key] for key in loss_names])
            gradients = ((name, parameter.grad) for name, parameter in net.named_parameters())
            result["grad"] = summaries(gradients, spec.values["grad"])
            result["bn_after"] = summaries(running_statistics(net), spec.values["bn_after"])
        optimizer.step()
    if spec.tiny:
        result["steps"] = np.array(totals)
        result["params"] = np.array([torch.linalg.norm(p.detach()).item() for p in net.parameters()])
    return result, loss_names


def optimizer_settings(optim_wrapper: dict) -> tuple[str, dict]:
    """(sgd or adamw, its arguments): the published ones, but for ADAMW."""
    settings = dict(optim_wrapper["optimizer"])
    name = settings.pop("type").lower()
    return name, settings | (ADAMW if name == "adamw" else {})


def build_optimizer(net: torch.nn.Module, optim_wrapper: dict) -> torch.optim.Optimizer:
    """The optimiser as mmengine makes it, with the config's rules for single parameters."""
    from mmengine.optim import build_optim_wrapper

    _, settings = optimizer_settings(optim_wrapper)
    optimizer = {"type": optim_wrapper["optimizer"]["type"], **settings}
    return build_optim_wrapper(net, optim_wrapper | {"optimizer": optimizer}).optimizer


def multipliers(net: torch.nn.Module, optim_wrapper: dict) -> np.ndarray:
    """[names, 2]: each parameter's learning rate and weight decay, over the optimiser's own."""
    _, settings = optimizer_settings(optim_wrapper)
    found = {}
    for group in build_optimizer(net, optim_wrapper).param_groups:
        for parameter in group["params"]:
            found[parameter] = group["lr"] / settings["lr"], group["weight_decay"] / settings["weight_decay"]
    return np.array([found[parameter] for parameter in net.parameters()])


def running_statistics(net: torch.nn.Module):
    return ((name, value) for name, value in net.named_buffers() if ".running_" in name)


def summaries(named, count: int) -> np.ndarray:
    return np.stack([rule.summary(name, tensor.numpy(), count) for name, tensor in named])
