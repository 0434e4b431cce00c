"""Import mmsegmentation with mmcv-lite, and build its published networks, at their own widths or narrow."""

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
from mmseg.models.decode_heads.ham_head import NMF2D  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs"

# The published config of each network. 512x1024 is upstream's align_corners False family, 769x769 its True family;
# the transformers have False only.
FILES = {
    "pspnet": "pspnet/pspnet_{size}-d8_4xb2-80k_cityscapes-{crop}.py",
    "deeplabv3plus": "deeplabv3plus/deeplabv3plus_{size}-d8_4xb2-80k_cityscapes-{crop}.py",
    "segformer": "segformer/segformer_mit-{size}_8xb1-160k_cityscapes-1024x1024.py",
    "segnext": "segnext/segnext_mscan-{size}_1xb16-adamw-160k_ade20k-512x512.py",
}
CROP_OF_ALIGN_CORNERS = {False: "512x1024", True: "769x769"}
NUM_CLASSES = 19

# Same topology as the published networks, narrow, and MSCAN-T with fewer blocks. ResNet-18 keeps upstream's ratios.
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
    "b0": {
        "backbone": {"embed_dims": 8},
        "decode_head": {"in_channels": [8, 16, 40, 64], "channels": 32},
    },
    "t": {
        "backbone": {"embed_dims": [8, 16, 24, 32], "depths": [2, 1, 2, 1]},
        "decode_head": {"in_channels": [16, 24, 32], "channels": 64, "ham_channels": 64},
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


def published(network: str, size: str, align_corners: bool, tiny: bool, random: bool = False) -> tuple[str, dict, dict]:
    """(config file in the wheel, model dict, optim_wrapper dict): 19 classes, narrow where `tiny`.

    Nothing in it is random, or where `random`, what is published: dropout, drop path, SegNeXt's bases.
    """
    file = FILES[network].format(size=size, crop=CROP_OF_ALIGN_CORNERS[align_corners])
    config = Config.fromfile(CONFIGS / file)
    model = config.model.to_dict()
    _plain_batch_norm(model)
    model["pretrained"] = None
    model["backbone"].pop("init_cfg", None)  # the address of a checkpoint
    if tiny:
        for part, widths in TINY[size].items():
            model[part].update(widths)
        if network == "deeplabv3plus":
            model["decode_head"].update(TINY_C1[size])
    if "drop_path_rate" in model["backbone"] and not random:
        model["backbone"]["drop_path_rate"] = 0.0
    if "ham_kwargs" in model["decode_head"]:
        model["decode_head"]["ham_kwargs"]["rand_init"] = random
    for head in ("decode_head", "auxiliary_head"):
        if head not in model:
            continue
        if not random:
            model[head]["dropout_ratio"] = 0
        model[head]["num_classes"] = NUM_CLASSES
        if network in ("segformer", "segnext"):
            model[head]["align_corners"] = align_corners  # False in all that is published
        if model[head]["align_corners"] != align_corners:
            raise ValueError(f"{file}: {head} has align_corners {not align_corners}")
    return file, model, config.optim_wrapper.to_dict()


def build(model: dict) -> torch.nn.Module:
    register_all_modules(init_default_scope=True)
    net = MODELS.build(Config(model))
    for module in net.modules():
        if isinstance(module, NMF2D):
            # Upstream would draw these at the first forward; here they are a key of the state from the start.
            module.register_buffer("bases", torch.zeros(1, net.decode_head.ham_channels, module.R))
    return net
