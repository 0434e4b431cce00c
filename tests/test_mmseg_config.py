"""mmsegmentation's configs become ours: what they say, in files of our own writing, and never by running one."""

import re
import runpy
from pathlib import Path

import pytest
from command import command
from mmseg_files import THEIRS

from cropjax.convert import convert_config
from cropjax.errors import UserError
from cropjax.mmseg.mapping import map_config
from cropjax.mmseg.reading import Unread, read_config
from cropjax.mmseg.writing import config_text, report, write_config

CONFIGS = Path(__file__).parents[1] / "configs"

PSPNET = THEIRS["psp_4xb2-x"]


def ours(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()


def mapped(folder, text, child="", name="mine_4xb2-x"):
    """What becomes of a config in `text`, or of the file `child` that has it as `_base_`."""
    path = folder / f"{name}.py"
    path.write_text(f'_base_ = "./base.py"\n{child}' if child else text)
    (folder / "base.py").write_text(text)
    return map_config(read_config(path), path)


def losses(them):
    """A child whose heads have these losses, both alike."""
    return f"l = [{them}]\nmodel = dict(decode_head=dict(loss_decode=l), auxiliary_head=dict(loss_decode=l))"


def left(found):
    return {name: why for name, _, why in found.left}


def mistake(function, *args):
    with pytest.raises(UserError) as error:
        function(*args)
    line = str(error.value)
    assert "\n" not in line
    return line


# ------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize(
    ("theirs", "shipped"),
    [
        ("psp_4xb2-x", "pspnet_512x1024"),
        ("deeplab_4xb2-x", "deeplab_512x1024"),
        ("segformer_8xb1-x", "segformer_b3_1024"),
    ],
)
def test_upstreams_settings_are_the_config_that_we_ship(tmp_path, theirs, shipped):
    found = mapped(tmp_path, THEIRS[theirs], name=theirs)
    assert found.left == []
    assert found.config == ours(shipped)
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert ours(tmp_path / "mine") == ours(shipped)


def test_segnext_is_what_its_head_and_backbone_say(tmp_path):
    found = mapped(tmp_path, THEIRS["segnext_1xb16-x"], name="segnext_1xb16-x")
    expected = ours("segnext_t_512")
    assert found.left == []
    assert found.config.model == expected.model
    assert found.config.optim == expected.optim
    assert found.config.init_from == expected.init_from


def test_a_child_changes_what_it_names_and_a_deleted_dict_starts_anew(tmp_path):
    child = """
model = dict(
    pretrained="torchvision://resnet18", backbone=dict(type="ResNet", depth=18), decode_head=dict(align_corners=True),
    auxiliary_head=dict(align_corners=True), test_cfg=dict(mode="slide", crop_size=(769, 769), stride=(513, 513)),
    data_preprocessor=dict(size={{_base_.crop}}))
optim_wrapper = dict(
    _delete_=True, type="OptimWrapper", optimizer=dict(type="SGD", lr=_base_.model.decode_head.channels))
"""
    c = mapped(tmp_path, PSPNET, child).config
    assert (c.model.backbone.depth, c.model.backbone.deep_stem, c.model.head.channels) == (18, False, 512)
    assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay) == (512.0, 0.0, 0.0)
    assert (c.eval.modes, c.eval.window, c.eval.best) == (("slide",), (769, 769), "slide/miou")
    assert c.model.align_corners
    assert c.init_from == "weights/resnet18-f37072fd.pth"


# ---------------------------------------------------------------------------------------------------------- each field


