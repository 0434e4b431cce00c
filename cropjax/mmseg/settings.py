"""Which of mmsegmentation's settings is which of ours, as far as tables can say; `mapping` does the rest.

The defaults are those of the classes of mmsegmentation 1.2, mmengine 0.10 and torch, and need not be ours.
"""

from cropjax.models.mit import REDUCTIONS
from cropjax.models.mscan import MLP_RATIOS, STRIPS

# What mmengine's Runner takes from a config; its other names are the file's own variables.
OF_THE_RUNNER = (
    "model", "data_preprocessor", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg",
    "test_cfg", "auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator", "default_hooks",
    "custom_hooks", "load_from", "resume", "randomness",
)  # fmt: skip

BACKBONES = {"ResNet": "resnet", "ResNetV1c": "resnet", "MixVisionTransformer": "mit", "MSCAN": "mscan"}
NETWORKS = {  # by the head: ours, and its backbone
    "PSPHead": ("pspnet", "resnet"),
    "DepthwiseSeparableASPPHead": ("deeplabv3plus", "resnet"),
    "SegformerHead": ("segformer", "mit"),
    "LightHamHead": ("segnext", "mscan"),
}
DATA_SETS = {"CityscapesDataset": "cityscapes"}
OPTIMIZERS = {"SGD": "sgd", "AdamW": "adamw"}

# Settings that move as they are: {theirs: (their default, or the type of one that has none; ours)}.
HEAD = {
    "model.decode_head.channels": (int, "model.head.channels"),
    "model.decode_head.dropout_ratio": (0.1, "model.head.dropout"),
}
MOVED = {
    "resnet": {
        "model.backbone.depth": (int, "model.backbone.depth"),
        "model.backbone.base_channels": (64, "model.backbone.width"),
        "model.backbone.contract_dilation": (False, "model.backbone.contract_dilation"),
        "model.backbone.frozen_stages": (-1, "train.frozen_stages"),
    },
    "mit": {
        "model.backbone.num_layers": ((3, 4, 6, 3), "model.backbone.depths"),
        "model.backbone.mlp_ratio": (4, "model.backbone.mlp_ratio"),
        "model.backbone.drop_path_rate": (0.0, "model.backbone.drop_path"),
    },
    "mscan": {
        "model.backbone.embed_dims": ((64, 128, 256, 512), "model.backbone.widths"),
        "model.backbone.depths": ((3, 4, 6, 3), "model.backbone.depths"),
        "model.backbone.drop_path_rate": (0.0, "model.backbone.drop_path"),
    },
    "pspnet": HEAD | {"model.decode_head.pool_scales": ((1, 2, 3, 6), "model.head.pool_scales")},
    "deeplabv3plus": HEAD
    | {
        "model.decode_head.dilations": ((1, 6, 12, 18), "model.head.dilations"),
        "model.decode_head.c1_channels": (int, "model.head.skip_channels"),
    },
    "segformer": HEAD,
    "segnext": HEAD
    | {
        "model.decode_head.ham_kwargs.MD_R": (64, "model.head.rank"),
        "model.decode_head.ham_kwargs.train_steps": (6, "model.head.train_steps"),
        "model.decode_head.ham_kwargs.eval_steps": (7, "model.head.eval_steps"),
    },
    "auxiliary": {
        "model.auxiliary_head.channels": (int, "model.auxiliary.channels"),
        "model.auxiliary_head.num_convs": (2, "model.auxiliary.convs"),
        "model.auxiliary_head.dropout_ratio": (0.1, "model.auxiliary.dropout"),
    },
    "SGD": {
        "optim_wrapper.optimizer.lr": (float, "optim.lr"),
        "optim_wrapper.optimizer.momentum": (0.0, "optim.momentum"),
        "optim_wrapper.optimizer.weight_decay": (0.0, "optim.weight_decay"),
    },
    "AdamW": {
        "optim_wrapper.optimizer.lr": (1e-3, "optim.lr"),
        "optim_wrapper.optimizer.betas": ((0.9, 0.999), "optim.betas"),
        "optim_wrapper.optimizer.eps": (1e-8, "optim.eps"),
        "optim_wrapper.optimizer.weight_decay": (1e-2, "optim.weight_decay"),
    },
    "train_cfg": {
        "train_cfg.max_iters": (int, "train.steps"),
        "train_cfg.val_interval": (1000, "eval.every"),
        "val_dataloader.batch_size": (1, "eval.batch_size"),
    },
}

