"""Single operations of PyTorch and mmseg in float64: layers, resize, attention, loss, metric, schedule, optimiser.

Each case is one entry of `meta["cases"]`: {"op", "key", "inputs": {name: shape}, "args"}. An input is
rule.draw(f"{key}/{name}", shape). The fixture holds `key` (the output) and, for a case with inputs that
have gradients, `key/grad_NAME`: the gradient of sum(output * rule.draw(f"{key}/cotangent", output.shape)).
"""

import numpy as np
import rule
import torch
from torch.nn import functional


def op_fixtures() -> tuple[dict, dict]:
    arrays, cases = {}, []
    convolutions, norms = (convolution, other_convolutions), (batch_norm, other_norms)
    layers = (pooling, resizing, *convolutions, *norms, gelu, attention, factorization)
    for family in (*layers, cross_entropy, confusion, schedules, optimizers):
        for case, results in family():
            cases.append(case)
            arrays |= results
    return arrays, {"cases": cases, "ignore": rule.IGNORE}


def differentiated(op: str, key: str, inputs: dict, args: dict, function):
    """One case of `function(**inputs)` with the gradient of every input."""
    tensors = {
        name: torch.from_numpy(rule.draw(f"{key}/{name}", shape)).double().requires_grad_()
        for name, shape in inputs.items()
    }
    output = function(**tensors)
    cotangent = torch.from_numpy(rule.draw(f"{key}/cotangent", tuple(output.shape))).double()
    gradients = torch.autograd.grad((output * cotangent).sum(), list(tensors.values()))
    results = {key: output.detach().numpy()}
    results |= {f"{key}/grad_{name}": grad.numpy() for name, grad in zip(tensors, gradients, strict=True)}
    return {"op": op, "key": key, "inputs": inputs, "args": args}, results


def pooling():
    """Adaptive average pooling, with maps smaller than the bins; the stem's max pooling."""
    for height, width in ((13, 17), (8, 6), (4, 5), (1, 3), (1, 1)):
        for bins in (1, 2, 3, 6):
            yield differentiated(
                "adaptive_avg_pool2d",
                f"adaptive_avg_pool2d/{height}x{width}_to{bins}",
                {"x": (1, 2, height, width)},
                {"bins": bins},
                lambda x, bins=bins: functional.adaptive_avg_pool2d(x, bins),
            )
    for height, width in ((9, 8), (2, 1)):
        yield differentiated(
            "max_pool2d",
            f"max_pool2d/{height}x{width}",
            {"x": (1, 2, height, width)},
            {"kernel": 3, "stride": 2, "padding": 1},
            lambda x: functional.max_pool2d(x, 3, 2, 1),
        )


def resizing():
    """Bilinear interpolation up, down, to and from one row or column, both corner conventions."""
    pairs = [((6, 6), (13, 17)), ((7, 9), (14, 18)), ((13, 17), (5, 4)), ((9, 8), (9, 8)), ((5, 4), (9, 3))]
    pairs += [((1, 1), (5, 3)), ((1, 5), (4, 1)), ((5, 4), (1, 1)), ((3, 1), (7, 2)), ((2, 2), (3, 65))]
    for align_corners in (False, True):
        for source, target in pairs:
            name = "{}x{}_to_{}x{}".format(*source, *target)
            yield differentiated(
                "interpolate",
                f"interpolate/{name}_ac{int(align_corners)}",
                {"x": (1, 2, *source)},
                {"size": target, "align_corners": align_corners},
                lambda x, size=target, align=align_corners: functional.interpolate(
                    x, size=size, mode="bilinear", align_corners=align
                ),
            )