@pytest.mark.parametrize(
    ("child", "field", "value"),
    [
        ("model = dict(backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)))",
         "model.backbone.output_stride", 16),
        ("model = dict(backbone=dict(contract_dilation=False))", "model.backbone.contract_dilation", False),
        ("model = dict(backbone=dict(base_channels=32, stem_channels=32))", "model.backbone.width", 32),
        ("model = dict(backbone=dict(with_cp=True))", "train.keep", ("inputs",) * 4),
        ("model = dict(decode_head=dict(pool_scales=(1, 2, 4, 8)))", "model.head.pool_scales", (1, 2, 4, 8)),
        ("model = dict(decode_head=dict(dropout_ratio=0))", "model.head.dropout", 0.0),
        ("model = dict(auxiliary_head=dict(in_index=-2, num_convs=2))", "model.auxiliary.index", 2),
        ("model = dict(auxiliary_head=dict(loss_decode=dict(loss_weight=0.2)))", "loss.auxiliary_weight", 0.2),
        ("model = dict(decode_head=dict(loss_decode=dict(loss_weight=2.0)))", "loss.terms.cross_entropy", 2.0),
        ("model = dict(decode_head=dict(loss_decode=dict(loss_weight=2.0)))", "loss.auxiliary_weight", 0.2),
        (losses("dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_weight=3.0)"), "loss.terms.dice", 3.0),
        (losses("dict(type='DiceLoss', use_sigmoid=False)"), "loss.dice.activation", "softmax"),
        (losses("dict(type='LovaszLoss', reduction='none')"), "loss.terms.lovasz", 1.0),
        (losses("dict(type='LovaszLoss', reduction='none')"), "loss.terms.cross_entropy", 0.0),
        (losses("dict(type='FocalLoss', gamma=3, alpha=0.25)"), "loss.focal.gamma", 3.0),
        ("param_scheduler = [dict(type='LinearLR', end=9, by_epoch=False), "
         "dict(type='PolyLR', begin=9, end=80000, by_epoch=False)]", "optim.warmup_factor", 1 / 3),
        ("model = dict(backbone=dict(frozen_stages=1))", "train.frozen_stages", 1),
        ("custom_hooks = [dict(type='EMAHook')]", "train.ema", 0.0002),
        ("custom_hooks = [dict(type='EMAHook', momentum=0.01, priority=49)]", "train.ema", 0.01),
        ("ohem = dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7))\nmodel = dict(decode_head=ohem, "
         "auxiliary_head=ohem)", "loss.ohem.threshold", 0.7),
        ("ohem = dict(sampler=dict(type='OHEMPixelSampler', min_kept=9))\nmodel = dict(decode_head=ohem, "
         "auxiliary_head=ohem)", "loss.ohem.min_kept", 9),
        ("model = dict(auxiliary_head=None)", "loss.auxiliary_weight", 0.0),
        ("ce = dict(loss_decode=dict(avg_non_ignore=True))\nmodel = dict(decode_head=ce, auxiliary_head=ce)",
         "loss.average", "valid"),
        ("n = dict(type='BN')\nmodel = dict(backbone=dict(norm_cfg=n), decode_head=dict(norm_cfg=n), "
         "auxiliary_head=dict(norm_cfg=n))", "model.norm.groups", 4),
        ("n = dict(type='SyncBN', momentum=0.01, eps=1e-3)\nmodel = dict(backbone=dict(norm_cfg=n), "
         "decode_head=dict(norm_cfg=n), auxiliary_head=dict(norm_cfg=n))", "model.norm.momentum", 0.99),
        ("train_dataloader = dict(batch_size=3)", "train.batch_size", 12),
        ("train_dataloader = dict(dataset=dict(data_root='/data/cs'))\n"
         "val_dataloader = dict(dataset=dict(data_root='/data/cs'))", "data.root", "/data/cs"),
        ("val_dataloader = dict(dataset=dict(data_prefix=dict(img_path='leftImg8bit/test')))",
         "data.eval_split", "test"),
        ("train_cfg = dict(max_iters=40000)\nparam_scheduler = [dict(type='PolyLR', end=40000, by_epoch=False)]",
         "train.steps", 40_000),
        ("param_scheduler = []", "optim.power", 0.0),
        ("load_from = 'whole.pth'", "init_parts", ("backbone", "head", "auxiliary")),
        ("load_from = 'whole.pth'", "init_from", "whole.pth"),
        ("optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')", "train.dtype", "bfloat16"),
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.stem': dict(lr_mult=0.1)}))",
         "optim.rules", (("backbone.stem", 0.1, 1.0),)),
        ("model = dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32)))", "eval.size_divisor", 32),
        ("default_hooks = dict(checkpoint=dict(interval=8000, save_best='mAcc'))", "eval.best", "whole/macc"),
        ("default_hooks = dict(checkpoint=dict(interval=8000))", "train.checkpoint_every", 1000),
        ("default_hooks = dict(checkpoint=dict(interval=500))", "train.checkpoint_every", 500),
        ("model = dict(test_cfg=dict(crop_size=(9, 9), stride=(3, 3)))", "eval.window", (769, 769)),
        ("randomness = dict(seed=7)", "seed", 7),
        ("randomness = dict(seed=None)", "seed", 0),
        ("default_hooks = dict(checkpoint=dict(interval=8000, save_best=['mAcc']))", "eval.best", "whole/macc"),
        ("train_dataloader = dict(dataset=dict(data_root=None, data_prefix=dict(img_path=None)))", "data.root", ""),
        ("default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))", "train.checkpoint_every", 1000),
    ],
)  # fmt: skip
def test_a_setting_becomes_a_field(tmp_path, child, field, value):
    found = mapped(tmp_path, PSPNET, child)
    got = found.config
    for name in field.split("."):
        got = got[name]
    assert got == value
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert ours(tmp_path / "mine") == found.config


