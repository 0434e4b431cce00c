"""mmsegmentation's side of `python -m cropjax.benchmark --against torch`: one JSON object a line, in and out.

The messages are described in cropjax/benchmark/rivals.py. Between two of them this process waits for its standard
input, in a system call: cropjax measures that it takes no processor time there (`idle_cores` in its report).

The network is the published one, with the published dropout and drop path in training. Where upstream leaves speed
lying around that costs one line here, this side has it: parameters with the same factors share a group of the
optimiser (mmengine makes a group a parameter), and full-size logits are not resized to the size that they have.
On a GPU, float32 products may use TF32, as cropjax's do, but for the logits that the two sides are compared by, and
cuDNN tries its algorithms, as upstream's runtime has it (`cudnn_benchmark`).
"""

import json
import os
import pathlib
import sys
import time

import numpy as np

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print belongs to standard error

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from reader import Reader  # noqa: E402
from upstream import NMF2D, Config, build, mmseg, published  # noqa: E402

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB
SIZE_DIVISOR = {"segnext": 32}  # to which upstream's preprocessor pads test images


class Rival:
    """One network on one batch: what a message asks for is the method of that name."""

    def __init__(self, network, size, align_corners, weights, image, dtype, layout, compile, optimizer, threads):
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.half = dtype == "bfloat16"
        self.divisor = SIZE_DIVISOR.get(network, 1)
        _, model, _ = published(network, size, align_corners, tiny=False, random=True)
        self.net = build(model)
        self.net.load_state_dict(safetensors.torch.load_file(weights), strict=True)
        self.net.to(self.device, memory_format=self.format)
        self.optimizer = grouped_optimizer(self.net, **optimizer)
        self.parameters = sum(parameter.numel() for parameter in self.net.parameters())
        if compile:
            parts = [self.net.backbone, self.net.decode_head]
            for part in parts + ([self.net.auxiliary_head] if self.net.with_auxiliary_head else []):
                part.forward = torch.compile(part.forward)
        batch = np.load(image)
        self.image = torch.from_numpy(batch["image"]).to(self.device)
        label = torch.from_numpy(batch["label"].astype(np.int64)).to(self.device)
        self.samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in label]
        self.mean, self.std = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (MEAN, STD))
        self.normalized = self.normalize()

    def ready(self):
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        versions = {"torch": torch.__version__, "mmsegmentation": mmseg.__version__, "python": sys.version.split()[0]}
        return {"ready": True, "parameters": self.parameters, "versions": versions, "device": name}

    def forward(self):
        self.mode(training=False)
        with torch.inference_mode(), self.autocast():
            seconds, _ = self.timed(lambda: self.net.decode_head(self.net.extract_feat(self.normalized)))
        return {"seconds": seconds}

    def logits(self, path):
        self.mode(training=False)
        torch.set_float32_matmul_precision("highest")
        with torch.inference_mode(), self.autocast(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            logits = self.net.decode_head(self.net.extract_feat(self.normalized))
        torch.set_float32_matmul_precision("high")
        np.save(path, logits.permute(0, 2, 3, 1).float().cpu().numpy())
        return {"path": path}

    def train(self):
        self.mode(training=True)

        def step():
            self.optimizer.zero_grad()
            with self.autocast():
                total, log = self.net.parse_losses(self.net.loss(self.normalize(), self.samples))
            total.backward()
            self.optimizer.step()
            return total

        seconds, total = self.timed(step)
        return {"seconds": seconds, "loss": total.item()}

    def evaluate(self, mode, window, stride):
        self.mode(training=False)
        self.net.test_cfg = Config({"mode": mode, "crop_size": tuple(window), "stride": tuple(stride)})

        def predict():
            image = self.normalize()
            h, w = image.shape[2:]
            image = torch.nn.functional.pad(image, (0, -w % self.divisor, 0, -h % self.divisor))
            size = image.shape[2:]
            metas = [{"ori_shape": size, "img_shape": size, "pad_shape": size} for _ in image]
            return self.net.inference(image, metas)[:, :, :h, :w].argmax(1)

        with torch.inference_mode(), self.autocast():
            seconds, _ = self.timed(predict)
        return {"seconds": seconds}

    def memory(self):
        if self.device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        status = pathlib.Path("/proc/self/status").read_text()  # getrusage counts the parent's size too
        return {"peak_bytes": 1024 * int(status.partition("VmHWM:")[2].split()[0])}

    def normalize(self):
        image = self.image.permute(0, 3, 1, 2).float()
        return ((image - self.mean) / self.std).contiguous(memory_format=self.format)

    def mode(self, training):
        self.net.train(training)
        for module in self.net.modules():
            if isinstance(module, NMF2D):
                module.rand_init = training  # at test the bases that the weight file brought

    def autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half)

    def timed(self, function):
        self.wait()
        began = time.perf_counter()
        result = function()
        self.wait()
        return time.perf_counter() - began, result

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def grouped_optimizer(net, name, rules, **settings):
    """mmengine's optimiser, with parameters of equal factors in one group.

    `rules` are (text in a name, factor of the learning rate, factor of the weight decay).
    """
    kind = {"sgd": "SGD", "adamw": "AdamW"}[name]
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": kind, **settings}}
    if rules:
        keys = {text: {"lr_mult": rate, "decay_mult": decay} for text, rate, decay in rules}
        wrapper["paramwise_cfg"] = {"custom_keys": keys}
    optimizer = build_optim_wrapper(net, wrapper).optimizer
    groups = {}
    for group in optimizer.param_groups:
        groups.setdefault((group["lr"], group["weight_decay"]), []).extend(group["params"])
    return type(optimizer)(
        [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()], **settings
    )


def main():
    rival = reader = None
    for line in sys.stdin:
        message = json.loads(line)
        do = message.pop("do")
        if do == "stop":
            return
        try:
            if do == "load":
                rival = None  # its memory, before the next one's
                rival = Rival(**message)
                answer = rival.ready()
            elif do == "open":
                reader = Reader(**message)
                answer = reader.ready()
            elif do == "read" and reader:
                answer = reader.read(**message)
            elif do in ("forward", "logits", "train", "evaluate", "memory") and rival:
                answer = getattr(rival, do)(**message)
            else:
                answer = {"error": f"cannot do {do!r} {'' if rival else 'before load'}"}
        except Exception as error:  # whatever torch raises is one line on the other side
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        ANSWERS.write(json.dumps(answer) + "\n")
        ANSWERS.flush()


if __name__ == "__main__":
    main()
