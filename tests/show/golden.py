"""Parity with tensors that mmsegmentation and torch wrote: `python tests/show/golden.py FOLDER`.

FOLDER holds `.npz` files: {pspnet,deeplabv3plus,segformer,segnext}_tiny, ops, loss, miou, slide, tta, schedule, optim,
preproc.
Prints the largest difference of each group over the tensor's largest value (floor 1e-12) beside its bound; exits with 1
if one is missed.

Six steps of the two convolutional networks, random as they are, are chaotic: beside each loss stands what moving the
input by one part in 1e15 does to our own run. The bound is 1e-9 for every step all the same, so the later steps are
reported as missed.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixtures import by_upstream_name, config_of, nchw, nhwc

from cropjax import optim
from cropjax.config import build_model, defaults
from cropjax.convert import load_torch_state
from cropjax.data import transforms
from cropjax.inference import Inference
from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.cross_entropy import cross_entropy
from cropjax.losses.objective import Objective
from cropjax.metrics import Scores, confusion_matrix
from cropjax.models import segnext
from cropjax.models.layers import BatchNorm
from cropjax.ops.normalize import normalize
from cropjax.ops.pool import adaptive_average_pool, adaptive_bins, max_pool
from cropjax.ops.resize import resize_bilinear
from cropjax.sharding import make_mesh
from cropjax.step import merge_model, segmentation_loss, split_model
from cropjax.windows import Windows, add_windows, window_starts

jax.config.update("jax_enable_x64", True)
FAILED = []


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-12)


def say(what, difference, bound):
    good = difference <= bound
    print(f"{what:58} {difference:9.1e}  bound {bound:.0e}{'' if good else '  MISSED'}", flush=True)
    if not good:
        FAILED.append(what)


EVALUATIONS = {
    "pspnet": (("eval0", True), ("eval_ac0", False)),
    "deeplabv3plus": (("eval0", True), ("eval_ac0", False)),
    "segformer": (("eval0", False), ("eval1", False)),
    "segnext": (("eval0", False), ("eval1", False), ("eval_b2", False)),
}


def network(folder, name):
    z = np.load(folder / f"{name}_tiny.npz")
    model = json.loads(str(z["meta"]))["model"]
    state_dict = {key[3:]: z[key] for key in z.files if key.startswith("sd/")}
    bases = state_dict.get("decode_head.hamburger.ham.bases")
    segnext.draw_bases = lambda key, images, channels, rank: jnp.broadcast_to(bases, (images, channels, rank))
    for part, align in EVALUATIONS[name]:
        _, graph, weights = build(model, align, state_dict)
        image = nhwc(z[f"{part}/input"])

        def forward(weights, image, graph=graph, align=align):
            net = merge_model(graph, weights)
            out = net(image)
            found = {f"feat{i}": feature for i, feature in enumerate(out.maps)} | {"decode_logits": out.logits}
            if net.auxiliary is not None:
                found["aux_logits"] = net.auxiliary(out.maps, False, None)
            return found | {"logits": resize_bilinear(out.logits, image.shape[1:3], align_corners=align)}

        for key, value in jax.jit(forward)(weights, image).items():
            say(f"{name} {part}, align_corners {align}: {key}", relative(nchw(value), z[f"{part}/{key}"]), 1e-4)

    align = EVALUATIONS[name][0][1]
    config, graph, weights = build(model, align, state_dict)
    image, label = nhwc(z["train/input"]), jnp.asarray(z["train/label"])

    def loss(params, stats, image):
        net = merge_model(graph, {"params": params, "batch_stats": stats})
        total, parts = segmentation_loss(
            net, image, label, key=jax.random.key(0), objective=Objective(align), auxiliary_weight=0.4
        )
        return total, (parts, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat)))

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (_, stats)), _ = gradient(weights["params"], weights["batch_stats"], image)
    after = {key: value for key, value in by_upstream_name(stats).items() if f"bn_after/{key}" in z}
    worst = max(relative(value, z[f"bn_after/{key}"]) for key, value in after.items())
    say(f"{name}: {len(after)} BatchNorm statistics after a step, float32", worst, 1e-4)

    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    (total, (parts, _)), grads = gradient(wide["params"], wide["batch_stats"], image.astype(float))
    for key, value in (("total64", total), ("decode.loss_ce64", parts["loss_decode"])):
        say(f"{name}: {key}", relative(value, z[f"train/{key}"].reshape(())), 1e-12)
    ours = by_upstream_name(grads)
    zero = {key for key in ours if np.abs(z[f"grad/{key}"]).max() < 1e-12}  # a bias in front of a norm
    worst = max(relative(value, z[f"grad/{key}"]) for key, value in ours.items() if key not in zero)
    say(f"{name}: {len(ours) - len(zero)} gradients, float64", worst, 1e-6)
    if zero:
        say(f"{name}: {len(zero)} gradients that are 0, absolute", max(np.abs(ours[key]).max() for key in zero), 1e-12)

    def six_steps(image):
        if config.optim.name == "sgd":
            lr, direction = 0.01, optim.sgd(momentum=0.9, weight_decay=5e-4)
        else:
            settings = dict(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, rules=config.optim.rules)
            lr, direction = 1e-3, optim.adamw(**settings)
        params, stats = wide["params"], wide["batch_stats"]
        state, totals = direction.init(params), []
        for _ in range(6):
            (total, (_, stats)), grads = gradient(params, stats, image)
            totals.append(float(total))
            updates, state = direction.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
        return np.array(totals)

    image = np.asarray(image, np.float64)
    ours = six_steps(image)
    noise = np.random.default_rng(0).standard_normal((3, *image.shape))
    moved = np.max([np.abs(six_steps(image * (1 + 1e-15 * n)) - ours) for n in noise], axis=0)
    for i, (difference, scale) in enumerate(zip(np.abs(ours - z["steps/total_loss64"]), moved, strict=True)):
        what = f"{name}: loss of step {i + 1} (1e-15 moves ours by {scale:.0e})"
        say(what, difference, 1e-9)


def build(model, align, state_dict):
    config = config_of(model)
    config.model.align_corners = align
    graph, weights = split_model(build_model(config))
    return config, graph, load_torch_state(weights, state_dict)


def operations(folder):
    z = np.load(folder / "ops.npz")
    pooled, resized = [], []
    for key in z.files:
        source, _, rest = key.partition("_to")
        if key.startswith("pool/x") and rest:
            pooled.append(relative(adaptive_average_pool(nhwc(z[source]), int(rest)), nhwc(z[key])))
        if key.startswith("pool/bins"):
            _, size, bins = key.split("_")
            assert np.array_equal(adaptive_bins(int(size), int(bins)), z[key])
        if key.startswith("interp") and rest:
            size, align = rest.split("_ac")
            size = tuple(map(int, (size.split("x") * 2)[:2]))
            resized.append(relative(resize_bilinear(nhwc(z[source]), size, align_corners=align == "1"), nhwc(z[key])))
    say(f"ops: {len(pooled)} adaptive poolings", max(pooled), 1e-6)
    say(f"ops: {len(resized)} resizes", max(resized), 1e-5)
    say("ops: max pooling", relative(max_pool(nhwc(z["maxpool/x"])), nhwc(z["maxpool/k3s2p1"])), 0)
    x = nhwc(z["bn/x"])
    norm = BatchNorm(x.shape[-1])
    norm.scale.set_value(z["bn/w"]), norm.bias.set_value(z["bn/b"])
    say("ops: BatchNorm, training", relative(norm(x, True), nhwc(z["bn/y_train"])), 1e-6)
    say("ops: BatchNorm, running mean", relative(norm.mean[...], z["bn/running_mean"]), 1e-6)
    say("ops: BatchNorm, running variance", relative(norm.var[...], z["bn/running_var"]), 1e-6)
    say("ops: BatchNorm, evaluation", relative(norm(x, False), nhwc(z["bn/y_eval_after"])), 1e-6)


def loss_and_metrics(folder):
    z = np.load(folder / "loss.npz")
    label = jnp.asarray(z["label"])
    for align in (0, 1):
        logits = resize_bilinear(nhwc(z["logits"]), label.shape[1:], align_corners=bool(align))
        for valid, average in enumerate(("all", "valid")):
            ours, theirs = cross_entropy(logits, label, average=average), z[f"ce_ac{align}_nonignore{valid}"]
            say(f"loss: align_corners {bool(align)}, {average} pixels", relative(ours, theirs.reshape(())), 1e-6)
        say("loss: accuracy", relative(pixel_accuracy(logits, label), z[f"acc_ac{align}"].reshape(())), 1e-6)
    z = np.load(folder / "miou.npz")
    scores = Scores.of(confusion_matrix(jnp.asarray(z["pred"]), jnp.asarray(z["label"]), len(z["class_IoU"])))
    known = ~np.isnan(scores.iou)
    assert np.array_equal(known, ~np.isnan(z["class_IoU"].astype(float)))
    scale = 100 if np.nanmax(z["class_IoU"]) > 1 else 1
    say("metrics: IoU", relative(scale * scores.iou[known], z["class_IoU"][known]), 1e-4)
    known = ~np.isnan(scores.accuracy)
    say("metrics: accuracy", relative(scale * scores.accuracy[known], z["class_Acc"][known]), 1e-4)


def sliding_windows(folder):
    """Upstream's `slide_inference` with the SegFormer above: windows of 97x97, stride 65, four image sizes."""
    z, net = np.load(folder / "slide.npz"), np.load(folder / "segformer_tiny.npz")
    state_dict = {key[3:]: net[key] for key in net.files if key.startswith("sd/")}
    _, graph, weights = build(json.loads(str(net["meta"]))["model"], False, state_dict)

    @jax.jit
    def forward(weights, x):
        return resize_bilinear(merge_model(graph, weights)(x).logits, x.shape[1:3], align_corners=False)

    def slide(x):
        windows = Windows(x.shape[1:3], (97, 97), (65, 65))
        total = jnp.zeros((*x.shape[:3], 19))
        for starts, used in windows.groups(2):
            h, w = windows.window
            logits = jnp.stack([forward(weights, x[:, y : y + h, x1 : x1 + w]) for y, x1 in starts], 1)
            total = jax.jit(add_windows)(total, logits, starts, used, *windows.weights)
        return total / np.outer(*windows.seen)[..., None]

    for key in z.files:
        name, _, what = key.rpartition("/")
        if what == "input":
            say(f"slide: {name}", relative(nchw(slide(nhwc(z[key]))), z[f"{name}/logits"]), 1e-4)
        if what == "windows":
            say(f"slide: {name}, windows", different_windows(z[key], z[f"{name}/count"].shape, 97, 65), 0)
        if grid := re.fullmatch(r"grid/(\d+)x(\d+)_c(\d+)_s(\d+)", key):
            h, w, window, stride = map(int, grid.groups())
            say(f"slide: {key}, windows", different_windows(z[key], (h, w), window, stride), 0)