@pytest.mark.parametrize(
    ("transform", "field", "value"),
    [
        ('dict(type="RandomFlip", prob=0.5), ', "flip", 0.0),
        (' dict(type="PhotoMetricDistortion"),', "photometric", "off"),
        (", cat_max_ratio=0.75", "cat_max_ratio", 1.0),
        ('dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),', "ratio_range", (1.0, 1.0)),
    ],
)
def test_a_transform_that_is_absent_is_switched_off(tmp_path, transform, field, value):
    assert transform in PSPNET
    assert mapped(tmp_path, PSPNET.replace(transform, "")).config.data[field] == value


def test_class_weights_are_numbers(tmp_path):
    child = f"w = dict(loss_decode=dict(class_weight={[0.5] * 19}))\nmodel = dict(decode_head=w, auxiliary_head=w)"
    found = mapped(tmp_path, PSPNET, child)
    assert found.config.loss.class_weights == (0.5,) * 19
    assert found.left == []
    assert "model.decode_head.loss_decode.CrossEntropyLoss.class_weight" in left(
        mapped(tmp_path, PSPNET, "model = dict(decode_head=dict(loss_decode=dict(class_weight='file.npy')))")
    )


def test_another_optimiser_brings_its_fields(tmp_path):
    child = """
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0005, weight_decay=0.05))
"""
    found = mapped(tmp_path, PSPNET, child)
    assert found.config.optim.name == "adamw"
    assert found.config.optim.betas == (0.9, 0.999)
    assert "momentum" not in found.config.optim
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert ours(tmp_path / "mine") == found.config


# ------------------------------------------------------------------------------------------------- what is not mapped