def convolution():
    """3x3 convolutions without bias, padding = dilation, in every padding mode of torch.nn.Conv2d."""
    variants = {
        "plain": {"groups": 1, "stride": 1, "dilation": 1},
        "stride2": {"groups": 1, "stride": 2, "dilation": 1},
        "dilated": {"groups": 1, "stride": 1, "dilation": 3},
        "depthwise": {"groups": 2, "stride": 1, "dilation": 1},
        "depthwise_dilated": {"groups": 2, "stride": 1, "dilation": 2},
        # wider than the map, as ASPP's are on a small crop; reflect and circular padding cannot be
        "depthwise_wide": {"groups": 2, "stride": 1, "dilation": 12},
    }
    for mode in ("zeros", "reflect", "replicate", "circular"):
        for name, args in variants.items():
            if name == "depthwise_wide" and mode in ("reflect", "circular"):
                continue
            yield differentiated(
                "conv2d",
                f"conv2d/{name}_{mode}",
                {"x": (1, 2, 7, 6), "weight": (2, 2 // args["groups"], 3, 3)},
                args | {"padding_mode": mode},
                lambda x, weight, args=args, mode=mode: convolve(x, weight, args, mode),
            )


def convolve(x, weight, args: dict, mode: str):
    layer = torch.nn.Conv2d(2, 2, 3, padding=args["dilation"], padding_mode=mode, bias=False, **args).double()
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


def other_convolutions():
    """With bias: depthwise strips as MSCAN has them, one wider than the map; MiT's reductions, which drop the rest."""
    strips = [((1, 7), (0, 3)), ((7, 1), (3, 0)), ((1, 21), (0, 10)), ((21, 1), (10, 0))]
    for kernel, padding in strips:
        yield differentiated(
            "strip_conv2d",
            "strip_conv2d/{}x{}".format(*kernel),
            {"x": (1, 2, 9, 8), "weight": (2, 1, *kernel), "bias": (2,)},
            {"padding": padding},
            lambda x, weight, bias, padding=padding: functional.conv2d(x, weight, bias, padding=padding, groups=2),
        )
    for ratio in (2, 4, 8):
        yield differentiated(
            "reduce_conv2d",
            f"reduce_conv2d/by{ratio}",
            {"x": (1, 2, 9, 19), "weight": (3, 2, ratio, ratio), "bias": (3,)},
            {"ratio": ratio},
            lambda x, weight, bias, ratio=ratio: functional.conv2d(x, weight, bias, stride=ratio),
        )


def batch_norm():
    """Training-mode BatchNorm; `running` holds mean and (unbiased) variance after one call, from 0 and 1."""
    for shape in ((2, 3, 5, 4), (2, 3, 1, 1)):
        running = {}

        def function(x, weight, bias, running=running):
            mean, variance = torch.zeros(3).double(), torch.ones(3).double()
            output = functional.batch_norm(x, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)
            running["value"] = torch.stack([mean, variance]).numpy()
            return output

        key = "batch_norm/{}x{}x{}x{}".format(*shape)
        inputs = {"x": shape, "weight": (3,), "bias": (3,)}
        case, results = differentiated("batch_norm", key, inputs, {"momentum": 0.1, "eps": 1e-5}, function)
        yield case, results | {f"{key}/running": running["value"]}


def other_norms():
    """LayerNorm over the last axis of tokens [B, N, C], with MiT's epsilon and MSCAN's; GroupNorm of maps."""
    for eps in (1e-5, 1e-6):
        yield differentiated(
            "layer_norm",
            f"layer_norm/eps{eps:.0e}",
            {"x": (2, 5, 6), "weight": (6,), "bias": (6,)},
            {"eps": eps},
            lambda x, weight, bias, eps=eps: functional.layer_norm(x, (6,), weight, bias, eps),
        )
    for channels, groups in ((8, 4), (64, 32)):
        yield differentiated(
            "group_norm",
            f"group_norm/{channels}_in_{groups}",
            {"x": (2, channels, 3, 2), "weight": (channels,), "bias": (channels,)},
            {"groups": groups, "eps": 1e-5},
            lambda x, weight, bias, groups=groups: functional.group_norm(x, groups, weight, bias, 1e-5),
        )


def gelu():
    """The exact one, by the error function."""
    yield differentiated("gelu", "gelu/erf", {"x": (2, 100)}, {}, functional.gelu)


def attention():
    """torch.nn.MultiheadAttention of tokens [B, N, C]: queries from `x`, keys and values from the shorter `reduced`.

    `in_proj_weight` [3C, C] holds the weights of queries, keys and values, in this order.
    """
    for heads in (1, 2):
        layer = torch.nn.MultiheadAttention(4, heads, batch_first=True).double()

        def function(x, reduced, in_proj_weight, in_proj_bias, out_proj_weight, out_proj_bias, layer=layer):
            weights = {"in_proj_weight": in_proj_weight, "in_proj_bias": in_proj_bias}
            weights |= {"out_proj.weight": out_proj_weight, "out_proj.bias": out_proj_bias}
            output, _ = torch.func.functional_call(layer, weights, (x, reduced, reduced))
            return output

        inputs = {"x": (2, 7, 4), "reduced": (2, 3, 4), "in_proj_weight": (12, 4), "in_proj_bias": (12,)}
        inputs |= {"out_proj_weight": (4, 4), "out_proj_bias": (4,)}
        yield differentiated("attention", f"attention/{heads}_heads", inputs, {"heads": heads}, function)


def factorization():
    """SegNeXt's matrix decomposition of relu(x), as its head has it; args["bases"] are the arguments of rule.draw.

    Both images start from the same bases; upstream draws new ones at every forward unless `rand_init` is False.
    """
    from mmseg.models.decode_heads.ham_head import NMF2D

    for mode, steps in (("train", 6), ("eval", 7)):
        args = {"steps": steps, "bases": (f"nmf/{mode}.bases", (1, 6, 4))}
        layer = NMF2D({"MD_R": 4, "train_steps": 6, "eval_steps": 7, "rand_init": False})
        layer.register_buffer("bases", torch.from_numpy(rule.draw(*args["bases"])))
        layer.double().train(mode == "train")
        yield differentiated(
            "nmf", f"nmf/{mode}", {"x": (2, 6, 4, 5)}, args, lambda x, layer=layer: layer(functional.relu(x))
        )


def cross_entropy():
    """mmseg's loss on logits resized to the labels, with both averages, and its pixel accuracy in percent (float32).

    args["labels"] are the arguments of rule.draw_labels after the name f"{key}/label".
    """
    from mmseg.models.losses import CrossEntropyLoss, accuracy

    for average in ("all", "valid"):
        for share, ignored in (("none", 0.0), ("some", 0.3), ("every", 1.0)):
            for align_corners in (False, True):
                key = f"cross_entropy/{share}_ignored_over_{average}_ac{int(align_corners)}"
                labels = ((2, 9, 7), 5, ignored)
                label = torch.from_numpy(rule.draw_labels(f"{key}/label", *labels))
                loss = CrossEntropyLoss(avg_non_ignore=average == "valid")
                percent = {}

                def function(logits, label=label, align=align_corners, loss=loss, percent=percent):
                    resized = functional.interpolate(logits, (9, 7), mode="bilinear", align_corners=align)
                    percent["value"] = accuracy(resized, label, ignore_index=rule.IGNORE).item()
                    return loss(resized, label, ignore_index=rule.IGNORE)

                args = {"average": average, "align_corners": align_corners, "labels": labels}
                case, results = differentiated("cross_entropy", key, {"logits": (2, 5, 3, 4)}, args, function)
                yield case, results | {f"{key}/accuracy": np.array(percent["value"])}


def confusion():
    """mmseg's IoUMetric over three images: areas [4, classes] (intersect, union, predicted, labelled),
    per-class IoU and accuracy [2, classes] (NaN = absent), and [aAcc, mIoU, mAcc], all fractions.

    args["labels"] and args["predictions"] are the arguments of rule.draw_labels after the names
    f"{key}/label" and f"{key}/prediction". Fewer classes there than `num_classes` leaves some out.
    """
    from mmseg.evaluation.metrics import IoUMetric

    for name, labelled, predicted, ignored in (
        ("usual", 6, 6, 0.2),
        ("predicted_never_labelled", 4, 5, 0.2),  # class 4 predicted only, class 5 in neither
        ("labelled_never_predicted", 6, 3, 0.2),
        ("one_class", 1, 1, 0.2),
        ("all_ignored", 6, 6, 1.0),
    ):
        key = f"confusion/{name}"
        args = {"num_classes": 6, "labels": ((3, 8, 9), labelled, ignored), "predictions": ((3, 8, 9), predicted, 0.0)}
        labels = torch.from_numpy(rule.draw_labels(f"{key}/label", *args["labels"]))
        predictions = torch.from_numpy(rule.draw_labels(f"{key}/prediction", *args["predictions"]))
        images = [
            torch.stack(IoUMetric.intersect_and_union(prediction, label, 6, rule.IGNORE))
            for prediction, label in zip(predictions, labels, strict=True)
        ]
        areas = sum(images).double()
        found = IoUMetric.total_area_to_metrics(*areas)
        classes = np.stack([found["IoU"], found["Acc"]])
        means = [np.mean(values[~np.isnan(values)]) if np.any(~np.isnan(values)) else np.nan for values in classes]
        results = {key: areas.numpy(), f"{key}/classes": classes}
        results[f"{key}/means"] = np.array([found["aAcc"], *means])
        yield {"op": "confusion", "key": key, "inputs": {}, "args": args}, results


def schedules():
    """mmengine's learning rate as the optimiser sees it: [2, n] = iterations, rates."""
    from mmengine.optim import LinearLR, PolyLR

    poly = {"eta_min": 1e-4, "power": 0.9, "begin": 0, "end": 80000}
    warm_up = {"start_factor": 1e-6, "begin": 0, "end": 1500}
    decay = {"eta_min": 0.0, "power": 1.0, "begin": 1500, "end": 160000}
    for name, base, warm_up_args, poly_args, iterations in (
        ("poly", 0.01, None, poly, [*range(0, 76000, 4444), 79998, 79999]),
        ("warm_up", 6e-5, warm_up, decay, [0, 1, 2, 750, 1498, 1499, 1500, 1501, 80000, 159998, 159999]),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
        schedulers = [LinearLR(optimizer, by_epoch=False, **warm_up_args)] if warm_up_args else []
        schedulers.append(PolyLR(optimizer, by_epoch=False, **poly_args))
        rates = []
        for _ in range(iterations[-1] + 1):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        key = f"schedule/{name}"
        args = {"base": base, "warm_up": warm_up_args, "poly": poly_args}
        results = {key: np.array([iterations, [rates[i] for i in iterations]])}
        yield {"op": "schedule", "key": key, "inputs": {}, "args": args}, results


def optimizers():
    """Six steps, [6, 4, 3] = the parameter after each; the gradient of step t is rule.draw(f"{key}/gradient{t}")."""
    shape = (4, 3)
    for name, kind, args in (
        ("sgd", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}),
        ("adamw", torch.optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    ):
        key = f"optimizer/{name}"
        parameter = torch.from_numpy(rule.draw(f"{key}/parameter", shape)).double().requires_grad_()
        optimizer = kind([parameter], **args)
        after = []
        for step in range(6):
            parameter.grad = torch.from_numpy(rule.draw(f"{key}/gradient{step}", shape)).double()
            optimizer.step()
            after.append(parameter.detach().numpy().copy())
        yield {"op": "optimizer", "key": key, "inputs": {"parameter": shape}, "args": args}, {key: np.stack(after)}
