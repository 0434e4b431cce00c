"""The operations equal torch's and mmsegmentation's: tests/fixtures.py says how they are compared. All is float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import load, nhwc
from reference import rule

from cropjax import optim
from cropjax.losses.accuracy import pixel_accuracy
from cropjax.losses.cross_entropy import cross_entropy
from cropjax.metrics import Scores, confusion_matrix
from cropjax.models.layers import BatchNorm, GroupNorm, LayerNorm
from cropjax.ops.attention import attention
from cropjax.ops.conv import conv
from cropjax.ops.depthwise import depthwise_conv
from cropjax.ops.gelu import gelu
from cropjax.ops.nmf import nmf
from cropjax.ops.pool import adaptive_average_pool, max_pool
from cropjax.ops.resize import resize_bilinear
from cropjax.step import merge_model, split_model

pytestmark = pytest.mark.usefixtures("x64", "quick_compile")

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


@cases("strip_conv2d")
def test_strip_convolution(case):
    def function(x, weight, bias):
        kernel = weight[:, 0].transpose(1, 2, 0)
        return (depthwise_conv(nhwc(x), kernel, padding=case["args"]["padding"]) + bias).transpose(0, 3, 1, 2)

    check_with_gradients(case, function)


@cases("reduce_conv2d")
def test_reducing_convolution(case):
    def function(x, weight, bias):
        kernel = weight.transpose(2, 3, 1, 0)
        return (conv(nhwc(x), kernel, stride=case["args"]["ratio"]) + bias).transpose(0, 3, 1, 2)

    check_with_gradients(case, function)


@cases("layer_norm")
def test_layer_norm(case):
    check_with_gradients(case, lambda x, weight, bias: _norm(LayerNorm(6, eps=case["args"]["eps"]), weight, bias)(x))


@cases("group_norm")
def test_group_norm(case):
    def function(x, weight, bias):
        norm = _norm(GroupNorm(x.shape[1], **case["args"]), weight, bias)
        return norm(nhwc(x), True).transpose(0, 3, 1, 2)

    check_with_gradients(case, function)


def _norm(norm, scale, bias):
    graph, _ = split_model(norm)
    return merge_model(graph, {"params": {"scale": scale, "bias": bias}, "batch_stats": {}})


@cases("gelu")
def test_gelu(case):
    check_with_gradients(case, gelu)


@cases("attention")
def test_attention(case):
    def function(x, reduced, in_proj_weight, in_proj_bias, out_proj_weight, out_proj_bias):
        weights, biases = jnp.split(in_proj_weight, 3), jnp.split(in_proj_bias, 3)
        projected = [t @ w.T + b for t, w, b in zip((x, reduced, reduced), weights, biases, strict=True)]
        heads = (t.reshape(*t.shape[:2], case["args"]["heads"], -1) for t in projected)
        return attention(*heads).reshape(x.shape) @ out_proj_weight.T + out_proj_bias

    check_with_gradients(case, function)


@cases("nmf")
def test_factorization(case):
    bases = jnp.broadcast_to(rule.draw(*case["args"]["bases"]), (2, 6, 4))

    def function(x):
        n, c, h, w = x.shape
        y = nmf(jax.nn.relu(nhwc(x)).reshape(n, h * w, c), bases, case["args"]["steps"])
        return y.reshape(n, h, w, c).transpose(0, 3, 1, 2)

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
