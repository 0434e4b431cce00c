"""The networks and operations equal mmsegmentation's and torch's.

Weights and inputs are drawn by a rule from name and shape, so the fixtures in tests/reference hold results only;
third_party/mmsegmentation says how they are made. Everything here is float64 unless it says otherwise.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from reference import rule

from cropjax import optim
from cropjax.config import build_model, defaults
from cropjax.convert import load_torch_state, to_upstream, upstream_name
from cropjax.losses import cross_entropy, pixel_accuracy
from cropjax.metrics import Scores, confusion_matrix
from cropjax.models.layers import BatchNorm
from cropjax.ops.conv import conv, depthwise_conv
from cropjax.ops.pool import adaptive_average_pool, max_pool
from cropjax.ops.resize import resize_bilinear
from cropjax.step import merge_model, segmentation_loss, split_model

REFERENCE = Path(__file__).parent / "reference"

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")


def load(name):
    arrays = np.load(REFERENCE / f"{name}.npz")
    meta = json.loads(str(arrays["meta"]))
    np.testing.assert_array_equal(rule.draw(meta["rule"]["name"], (4,)), np.float32(meta["rule"]["values"]))
    return arrays, meta


def nhwc(x):
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------------- networks

CASES = [("pspnet", 0), ("deeplabv3plus", 1), ("pspnet_r18", 1), ("deeplabv3plus_r18", 0)]
CASES += [pytest.param(case, marks=pytest.mark.slow) for case in (("pspnet", 1), ("deeplabv3plus", 0))]


def by_upstream_name(tree):
    """Our tree of parameters or statistics as {upstream's key: array in torch's layout}."""
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        found[upstream_name(path)] = to_upstream(path, np.asarray(leaf))
    return found


def relative(ours, theirs):
    """Largest absolute difference of two summaries over the array's largest absolute value, which comes last."""
    return np.max(np.abs(ours - theirs)[..., :-2] / np.maximum(theirs[..., -1:], 1e-12))


class Case:
    """One fixture, and our network with the same weights."""

    def __init__(self, name, align):
        self.arrays, self.meta = load(name)
        self.part = f"ac{align}"
        model = self.meta["cases"][self.part]["model"]
        head, auxiliary = model["decode_head"], model["auxiliary_head"]
        self.config = defaults(name.removesuffix("_r18"))
        self.config.model.align_corners = bool(align)
        backbone = model["backbone"]
        self.config.model.backbone.update(depth=backbone["depth"], width=backbone["base_channels"])
        self.config.model.head.update(channels=head["channels"], dropout=0.0)
        self.config.model.auxiliary.update(channels=auxiliary["channels"], dropout=0.0)
        if "c1_channels" in head:
            self.config.model.head.skip_channels = head["c1_channels"]
        self.graph, weights = split_model(build_model(self.config))
        names = {**by_upstream_name(weights["params"]), **by_upstream_name(weights["batch_stats"])}
        self.weights = load_torch_state(weights, {key: rule.draw(key, value.shape) for key, value in names.items()})

    def __getitem__(self, key):
        return self.arrays[f"{self.part}/{key}"]

    def image(self, kind):
        return nhwc(rule.draw(*self.meta["inputs"][kind]))

    def summaries(self, tree, names, count):
        found = by_upstream_name(tree)
        assert sorted(found) == sorted(names)
        return np.stack([rule.summary(name, found[name], count) for name in names])


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return Case(*request.param)


def activations(case, weights, image):
    @jax.jit
    def forward(weights, image):
        model = merge_model(case.graph, weights)
        output = model(image)
        auxiliary = model.auxiliary(output.maps, False, None)
        size, align = image.shape[1:3], case.config.model.align_corners
        return [*output.maps, output.logits, auxiliary, resize_bilinear(output.logits, size, align_corners=align)]

    found = zip(case.meta["eval"], forward(weights, image), strict=True)
    return np.stack([rule.summary(name, nchw(value), case.meta["values"]["eval"]) for name, value in found])


def test_activations(case):
    """Stages, logits and auxiliary logits: float32 to 1e-5, float64 to 1e-12."""
    image = case.image("eval")
    assert relative(activations(case, case.weights, image), case["eval"]) < 1e-5
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), case.weights)
    assert relative(activations(case, wide, image.astype(float)), case["eval"]) < 1e-12