@pytest.mark.parametrize(
    ("child", "name"),
    [
        ("model = dict(backbone=dict(multi_grid=(1, 2, 4)))", "model.backbone.multi_grid"),
        ("model = dict(backbone=dict(dilations=(1, 1, 1, 1)))", "model.backbone.dilations"),
        ("model = dict(decode_head=dict(num_classes=150))", "model.decode_head.num_classes"),
        ("model = dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler')))", "model.auxiliary_head.sampler"),
        ("model = dict(decode_head=dict(sampler=dict(type='MySampler')))", "model.decode_head.sampler"),
        ("model = dict(decode_head=dict(loss_decode=[dict(type='CrossEntropyLoss'), dict(type='DiceLoss')]))",
         "model.auxiliary_head.loss_decode.DiceLoss.loss_weight"),
        (f"model = dict(decode_head=dict(loss_decode=dict(class_weight={[2.0] * 19})))",
         "model.auxiliary_head.loss_decode.CrossEntropyLoss.class_weight"),
        ("train_dataloader = dict(dataset=dict(type='ADE20KDataset', data_root='/ade'))",
         "train_dataloader.dataset.data_root"),
        ("train_dataloader = dict(dataset=dict(type='A', data_prefix=dict(img_path='x/training')))",
         "train_dataloader.dataset.data_prefix.img_path"),
        ("model = dict(backbone=dict(init_cfg=[dict(type='Pretrained', checkpoint='w.pth')]))",
         "model.backbone.init_cfg"),
        (losses("dict(type='CrossEntropyLoss', avg_non_ignore=True), dict(type='FocalLoss')"),
         "model.decode_head.loss_decode.FocalLoss"),
        ("val_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile')]))",
         "val_dataloader.dataset.pipeline.Resize"),
        ("default_hooks = dict(checkpoint=dict(interval=1, by_epoch=True))", "default_hooks.checkpoint.by_epoch"),
        (losses("dict(type='LovaszLoss', per_image=True)"), "model.decode_head.loss_decode.LovaszLoss.per_image"),
        (losses("dict(type='FocalLoss', alpha=(0.5, 0.5))"), "model.decode_head.loss_decode.FocalLoss.alpha"),
        (losses("dict(type='TverskyLoss')"), "model.decode_head.loss_decode.TverskyLoss"),
        (losses("dict(type='CrossEntropyLoss'), dict(type='FocalLoss', class_weight=(1.0,))"),
         "model.decode_head.loss_decode.FocalLoss.class_weight"),
        ("model = dict(decode_head=dict(norm_cfg=dict(type='BN')))", "model.decode_head.norm_cfg"),
        ("model = dict(decode_head=dict(norm_cfg=dict(type='GN')))", "model.decode_head.norm_cfg"),
        ("model = dict(backbone=dict(norm_cfg=dict(requires_grad=False)))", "model.backbone.norm_cfg.requires_grad"),
        ("model = dict(auxiliary_head=dict(align_corners=True))", "model.auxiliary_head.align_corners"),
        ("model = dict(auxiliary_head=[dict(type='FCNHead'), dict(type='FCNHead')])", "model.auxiliary_head"),
        ("model = dict(data_preprocessor=dict(mean=[0, 0, 0]))", "model.data_preprocessor.mean"),
        ("model = dict(test_cfg=dict(temperature=2))", "model.test_cfg.temperature"),
        ("optim_wrapper = dict(clip_grad=dict(max_norm=1))", "optim_wrapper.clip_grad"),
        ("optim_wrapper = dict(accumulative_counts=4)", "optim_wrapper.accumulative_counts"),
        ("optim_wrapper = dict(type='AmpOptimWrapper')", "optim_wrapper.type"),
        ("optim_wrapper = dict(optimizer=dict(nesterov=True))", "optim_wrapper.optimizer.nesterov"),
        ("optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.))", "optim_wrapper.paramwise_cfg.norm_decay_mult"),
        ("param_scheduler = [dict(type='MultiStepLR', milestones=[1])]", "param_scheduler.MultiStepLR"),
        ("train_cfg = dict(max_iters=100)", "param_scheduler.PolyLR.end"),
        ("custom_hooks = [dict(type='EMAHook', interval=2)]", "custom_hooks.EMAHook.interval"),
        ("default_hooks = dict(mine=dict(type='MyHook'))", "default_hooks.mine"),
        ("test_dataloader = dict(dataset=dict(data_root='dark'))", "test_dataloader.dataset"),
        ("train_dataloader = dict(dataset=dict(type='ADE20KDataset'))", "train_dataloader.dataset.type"),
        ("custom_hooks = [dict(type='A'), dict(type='A')]", "custom_hooks.A#2"),
        ("resume = True", "resume"),
        ("auto_scale_lr = dict(enable=True)", "auto_scale_lr.enable"),
        ("train_dataloader = dict(dataset=dict(indices=range(3)))", "train_dataloader.dataset.indices"),
    ],
)  # fmt: skip
def test_what_has_no_place_here_is_named(tmp_path, child, name):
    found = mapped(tmp_path, PSPNET, child)
    assert name in left(found)
    lines = "\n".join(report(found))
    assert name in lines.split("Not mapped:")[1]
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert name in runpy.run_path(str(tmp_path / "mine.py"))["__doc__"]


