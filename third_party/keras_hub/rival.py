"""Time KerasHub's SegFormer on JAX, for cropjax.benchmark: a JSON message a line in, a JSON answer a line out.

Needs the environment of requirements.txt, not cropjax. Messages, by "do": load, forward, train, memory, stop; `load`
needs "network", "size", "image", "dtype", "optimizer" and "threads", and may be sent once. Whatever fails is answered
{"error": one line}.

KerasHub's parameters are drawn at random, whatever "weights" names: it has no converter for ours. So logits and
classes are no use to a comparison, and `logits` and `evaluate` are errors. "layout" and "compile" mean nothing here:
maps are channels last, and XLA compiles everything, at the first `forward` and the first `train`, whose seconds
contain it.

The network is the one of mmsegmentation's configs: a head of 256 channels for every size, 19 classes, drop path and the
classifier's dropout of 0.1. KerasHub also drops 0.1 of the attention and of its output, which upstream does not and
which costs time; both are off. A step normalises, takes the loss at full size behind the segmenter's own resizing, and
the accuracy, as ours does. Of "optimizer", AdamW takes "lr", "weight_decay", "betas" and "eps"; "rules" for single
parameters it leaves out. Images are on the device before the clock starts.
"""

import json
import os
import sys
import time

SIZES = {
    "b0": {"hidden_dims": [32, 64, 160, 256], "layerwise_depths": [2, 2, 2, 2]},
    "b1": {"hidden_dims": [64, 128, 320, 512], "layerwise_depths": [2, 2, 2, 2]},
    "b2": {"hidden_dims": [64, 128, 320, 512], "layerwise_depths": [3, 4, 6, 3]},
    "b3": {"hidden_dims": [64, 128, 320, 512], "layerwise_depths": [3, 4, 18, 3]},
    "b4": {"hidden_dims": [64, 128, 320, 512], "layerwise_depths": [3, 8, 27, 3]},
    "b5": {"hidden_dims": [64, 128, 320, 512], "layerwise_depths": [3, 6, 40, 3]},
}
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # parameters stay float32
NUM_CLASSES = 19
IGNORE = 255
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class Refused(Exception):
    """A message that this rival cannot do."""


def segmenter(size: str, image_shape: tuple[int, int, int]):
    """KerasHub's SegFormer for images of one shape: its output is logits at the size of the images."""
    from keras_hub import models

    encoder = models.MiTBackbone(
        **SIZES[size],
        num_layers=4,
        layerwise_num_heads=[1, 2, 5, 8],
        layerwise_sr_ratios=[8, 4, 2, 1],
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        max_drop_path_rate=0.1,
        image_shape=image_shape,
    )
    for layer in encoder.layers:
        if hasattr(layer, "attn"):
            layer.attn.dropout.rate = layer.attn.proj_drop.rate = 0.0
    backbone = models.SegFormerBackbone(image_encoder=encoder, projection_filters=256)
    return models.SegFormerImageSegmenter(backbone=backbone, num_classes=NUM_CLASSES)


