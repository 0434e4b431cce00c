"""Import mmsegmentation with mmcv-lite, and build its networks with narrow widths."""

import importlib.machinery
import pathlib
import sys
import types

import torch


def _without_compiled_ops() -> None:
    """mmcv-lite ships no compiled ops, yet mmseg imports them; none of the networks here calls one."""

    def missing(*_args, **_kwargs):
        raise RuntimeError("a compiled mmcv op was called; mmcv-lite has none")

    stub = types.ModuleType("mmcv._ext")
    stub.__file__ = "mmcv/_ext.py"
    stub.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
    stub.__getattr__ = lambda name: missing
    sys.modules["mmcv._ext"] = stub


_without_compiled_ops()

import mmseg  # noqa: E402
from mmengine import Config  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs"

# 512x1024 is upstream's align_corners False family, 769x769 its True family.
CROP_OF_ALIGN_CORNERS = {False: "512x1024", True: "769x769"}

# Same topology as the published networks, narrow. The resnet18 widths keep upstream's ratios.
TINY = {
    "r50": {
        "backbone": {"base_channels": 8, "stem_channels": 8},
        "decode_head": {"in_channels": 256, "channels": 32},
        "auxiliary_head": {"in_channels": 128, "channels": 16},
    },
    "r18": {
        "backbone": {"base_channels": 8, "stem_channels": 8},
        "decode_head": {"in_channels": 64, "channels": 16},
        "auxiliary_head": {"in_channels": 32, "channels": 8},
    },
}
TINY_C1 = {"r50": {"c1_in_channels": 32, "c1_channels": 12}, "r18": {"c1_in_channels": 8, "c1_channels": 6}}


def _plain_batch_norm(node) -> None:
    """SyncBN -> BN in place: one process has nothing to synchronise, and SyncBN refuses to run on a CPU."""
    if isinstance(node, dict):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        for child in node.values():
            _plain_batch_norm(child)


def tiny_config(network: str, depth: str, align_corners: bool) -> tuple[str, dict]:
    """(config file in the wheel, model dict): `network` pspnet or deeplabv3plus, `depth` r50 or r18."""
    crop = CROP_OF_ALIGN_CORNERS[align_corners]
    file = f"{network}/{network}_{depth}-d8_4xb2-80k_cityscapes-{crop}.py"
    model = Config.fromfile(CONFIGS / file).model.to_dict()
    _plain_batch_norm(model)
    model["pretrained"] = None
    for part, widths in TINY[depth].items():
        model[part].update(widths)
    if network == "deeplabv3plus":
        model["decode_head"].update(TINY_C1[depth])
    for head in ("decode_head", "auxiliary_head"):
        model[head]["dropout_ratio"] = 0  # the one random thing in a step
        if model[head]["align_corners"] != align_corners:
            raise ValueError(f"{file}: {head} has align_corners {not align_corners}")
    return file, model


def build(model: dict) -> torch.nn.Module:
    register_all_modules(init_default_scope=True)
    return MODELS.build(Config(model))