class Recorded(nnx.Module):
    """A network that gives the logits that were recorded, one view [h,w,k] after the other."""

    def __init__(self, views):
        self.views = views

    def __call__(self, x):
        form = jax.ShapeDtypeStruct((*x.shape[:3], 19), np.float32)
        return SimpleNamespace(logits=jax.pure_callback(lambda _: next(self.views)[None], form, x))


def several_views(folder):
    """Upstream's mean of the softmax over 12 views, every second of which it has mirrored back already."""
    z = np.load(folder / "tta.npz")
    recorded = [view[:, :: -1 if i % 2 else 1] for i, view in enumerate(z["logits"].transpose(0, 2, 3, 1))]
    h, w, _ = recorded[0].shape
    config = defaults("segformer")
    config.eval.tta_scales = (1.0,) * (len(recorded) // 2)
    graph, weights = split_model(Recorded(iter(2 * recorded)))
    inference, image = Inference(graph, config, make_mesh(data=1, space=1)), np.zeros((1, h, w, 3), np.uint8)
    _, probabilities = inference.ids_and_probabilities(weights, image, "whole_tta")
    say("views: mean softmax", relative(nchw(probabilities)[0], z["mean_softmax"]), 1e-6)
    say("views: classes", (np.asarray(inference.ids(weights, image, "whole_tta")) != z["pred"]).sum(), 0)


def different_windows(theirs, size, window, stride):
    """How many windows [count,4] of upstream's (first row, past the last, first column, past the last) are not ours."""
    spans = [[(start, min(start + window, side)) for start in window_starts(side, window, stride)] for side in size]
    ours = {(*rows, *columns) for rows in spans[0] for columns in spans[1]}
    return len(ours ^ set(map(tuple, theirs.tolist())))


def schedules_and_optimizers(folder):
    z = np.load(folder / "schedule.npz")
    for key, args in (
        ("cnn_80k_lr0.01", dict(lr=0.01, min_lr=1e-4, power=0.9)),
        ("former_160k_lr6e-5", dict(lr=6e-5, min_lr=0.0, power=1.0, warmup_steps=1500)),
        ("former_160k_head_lr6e-4", dict(lr=6e-4, min_lr=0.0, power=1.0, warmup_steps=1500)),
    ):
        steps = len(z[key])
        say(f"schedule: {key}", relative(optim.poly(jnp.arange(steps), steps=steps, **args), z[key]), 1e-9)
    z = np.load(folder / "optim.npz")
    for name in ("sgd", "adamw"):
        if all(np.array_equal(z[f"{name}/p{i}"], z[f"{name}/p0"]) for i in range(7)):
            print(f"optim: {name}: p0 ... p6 of the file are one and the same array, the start is lost: not comparable")


def preprocessing(folder):
    z = np.load(folder / "preproc.npz")
    image, label = z["img_bgr"], z["label"]
    for key in z.files:
        if key.startswith(("img_", "label_")) and "x" in key:
            what, _, size = key.partition("_")
            w, h = map(int, size.split("x"))
            source, how = (image, cv2.INTER_LINEAR) if what == "img" else (label, cv2.INTER_NEAREST)
            h, w = z[key].shape[:2]
            say(f"preproc: {key}, grey levels", np.abs(transforms.resize(source, (h, w), how) - z[key]).max(), 0)
    rgb = image[..., ::-1]
    padded, sizes = z["preproc_train_input"], jnp.asarray([image.shape[:2]])
    h, w = padded.shape[-2:]
    canvas = np.zeros((1, h, w, 3), np.uint8)
    canvas[0, : image.shape[0], : image.shape[1]] = rgb[:h, :w]
    say(
        "preproc: normalise and pad",
        relative(normalize(jnp.asarray(canvas), sizes), nhwc(padded.reshape(1, 3, h, w))),
        1e-6,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    where = Path(sys.argv[1])
    for name in EVALUATIONS:
        network(where, name)
    for group in (
        operations,
        loss_and_metrics,
        sliding_windows,
        several_views,
        schedules_and_optimizers,
        preprocessing,
    ):
        group(where)
    sys.exit(f"{len(FAILED)} bounds missed" if FAILED else 0)