@pytest.mark.parametrize(
    ("child", "line"),
    [
        ("optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone.stem': dict(lr_mult=0.1, foo=2)}))",
         "custom_keys.backbone.stem = {'lr_mult': 0.1, 'foo': 2}: optim.rules know"),
        ("custom_hooks = [dict(type='mmpretrain.MyHook', x=1)]",
         "custom_hooks.mmpretrain.MyHook = {'type': 'mmpretrain.MyHook', 'x': 1}: there are no hooks"),
    ],
)  # fmt: skip
def test_what_is_left_is_shown_though_its_name_has_dots(tmp_path, child, line):
    assert line in "\n".join(report(mapped(tmp_path, PSPNET, child)))


def test_the_pages_example_is_what_is_printed_and_written(tmp_path):
    child = """
model = dict(
    pretrained="open-mmlab://resnet101_v1c",
    backbone=dict(depth=101, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), multi_grid=(1, 2, 4)),
    decode_head=dict(dilations=(1, 6, 12, 18), sampler=dict(type="OHEMPixelSampler", min_kept=100000)))
"""
    found = mapped(tmp_path, THEIRS["deeplab_4xb2-x"], child)
    page = (CONFIGS.parent / "docs/mmsegmentation.md").read_text()
    (printed,), (block,) = (re.findall(f"```{kind}\n(.*?)```", page, re.DOTALL)[:1] for kind in ("text", "python"))
    lines = list(report(found))
    for line in printed.splitlines():
        if line.startswith("  ") and line != "  ...":
            assert line in lines
    (tmp_path / "page.py").write_text(block)
    assert ours(tmp_path / "page") == found.config
    said = runpy.run_path(str(tmp_path / "page.py"))["__doc__"]
    assert re.search("Not mapped:.*Mapped:", said, re.DOTALL)[0] in config_text(found, Path("x.py"), Path("mine.py"))


def test_transforms_in_another_order_are_named(tmp_path):
    crop = "dict(type='RandomCrop', crop_size=(512, 1024)), dict(type='RandomResize', scale=(4, 2), ratio_range=(1, 2))"
    child = f"train_dataloader = dict(dataset=dict(pipeline=[{crop}, dict(type='Rot90')]))"
    found = left(mapped(tmp_path, PSPNET, child))
    assert "the order is RandomResize, RandomCrop" in found["train_dataloader.dataset.pipeline"]
    assert "train_dataloader.dataset.pipeline.Rot90" in found
    assert "train_dataloader.dataset.pipeline.RandomResize.keep_ratio" in found


def test_a_name_without_the_number_of_gpus_is_said(tmp_path):
    found = mapped(tmp_path, PSPNET, name="mine")
    assert found.config.train.batch_size == 2
    assert "taken is one" in left(found)["train_dataloader.batch_size"]


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("child", "wanted"),
    [
        ("model = dict(decode_head=dict(type='ASPPHead'))", ["model.decode_head.type = 'ASPPHead'", "PSPHead"]),
        (
            "model = dict(backbone=dict(type='MobileNetV2'))",
            ["model.backbone.type", "ResNet or ResNetV1c with PSPHead"],
        ),
        ("model = dict(type='CascadeEncoderDecoder')", ["model.type", "EncoderDecoder"]),
        ("model = dict(neck=dict(type='FPN'))", ["model.neck"]),
        ("model = dict(backbone=dict(depth=34))", ["model.backbone.depth = 34", "18, 50, 101"]),
        ("model = dict(backbone=dict(depth='50'))", ["model.backbone.depth = '50'"]),
        ("model = dict(backbone=dict(depth=int('50')))", ["mine_4xb2-x.py:2", "int('50')", "no literal", "dump"]),
        ("model = dict(backbone=3)", ["no model.backbone.type"]),
        ("train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=9)", ["no train_cfg.max_iters"]),
        ("model = dict(test_cfg=dict(mode='slide', crop_size='x', stride=1))", ["model.test_cfg.crop_size", "two"]),
        ("model = dict(backbone=dict(norm_cfg=dict(momentum='x')))", ["model.backbone.norm_cfg.momentum = 'x'"]),
        ("model = 3", ["model.type"]),
        ("train_dataloader = dict(batch_size=0)", []),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, child, wanted):
    def convert():
        found = mapped(tmp_path, PSPNET, child)
        write_config(found, tmp_path / "mine_4xb2-x.py", tmp_path / "out.py")

    line = mistake(convert)
    for text in ["mine_4xb2-x.py", *wanted]:
        assert text in line
    assert not list(tmp_path.glob("out*"))