def test_training(case):
    """Losses, gradients, running statistics of one step, and the losses and parameters of six."""
    image = case.image("train").astype(float)
    label = jnp.asarray(rule.draw_labels(*case.meta["labels"]))

    @jax.jit
    def step(weights, velocity):
        def loss(params):
            model = merge_model(case.graph, weights | {"params": params})
            total, parts = segmentation_loss(
                model,
                image,
                label,
                key=None,
                align_corners=case.config.model.align_corners,
                average="all",
                auxiliary_weight=0.4,
            )
            return total, (parts, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (total, (parts, stats)), grads = jax.value_and_grad(loss, has_aux=True)(weights["params"])
        updates, velocity = direction.update(grads, velocity, weights["params"])
        params = jax.tree.map(lambda p, u: p - sgd["lr"] * u, weights["params"], updates)
        return {"params": params, "batch_stats": stats}, velocity, (total, parts, grads)

    sgd = case.meta["sgd"]
    direction = optim.sgd(momentum=sgd["momentum"], weight_decay=sgd["weight_decay"])
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), case.weights)
    velocity, totals = direction.init(weights["params"]), []
    for i in range(len(case["steps"])):
        weights, velocity, (total, parts, grads) = step(weights, velocity)
        totals.append(float(total))
        if i == 0:
            ours = [parts["loss_decode"], parts["accuracy"], parts["loss_auxiliary"], total]
            exact = np.array([1e-12, 1e-5, 1e-12, 1e-12])  # upstream finds the accuracy in float32
            assert np.all(np.abs(np.array(ours) - case["loss"]) < exact)
            names, count = case.arrays["names"], case.meta["values"]["grad"]
            assert relative(case.summaries(grads, names, count), case["grad"]) < 1e-9
            names, count = case.arrays["bn_names"], case.meta["values"]["bn_after"]
            assert relative(case.summaries(weights["batch_stats"], names, count), case["bn_after"]) < 1e-12
    np.testing.assert_allclose(totals, case["steps"], rtol=0, atol=1e-12)
    found = by_upstream_name(weights["params"])
    norms = [np.linalg.norm(found[name]) for name in case.arrays["names"]]
    np.testing.assert_allclose(norms, case["params"], rtol=1e-10)


def test_number_of_parameters(case):
    assert sum(leaf.size for leaf in jax.tree.leaves(case.weights["params"])) == case.meta["parameters"]


# -------------------------------------------------------------------------------------------------------- operations

ARRAYS, META = load("ops")


def cases(*ops):
    found = [case for case in META["cases"] if case["op"] in ops]
    assert found
    return pytest.mark.parametrize("case", found, ids=[case["key"] for case in found])


def check_with_gradients(case, function, tolerance=1e-12):
    """`function` of the drawn inputs, in torch's layout, and its gradients under the drawn cotangent."""
    key = case["key"]
    inputs = {name: jnp.asarray(rule.draw(f"{key}/{name}", shape), float) for name, shape in case["inputs"].items()}
    output, pull_back = jax.vjp(lambda inputs: function(**inputs), inputs)
    np.testing.assert_allclose(output, ARRAYS[key], rtol=0, atol=tolerance)
    (grads,) = pull_back(jnp.asarray(rule.draw(f"{key}/cotangent", output.shape), output.dtype))
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, ARRAYS[f"{key}/grad_{name}"], rtol=0, atol=tolerance)


@cases("adaptive_avg_pool2d", "max_pool2d", "interpolate")
def test_pooling_and_resizing(case):
    args = case["args"]
    functions = {
        "adaptive_avg_pool2d": lambda x: adaptive_average_pool(x, args["bins"]),
        "max_pool2d": lambda x: max_pool(x, window=3, stride=2, padding=1),
        "interpolate": lambda x: resize_bilinear(x, args["size"], align_corners=args["align_corners"]),
    }
    check_with_gradients(case, lambda x: functions[case["op"]](nhwc(x)).transpose(0, 3, 1, 2))


@cases("conv2d")
def test_convolution(case):
    groups, stride, dilation, mode = (case["args"][k] for k in ("groups", "stride", "dilation", "padding_mode"))

    def function(x, weight):
        if groups == 1:
            kernel = weight.transpose(2, 3, 1, 0)
            y = conv(nhwc(x), kernel, stride=stride, dilation=dilation, padding=dilation, padding_mode=mode)
        else:
            kernel, padding = weight[:, 0].transpose(1, 2, 0), (dilation, dilation)
            y = depthwise_conv(nhwc(x), kernel, dilation=dilation, padding=padding, padding_mode=mode)
        return y.transpose(0, 3, 1, 2)

    check_with_gradients(case, function)