# Settings that have one value here: {theirs: (their default, that value, why)}.
HEADS_ALIKE = "heads have no such part here"
FIXED = {
    "resnet": {
        "num_stages": (4, 4, "the backbone has four stages"),
        "out_indices": ((0, 1, 2, 3), (0, 1, 2, 3), "heads see all four stages"),
        "in_channels": (3, 3, "images are RGB"),
        "style": ("pytorch", "pytorch", "the stride sits on the 3x3 convolution"),
        "avg_down": (False, False, "shortcuts are strided 1x1 convolutions, as in ResNetV1c"),
        "norm_eval": (False, False, "BatchNorm's statistics follow the batches"),
        "multi_grid": (None, None, "the blocks of the last stage have one dilation"),
        "conv_cfg": (None, None, "convolutions are plain"),
        "dcn": (None, None, "there are no deformable convolutions"),
        "plugins": (None, None, "blocks have no plugins"),
        "zero_init_residual": (True, True, "the last norm of each block starts at zero"),
    },
    "mit": {
        "num_stages": (4, 4, "the backbone has four stages"),
        "out_indices": ((0, 1, 2, 3), (0, 1, 2, 3), "heads see all four stages"),
        "in_channels": (3, 3, "images are RGB"),
        "patch_sizes": ((7, 3, 3, 3), (7, 3, 3, 3), "patch embeddings are the paper's"),
        "strides": ((4, 2, 2, 2), (4, 2, 2, 2), "patch embeddings are the paper's"),
        "sr_ratios": ((8, 4, 2, 1), REDUCTIONS, "keys and values are reduced as in the paper"),
        "qkv_bias": (True, True, "projections have a bias"),
        "drop_rate": (0.0, 0.0, "blocks have no dropout"),
        "attn_drop_rate": (0.0, 0.0, "attention has no dropout"),
        "act_cfg.type": ("GELU", "GELU", "the activation is GELU"),
    },
    "mscan": {
        "num_stages": (4, 4, "the backbone has four stages"),
        "in_channels": (3, 3, "images are RGB"),
        "mlp_ratios": ((4, 4, 4, 4), MLP_RATIOS, "feed-forward networks are the paper's"),
        "attention_kernel_sizes": (
            (5, *((1, k) for k in STRIPS)), (5, *((1, k) for k in STRIPS)), "strips are the paper's"
        ),
        "attention_kernel_paddings": (
            (2, *((0, k // 2) for k in STRIPS)), (2, *((0, k // 2) for k in STRIPS)), "convolutions keep the size"
        ),
        "drop_rate": (0.0, 0.0, "blocks have no dropout"),
        "act_cfg.type": ("GELU", "GELU", "the activation is GELU"),
    },
    "head": {
        "out_channels": (None, None, "there is a logit a class"),
        "threshold": (None, None, "there is a logit a class"),
        "conv_cfg": (None, None, "convolutions are plain"),
        "act_cfg.type": ("ReLU", "ReLU", "the activation is ReLU"),
        "act_cfg.inplace": (True, True, "the activation is ReLU"),
        "ignore_index": (255, 255, "255 is what is ignored"),
    },
    "pspnet": {"in_index": (-1, 3, "the head sees the last stage"), "input_transform": (None, None, HEADS_ALIKE)},
    "deeplabv3plus": {
        "in_index": (-1, 3, "the head sees the last stage"),
        "input_transform": (None, None, HEADS_ALIKE),
    },
    "segformer": {
        "in_index": (-1, (0, 1, 2, 3), "the head sees all four stages"),
        "interpolate_mode": ("bilinear", "bilinear", "maps are resized bilinearly"),
    },
    "segnext": {
        "in_index": (-1, (1, 2, 3), "the head sees the last three stages"),
        "ham_kwargs.MD_S": (1, 1, "there is one factorisation an image"),
        "ham_kwargs.rand_init": (True, True, "bases are drawn; in evaluation always the same ones"),
    },
    "auxiliary": {
        "kernel_size": (3, 3, "convolutions are 3x3"),
        "concat_input": (True, False, "the head's input is not joined to its output"),
        "dilation": (1, 1, "convolutions have no dilation"),
        "input_transform": (None, None, HEADS_ALIKE),
    },
    "CrossEntropyLoss": {
        "use_sigmoid": (False, False, "classes exclude each other"),
        "use_mask": (False, False, "classes exclude each other"),
        "reduction": ("mean", "mean", "the loss is a mean"),
    },
    "FocalLoss": {
        "use_sigmoid": (True, True, "each class is a question of its own"),
        "reduction": ("mean", "mean", "the loss is a mean"),
    },
    "DiceLoss": {
        "activate": (True, True, "probabilities are made of logits"),
        "reduction": ("mean", "mean", "the loss is a mean"),
        "naive_dice": (False, False, "lengths are sums of squares"),
        "ignore_index": (255, 255, "255 is what is ignored"),
        "eps": (1e-3, 1e-3, "it is upstream's default"),
    },
    "LovaszLoss": {
        "loss_type": ("multi_class", "multi_class", "classes exclude each other"),
        "classes": ("present", "present", "classes that are absent cost nothing"),
        "per_image": (False, False, "IoU is that of the batch"),
        "reduction": ("mean", "none", "the loss of a batch is one number"),
    },
    "data_preprocessor": {
        "type": ("SegDataPreProcessor", "SegDataPreProcessor", "there is one way to prepare images"),
        "mean": (None, (123.675, 116.28, 103.53), "images are normalised by ImageNet's mean"),
        "std": (None, (58.395, 57.12, 57.375), "images are normalised by ImageNet's deviation"),
        "bgr_to_rgb": (False, True, "networks see RGB"),
        "rgb_to_bgr": (False, False, "networks see RGB"),
        "pad_val": (0, 0, "what is padded is the mean colour"),
        "seg_pad_val": (255, 255, "what is padded is ignored"),
        "size_divisor": (None, None, "crops are padded to data.crop_size"),
        "batch_augments": (None, None, "examples are augmented one by one"),
        "test_cfg.size": (None, None, "images are padded at test to multiples of eval.size_divisor"),
    },
    "SGD": {
        "dampening": (0, 0, "SGD is torch's without dampening"),
        "nesterov": (False, False, "the momentum is not Nesterov's"),
    },
    "AdamW": {"amsgrad": (False, False, "AdamW is torch's without AMSGrad")},
    "optim_wrapper": {
        "accumulative_counts": (1, 1, "a step is a batch; train.accumulate divides it and leaves the result alone"),
        "clip_grad": (None, None, "gradients are not clipped"),
        "constructor": (None, None, "parameters are grouped by optim.rules"),
        "paramwise_cfg.norm_decay_mult": (None, None, "optim.rules go by names, not by kinds of layers"),
        "paramwise_cfg.bias_decay_mult": (None, None, "optim.rules go by names, not by kinds of layers"),
        "paramwise_cfg.bias_lr_mult": (None, None, "optim.rules go by names, not by kinds of layers"),
        "paramwise_cfg.dwconv_decay_mult": (None, None, "optim.rules go by names, not by kinds of layers"),
    },
    "train_cfg": {
        "type": (None, "IterBasedTrainLoop", "training is counted in steps, train.steps"),
        "val_begin": (1, 1, "evaluations begin with the first multiple of eval.every"),
        "dynamic_intervals": (None, None, "eval.every is one number"),
    },
    "val_evaluator": {
        "type": ("IoUMetric", "IoUMetric", "scores are IoU and accuracy"),
        "iou_metrics": (("mIoU",), ("mIoU",), "scores are IoU and accuracy"),
    },
    "LoadImageFromFile": {},
    "LoadAnnotations": {"reduce_zero_label": (None, None, "labels are the data set's own")},
    "RandomResize": {"keep_ratio": (False, True, "images keep their ratio")},
    "RandomCrop": {"ignore_index": (255, 255, "255 is what is ignored")},
    "RandomFlip": {"direction": ("horizontal", "horizontal", "flips are horizontal")},
    "PhotoMetricDistortion": {
        "brightness_delta": (32, 32, "colours are distorted by upstream's defaults"),
        "contrast_range": ((0.5, 1.5), (0.5, 1.5), "colours are distorted by upstream's defaults"),
        "saturation_range": ((0.5, 1.5), (0.5, 1.5), "colours are distorted by upstream's defaults"),
        "hue_delta": (18, 18, "colours are distorted by upstream's defaults"),
    },
    "Resize": {"keep_ratio": (False, True, "images keep their ratio")},
    "LinearLR": {
        "end_factor": (1.0, 1.0, "the warm-up ends at the learning rate"),
        "by_epoch": (True, False, "the schedule is counted in steps"),
        "begin": (0, 0, "the warm-up begins with the first step"),
    },
    "PolyLR": {"by_epoch": (True, False, "the schedule is counted in steps")},
    "": {
        "auto_scale_lr.enable": (False, False, "the learning rate does not follow the batch"),
        "resume": (False, False, "a run whose folder has a checkpoint goes on by itself"),
    },
}  # fmt: skip

# Settings that say how their program runs, or again what others say: names, or what those below them begin with.
LOADERS = ("train_dataloader", "val_dataloader")
OF_NO_MATTER = (
    "model.train_cfg", "model.backbone.init_cfg", "model.decode_head.in_channels", "model.decode_head.c1_in_channels",
    "model.decode_head.ham_kwargs.inv_t", "model.decode_head.init_cfg", "model.auxiliary_head.in_channels",
    "model.auxiliary_head.init_cfg", "optim_wrapper.paramwise_cfg.bypass_duplicate", "val_cfg", "test_cfg",
    "val_evaluator.prefix", "test_evaluator", "auto_scale_lr.base_batch_size", "randomness",
    *(f"{loader}.{name}" for loader in LOADERS for name in (
        "num_workers", "persistent_workers", "sampler", "pin_memory", "drop_last", "prefetch_factor",
        "dataset.data_prefix.seg_map_path", "dataset.pipeline.LoadImageFromFile.backend_args",
        "dataset.pipeline.PackSegInputs",
    )),
    *(f"default_hooks.{name}" for name in (
        "timer", "logger", "param_scheduler", "checkpoint", "sampler_seed", "visualization", "runtime_info",
    )),
)  # fmt: skip

# Files of the names that mmengine's model zoo gives them (`mmengine/hub/openmmlab.json` and `torchvision_0.12.json`).
ZOO = {
    "open-mmlab://resnet18_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet18_v1c-b5776b93.pth",
    "open-mmlab://resnet50_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet50_v1c-2cccc1ad.pth",
    "open-mmlab://resnet101_v1c": "https://download.openmmlab.com/pretrain/third_party/resnet101_v1c-e67eebb6.pth",
    "torchvision://resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "torchvision://resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "torchvision://resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}

# Why what is left has no place here, by what its name begins with.
WHY = {
    "custom_hooks.EMAHook": "the average is an exponential one, of every step",
    "custom_hooks": "there are no hooks",
    "default_hooks": "there are no hooks",
    "train_dataloader.dataset.pipeline": "there is no such transform",
    "val_dataloader.dataset.pipeline": "there is no such transform",
    "test_dataloader": "evaluation is on val_dataloader's images, data.eval_split",
    "param_scheduler": "the learning rate has a warm-up and a polynomial decay, nothing else",
    "model.decode_head.loss_decode": "it is not taken over: see loss.terms",
    "model.auxiliary_head.loss_decode": "it is not taken over: see loss.terms, which both heads have",
    "optim_wrapper.optimizer": "optimisers are SGD and AdamW",
    "": "there is no such setting",
}
