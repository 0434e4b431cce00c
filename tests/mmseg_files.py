"""Configs as mmsegmentation has them, in our own words: {name: text}."""

# What upstream's four files of a network say together, told in one: the common part, then a network each.
COMMON = """
crop = (512, 1024)
scale = (2048, 1024)
batch_norm = dict(type="SyncBN", requires_grad=True)
pixels = dict(type="SegDataPreProcessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
              pad_val=0, seg_pad_val=255, size=crop)
ratios = [0.5, 1.0]
tta_pipeline = [[dict(type="Resize", scale_factor=r) for r in ratios]]
train_dataloader = dict(
    batch_size=2, num_workers=2, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CityscapesDataset", data_root="data/cityscapes/",
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
        pipeline=[
            dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
            dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5), dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs"),
        ]))
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type="CityscapesDataset", data_root="data/cityscapes/", data_prefix=dict(img_path="leftImg8bit/val"),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=scale, keep_ratio=True),
                  dict(type="LoadAnnotations"), dict(type="PackSegInputs")]))
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
default_hooks = dict(logger=dict(type="LoggerHook", interval=50), timer=dict(type="IterTimerHook"))
work_dir = f"runs/{crop}"
"""
RESNET = """
model = dict(
    type="EncoderDecoder", data_preprocessor=pixels, pretrained="open-mmlab://resnet50_v1c",
    backbone=dict(type="ResNetV1c", depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=batch_norm,
                  contract_dilation=True, norm_eval=False, style="pytorch"),
    decode_head=dict(%s, in_channels=2048, in_index=3, channels=512, num_classes=19, norm_cfg=batch_norm,
                     loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(type="FCNHead", in_channels=1024, in_index=2, channels=256, num_convs=1, concat_input=False,
                        num_classes=19, norm_cfg=batch_norm,
                        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4)),
    test_cfg=dict(mode="whole"))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80 * 1000, val_interval=8000)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)]
"""
TRANSFORMER = """
weights = "https://nowhere/%s"
model = dict(
    type="EncoderDecoder", data_preprocessor=pixels,
    backbone=dict(%s, init_cfg=dict(type="Pretrained", checkpoint=weights), drop_path_rate=0.1),
    decode_head=dict(%s, num_classes=19),
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768)))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000, val_interval=16000)
optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(pos_block=dict(decay_mult=0.), norm=dict(decay_mult=0.), head=dict(lr_mult=10.))))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=160000, by_epoch=False)]
"""
ASPP = 'type="DepthwiseSeparableASPPHead", dilations=(1, 12, 24, 36), c1_in_channels=256, c1_channels=48'
MIT = 'type="MixVisionTransformer", embed_dims=64, num_heads=[1, 2, 5, 8], num_layers=[3, 4, 18, 3]'
MLP = 'type="SegformerHead", in_index=[0, 1, 2, 3], in_channels=[64, 128, 320, 512], channels=256, norm_cfg=batch_norm'
MSCAN = (
    'type="MSCAN", embed_dims=[32, 64, 160, 256], depths=[3, 3, 5, 2], mlp_ratios=[8, 8, 4, 4], '
    'norm_cfg=dict(type="BN")'
)
HAM = (
    'type="LightHamHead", in_index=[1, 2, 3], in_channels=[64, 160, 256], channels=256, ham_channels=256, '
    'ham_kwargs=dict(MD_R=16), norm_cfg=dict(type="GN", num_groups=32)'
)
LARGE = COMMON.replace("(512, 1024)", "(1024, 1024)").replace("batch_size=2", "batch_size=1")
THEIRS = {
    "psp_4xb2-x": COMMON + RESNET % 'type="PSPHead"',
    "deeplab_4xb2-x": COMMON + RESNET % ASPP,
    "segformer_8xb1-x": LARGE + TRANSFORMER % ("mit_b3_20220624-13b1141c.pth", MIT, MLP),
    "segnext_1xb16-x": COMMON + TRANSFORMER % ("mscan_t_20230227-119e8c9f.pth", MSCAN, HAM),
}