def test_a_config_of_the_version_before_is_named_as_that(tmp_path):
    assert "0.x" in mistake(mapped, tmp_path, "model = dict()\ndata = dict(samples_per_gpu=2)")


def test_a_missing_base_is_named_with_the_mend(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("_base_ = ['../_base_/models/net.py']")
    line = mistake(read_config, path)
    assert str(tmp_path / "../_base_/models/net.py") in line
    assert str(path) in line
    assert "copy their folder _base_" in line
    assert "cannot be read" in mistake(read_config, tmp_path / "none.py")


def test_a_file_among_its_own_bases_is_a_mistake(tmp_path):
    (tmp_path / "a.py").write_text("_base_ = 'b.py'")
    (tmp_path / "b.py").write_text("_base_ = 'a.py'")
    assert "among its own _base_" in mistake(read_config, tmp_path / "a.py")


def test_two_bases_must_not_bind_one_name(tmp_path):
    (tmp_path / "a.py").write_text("_base_ = ['b.py', 'c.py']")
    for name in "bc":
        (tmp_path / f"{name}.py").write_text("x = 1")
    assert "bind 'x'" in mistake(read_config, tmp_path / "a.py")


def test_a_dict_over_what_is_none_needs_delete(tmp_path):
    (tmp_path / "b.py").write_text("x = None")
    (tmp_path / "a.py").write_text("_base_ = 'b.py'\nx = dict(y=1)")
    assert "_delete_=True" in mistake(read_config, tmp_path / "a.py")


# ------------------------------------------------------------------------------------------------------ nothing is run

TOUCH = "__import__('os').system('touch %s')"
VALUES = {  # which may be anywhere; they are read as text
    "call": TOUCH,
    "lambda": f"(lambda: {TOUCH})()",
    "f-string": 'f"{' + TOUCH + '}"',
    "comprehension": f"[{TOUCH} for _ in [1]]",
    "attribute": "().__class__.__bases__[0].__subclasses__()",
    "power": "10 ** 10 ** 10",
    "infinite": "1e18 / 1e-320",
    "long string": "'x' * 10 ** 10",
    "hexadecimal": "0x" + "f" * 100_000,
    "argument": f"dict(a=1, *[{TOUCH}])",
}
FILES = {
    "statement": TOUCH,
    "import": "import os\nx = 1",
    "read_base": "with read_base():\n    from .x import *",
    "function": f"def f():\n    {TOUCH}",
    "decorator": f"@{TOUCH}\nclass A: pass",
    "default": f"x: {TOUCH} = 1",
    "target": f"x[{TOUCH}] = 1",
    "update": "model = dict()\nmodel.update(type='EncoderDecoder')",
    "base": f"_base_ = {TOUCH}",
    "base with a null byte": "_base_ = 'a\\0b'",
    "base that is no text": "_base_ = '\\ud800'",
    "parentheses": "x = " + "(" * 100_000,
    "lists": "x = " + "[" * 90 + "]" * 90,
    "dicts": "a = dict()\n" + "a = dict(a=a)\n" * 2000,
    "signs": "x = " + "-" * 200_000 + "1",
    "attributes": "x = a" + ".a" * 100_000,
    "sums": "x = 1" + "+1" * 100_000,
    "huge number": "x = " + "9" * 5000,
    "laughs": "a = [1, 1, 1, 1]\n" + "a = [a, a, a, a, a, a, a, a, a, a]\n" * 30,
    "10 MB": "x = '" + "a" * 10_000_000 + "'",
    "null": "x = 1\0",
    "device": "_base_ = '/dev/zero'",
    "long name": "_base_ = '" + "a" * 5000 + "'",
}


@pytest.fixture
def watched(tmp_path):
    """The path of a file that no text may bring about."""
    canary = tmp_path / "canary"
    yield canary
    assert not canary.exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_one_line(tmp_path, watched, kind):
    text = FILES[kind]
    (tmp_path / "theirs.py").write_text(text % watched if "%s" in text else text)
    line = mistake(read_config, tmp_path / "theirs.py")
    assert len(line) < 500 + len(str(tmp_path)) * 3 or kind == "long name"


@pytest.mark.parametrize("kind", VALUES)
def test_a_hostile_value_is_text_and_a_mistake_where_it_is_needed(tmp_path, watched, kind):
    value = VALUES[kind].replace("%s", str(watched))
    found = mapped(tmp_path, PSPNET, f"unused = {value}\ncustom_hooks = {value}")
    assert isinstance(read_config(tmp_path / "mine_4xb2-x.py")["unused"], Unread)
    assert "custom_hooks" in left(found)
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert ours(tmp_path / "mine") == found.config
    line = mistake(mapped, tmp_path, PSPNET, f"model = dict(backbone=dict(depth={value}))")
    assert "model.backbone.depth cannot be read" in line


@pytest.mark.parametrize(
    "text",
    [
        '"""\nimport os; os.system("touch %s")\n"""',
        "\\",
        "\n    import os",
        "\x1b[31m",
        '\'"""\'',
        "\\N{x}",
        '"',
        "\ud800",
    ],
    ids=repr,
)
def test_text_of_theirs_stays_text_in_ours(tmp_path, watched, text):
    text = text.replace("%s", str(watched))
    child = f"custom_hooks = [dict(type={text!r})]\nload_from = {text!r}\nmodel = dict(backbone={{{text!r}: {text!r}}})"
    found = mapped(tmp_path, PSPNET, child)
    write_config(found, tmp_path / "theirs.py", tmp_path / "mine.py")
    assert ours(tmp_path / "mine") == found.config
    assert found.config.init_from == text
    assert all(line.isprintable() for line in report(found))


def test_arithmetic_is_on_small_numbers(tmp_path):
    (tmp_path / "a.py").write_text("a = 3 * 4 - 1\nb = -a / 2\nc = a // 0\nd = 1 << 3\n" + "a = a * a\n" * 10)
    found = read_config(tmp_path / "a.py")
    assert found["b"] == -5.5
    assert isinstance(found["a"], Unread)
    assert isinstance(found["c"], Unread)
    assert isinstance(found["d"], Unread)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command(tmp_path):
    theirs, out = tmp_path / "pspnet_4xb2-x.py", tmp_path / "mine.py"
    theirs.write_text(PSPNET + "custom_hooks = [dict(type='MyHook')]")
    result = command("cropjax.convert", "--mmseg_config", theirs, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "  train_dataloader.batch_size = 2 -> train.batch_size = 8\n" in result.stdout
    assert "  custom_hooks.MyHook = {'type': 'MyHook'}: there are no hooks\n" in result.stdout
    assert ours(tmp_path / "mine") == ours("pspnet_512x1024")
    for more, wanted in (
        (["--out", out], "exists already"),
        (["--out", tmp_path / "mine.txt"], "ends in .py"),
        ([], "--out is missing"),
        (["--out", tmp_path / "b.py", "--weights", "w.pth"], "leave out --weights"),
        (["--out", tmp_path / "b.py", "--config", "configs/demo.py"], "flags of its own"),
    ):
        result = command("cropjax.convert", f"--mmseg_config={theirs}", *more)
        assert (result.returncode, result.stdout) == (2, "")
        (line,) = result.stderr.splitlines()
        assert wanted in line
    assert sorted(tmp_path.iterdir()) == [out, theirs]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    theirs = tmp_path / "pspnet_4xb2-x.py"
    theirs.write_text(PSPNET)
    monkeypatch.setattr("os.replace", full)
    assert "No space left" in mistake(convert_config, theirs, tmp_path / "mine.py")
    assert list(tmp_path.iterdir()) == [theirs]