class Rival:
    def __init__(self):
        self.model = None

    def load(self, message: dict) -> dict:
        if self.model is not None:
            raise Refused("a network is loaded already, and XLA has its threads: start another process")
        network, size, dtype = message["network"], message["size"], message["dtype"]
        if network != "segformer" or size not in SIZES or dtype not in POLICIES:
            raise Refused(
                f"KerasHub has no {network} {size} in {dtype}: segformer, {', '.join(SIZES)}; float32, bfloat16"
            )
        if message.get("align_corners"):
            raise Refused("KerasHub's SegFormer has no align_corners")
        # Both are read once, by the imports and by the first array.
        os.environ["KERAS_BACKEND"] = "jax"
        os.environ["NPROC"] = str(message["threads"])
        import jax
        import keras
        import keras_hub
        import numpy as np

        with np.load(message["image"]) as file:
            image, label = file["image"], file["label"]
        n, h, w, c = image.shape
        if h != w or h % 32:
            raise Refused(f"KerasHub's SegFormer needs square images with a side that 32 divides, not {h}x{w}")
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(POLICIES[dtype])
        model = segmenter(size, (h, w, c))
        head = keras.Model(model.inputs, model.output_segmentation_head.output)
        optimizer = adamw(message["optimizer"])
        optimizer.build(model.trainable_variables)
        self.image, self.label = jax.device_put((image, label))
        self.normalised = jax.block_until_ready(jax.jit(normalise)(self.image))
        # Trained and other variables, in an order that both models have, and the optimiser's. `train` donates them.
        self.state = tuple(
            [v.value for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        )
        self.forward_program = jax.jit(lambda state, x: head.stateless_call(*state[:2], x, training=False)[0])
        self.train_program = jax.jit(train_step(model, optimizer), donate_argnums=0)
        self.model = model
        device = jax.devices()[0]
        return {
            "ready": True,
            "own_weights": True,
            "parameters": sum(v.size for v in self.state[0]),
            "versions": {
                "keras": keras.__version__,
                "keras_hub": keras_hub.__version__,
                "jax": jax.__version__,
                "numpy": np.__version__,
            },
            "device": "cpu" if device.platform == "cpu" else device.device_kind,
        }

    def forward(self, message: dict) -> dict:
        start = time.perf_counter()
        self.forward_program(self.state, self.normalised).block_until_ready()
        return {"seconds": time.perf_counter() - start}

    def train(self, message: dict) -> dict:
        start = time.perf_counter()
        self.state, loss, accuracy = self.train_program(self.state, self.image, self.label)
        loss, accuracy = float(loss), float(accuracy)
        for variables in self.state:
            for variable in variables:
                variable.block_until_ready()
        return {"seconds": time.perf_counter() - start, "loss": loss}

    def memory(self, message: dict) -> dict:
        import jax

        device = jax.devices()[0]
        if device.platform == "cpu":
            return {"peak_bytes": peak_resident()}
        return {"peak_bytes": device.memory_stats()["peak_bytes_in_use"]}

    def answer(self, message: dict) -> dict:
        do = message.get("do")
        if do in ("logits", "evaluate"):
            raise Refused(f"KerasHub's SegFormer has weights of its own here, so there is no {do!r}")
        if do not in ("load", "forward", "train", "memory"):
            raise Refused(f"there is no {do!r}")
        if do != "load" and self.model is None:
            raise Refused(f"{do!r} before 'load'")
        return getattr(self, do)(message)


def adamw(options: dict):
    import keras

    if options.get("name", "adamw") != "adamw":
        raise Refused(f"the optimiser is adamw, not {options['name']}")
    beta_1, beta_2 = options.get("betas", (0.9, 0.999))
    return keras.optimizers.AdamW(
        learning_rate=options["lr"],
        weight_decay=options["weight_decay"],
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=options.get("eps", 1e-8),
    )


def normalise(image):
    import jax.numpy as jnp

    return (image.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(STD)


def train_step(model, optimizer):
    """One step, (state, image, label) -> (state, loss, accuracy in percent); the loss is divided by all pixels."""
    import jax
    import jax.numpy as jnp
    import keras

    total = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORE, reduction="sum")

    def objective(trained, others, image, label):
        logits, others = model.stateless_call(trained, others, image, training=True)
        logits = logits.astype(jnp.float32)
        return total(label, logits) / label.size, (logits, others)

    def step(state, image, label):
        trained, others, moments = state
        derive = jax.value_and_grad(objective, has_aux=True)
        (loss, (logits, others)), gradients = derive(trained, others, normalise(image), label)
        trained, moments = optimizer.stateless_apply(moments, gradients, trained)
        valid = label != IGNORE
        right = (jnp.argmax(logits, -1) == label) & valid
        return (trained, others, moments), loss, 100 * right.sum() / jnp.maximum(valid.sum(), 1)

    return step


def peak_resident() -> int:
    """Bytes. Linux counts what the parent held when it started this process into ru_maxrss, but not into VmHWM."""
    try:
        with open("/proc/self/status") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except FileNotFoundError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    # Libraries print to 1, which from here on is 2; answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rival = Rival()
    for line in sys.stdin:
        try:
            message = json.loads(line)
            if message.get("do") == "stop":
                return
            answer = rival.answer(message)
        except Refused as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
