"""Run the SegFormer of Hugging Face transformers on a CPU and write what our tests compare with.

    python third_party/transformers/make_fixtures.py tests/reference

Needs the environment of requirements.txt, not cropjax. Weights (from the state_dict's keys and shapes) and the image
come from tests/reference/rule.py, so `huggingface_segformer.npz` holds results only. For each class of CLASSES:

    CLASS/keys       state_dict keys of transformers 5
    CLASS/hub_keys   the same, as transformers 4 and the files on the hub call them

and for SegformerForSemanticSegmentation at each width of CONFIGS, `tiny` and `b0`:

    WIDTH/eval       [meta eval, 66]: rule.summary of the four stages, feat0..3, and of the logits at stride 4

in float64. `meta` is a JSON string: for each width its config, the shape of each key, the number of parameters, and
how far upstream's own float32 run is from its float64 run, as max |f32 - f64| / max |f64|.
"""

import json
import pathlib
import platform
import sys

import numpy as np
import torch
import transformers
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from transformers.core_model_loading import revert_weight_conversion

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))

import rule

CLASSES = (SegformerForSemanticSegmentation, SegformerForImageClassification, SegformerModel)
SHARED = {
    "depths": [2, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [4, 4, 4, 4],
    "num_labels": 19,
}
CONFIGS = {
    "tiny": {"hidden_sizes": [8, 16, 40, 64], "decoder_hidden_size": 32, **SHARED},
    "b0": {"hidden_sizes": [32, 64, 160, 256], "decoder_hidden_size": 256, **SHARED},
}
EVAL = ("feat0", "feat1", "feat2", "feat3", "decode_logits")
EVAL_SHAPE = (1, 3, 97, 129)
VALUES = 64


def main(out: pathlib.Path) -> None:
    torch.set_num_threads(1)  # the order of a sum, and so its last bit, depends on the threads
    torch.use_deterministic_algorithms(True)
    arrays, cases = {}, {}
    for kind in CLASSES:
        net = kind(SegformerConfig(**CONFIGS["b0"]))
        arrays[f"{kind.__name__}/keys"] = np.array(list(net.state_dict()))
        arrays[f"{kind.__name__}/hub_keys"] = np.array(hub_keys(net))
    for width, config in CONFIGS.items():
        arrays[f"{width}/eval"], cases[width] = evaluate(config)
    meta = {
        "cases": cases,
        "eval": EVAL,
        "inputs": {"eval": ["input/eval", EVAL_SHAPE]},
        "values": {"eval": VALUES},
        "command": "python third_party/transformers/make_fixtures.py tests/reference",
        "versions": {module.__name__: module.__version__ for module in (np, torch, transformers)}
        | {"python": platform.python_version()},
        # Should a NumPy ever change its normal deviates, this tells so before any parity test misleads.
        "rule": {"name": "check", "values": rule.draw("check", (4,)).tolist()},
    }
    path = out / "huggingface_segformer.npz"
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(arrays)} arrays")


def hub_keys(net: torch.nn.Module) -> list[str]:
    """The older name of each key of the state_dict, from the renaming that transformers does when it saves."""
    keys = list(net.state_dict())
    numbered = {key: torch.tensor(i) for i, key in enumerate(keys)}
    names = {int(i): name for name, i in revert_weight_conversion(net, numbered).items()}
    return [names[i] for i in range(len(keys))]


def evaluate(config: dict) -> tuple[np.ndarray, dict]:
    """Summaries of the float64 activations, and what `meta` says of this width."""
    # "eager" attention would take its softmax in float32.
    net = SegformerForSemanticSegmentation(SegformerConfig(**config, attn_implementation="sdpa")).eval()
    state = net.state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = torch.from_numpy(rule.draw(key, tuple(value.shape)))
    net.load_state_dict(state)

    image = torch.from_numpy(rule.draw("input/eval", EVAL_SHAPE))
    rounded, exact = activations(net, image), activations(net.double(), image.double())
    noise = {name: np.abs(rounded[name] - exact[name]).max() / np.abs(exact[name]).max() for name in EVAL}
    case = {
        "config": config,
        "shapes": [tuple(value.shape) for value in state.values()],
        "parameters": net.num_parameters(),
        "float32_noise": {name: float(f"{value:.1e}") for name, value in noise.items()},
    }
    return np.stack([rule.summary(name, exact[name], VALUES) for name in EVAL]), case


@torch.no_grad()
def activations(net: torch.nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    output = net(image, output_hidden_states=True)
    values = [*output.hidden_states, output.logits]
    return {name: value.numpy().astype(np.float64) for name, value in zip(EVAL, values, strict=True)}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_fixtures.py FOLDER")
    main(pathlib.Path(sys.argv[1]))
