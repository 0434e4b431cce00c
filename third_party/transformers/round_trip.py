"""One end of ../round_trip.py: write the weights of a SegFormer of transformers, and check them when they come back.

    python round_trip.py write b0 FOLDER
    python round_trip.py check b0 FILE.safetensors

`write` saves as transformers does, with the hub's names; weights are drawn by tests/reference/rule.py. `check` loads
with `from_pretrained`, and exits with 1 if a key is missing or left over, or a tensor or a logit differs by a bit; only
BatchNorm's counter may.
"""

import pathlib
import shutil
import sys
import tempfile

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))

import rule
from make_fixtures import CONFIGS, EVAL_SHAPE


def network(width: str) -> torch.nn.Module:
    net = SegformerForSemanticSegmentation(SegformerConfig(**CONFIGS[width])).eval()
    state = net.state_dict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            state[key] = torch.from_numpy(rule.draw(key, tuple(value.shape)))
    net.load_state_dict(state)
    return net


@torch.no_grad()
def main(task: str, width: str, path: str) -> int:
    net = network(width)
    if task == "write":
        net.save_pretrained(path)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        net.config.save_pretrained(folder)
        shutil.copy(path, pathlib.Path(folder, "model.safetensors"))
        back, report = SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    unmatched = [*report["missing_keys"], *report["unexpected_keys"]]
    states = net.state_dict(), back.eval().state_dict()
    different = [
        key
        for key in states[0]
        if not key.endswith("num_batches_tracked") and not torch.equal(*(s[key] for s in states))
    ]
    image = torch.from_numpy(rule.draw("input/eval", EVAL_SHAPE))
    logits = (net(image).logits - back(image).logits).abs().max().item()
    print(f"huggingface {width:12} {len(states[0])} tensors, {len(different)} differ, {len(unmatched)} keys unmatched, "
          f"logits differ by {logits}")  # fmt: skip
    return int(bool(unmatched or different or logits))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