@cases("batch_norm")
def test_batch_norm(case):
    graph, _ = split_model(BatchNorm(3))
    stats = {"mean": jnp.zeros(3, float), "var": jnp.ones(3, float)}
    running = []

    def function(x, weight, bias):
        norm = merge_model(graph, {"params": {"scale": weight, "bias": bias}, "batch_stats": stats})
        y = norm(nhwc(x), train=True)
        running[:] = [norm.mean[...], norm.var[...]]
        return y.transpose(0, 3, 1, 2)

    check_with_gradients(case, function)
    inputs = {name: jnp.asarray(rule.draw(f"{case['key']}/{name}", s), float) for name, s in case["inputs"].items()}
    function(**inputs)
    np.testing.assert_allclose(np.stack(running), ARRAYS[case["key"] + "/running"], rtol=0, atol=1e-12)


@cases("cross_entropy")
def test_cross_entropy_and_accuracy(case):
    key, args = case["key"], case["args"]
    label = jnp.asarray(rule.draw_labels(f"{key}/label", *args["labels"]))
    accuracies = []

    def function(logits):
        full = resize_bilinear(nhwc(logits), label.shape[1:], align_corners=args["align_corners"])
        accuracies.append(pixel_accuracy(full, label))
        return cross_entropy(full, label, average=args["average"])

    check_with_gradients(case, function)
    logits = jnp.asarray(rule.draw(f"{key}/logits", case["inputs"]["logits"]), float)
    function(logits)
    np.testing.assert_allclose(accuracies[-1], ARRAYS[f"{key}/accuracy"], atol=1e-5)


@cases("confusion")
def test_metrics(case):
    key, args = case["key"], case["args"]
    label = rule.draw_labels(f"{key}/label", *args["labels"])
    predictions = rule.draw_labels(f"{key}/prediction", *args["predictions"])
    scores = Scores.of(sum(confusion_matrix(*pair, 6) for pair in zip(predictions, jnp.asarray(label), strict=True)))
    right, labelled, predicted = np.diag(scores.confusion), scores.confusion.sum(1), scores.confusion.sum(0)
    np.testing.assert_array_equal([right, labelled + predicted - right, predicted, labelled], ARRAYS[key])
    # Upstream divides in float32.
    np.testing.assert_allclose([scores.iou, scores.accuracy], ARRAYS[f"{key}/classes"], rtol=1e-6)
    means = scores.summary
    np.testing.assert_allclose([means["aacc"], means["miou"], means["macc"]], ARRAYS[f"{key}/means"], rtol=1e-6)


@cases("schedule")
def test_schedule(case):
    args = case["args"]
    poly, warm_up = args["poly"], args["warm_up"]
    iterations, rates = ARRAYS[case["key"]]
    ours = optim.poly(
        jnp.asarray(iterations),
        lr=args["base"],
        min_lr=poly["eta_min"],
        power=poly["power"],
        steps=poly["end"],
        warmup_steps=warm_up["end"] if warm_up else 0,
    )
    # Upstream multiplies one rate by a factor a step, and so gathers rounding over the steps.
    np.testing.assert_allclose(ours, rates, rtol=1e-8, atol=1e-14)


@cases("optimizer")
def test_optimizer(case):
    key, args = case["key"], dict(case["args"])
    lr = args.pop("lr")
    if "betas" in args:
        args["beta1"], args["beta2"] = args.pop("betas")
        direction = optim.adamw(**args)
    else:
        direction = optim.sgd(**args)
    parameter = jnp.asarray(rule.draw(f"{key}/parameter", case["inputs"]["parameter"]), float)
    state = direction.init(parameter)
    for step, after in enumerate(ARRAYS[key]):
        grad = jnp.asarray(rule.draw(f"{key}/gradient{step}", parameter.shape), float)
        update, state = direction.update(grad, state, parameter)
        parameter = optax.apply_updates(parameter, -lr * update)
        np.testing.assert_allclose(parameter, after, rtol=0, atol=1e-14)
