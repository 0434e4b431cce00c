"""Their data sets and pipelines."""

from pathlib import PurePath

from cropjax.mmseg import settings

TRAIN, VAL = (f"{split}_dataloader.dataset.pipeline" for split in ("train", "val"))
IN_ORDER = ("RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion")


def sources(m):
    """Data sets, their places and the batch."""
    for loader, split in (("train_dataloader", "train"), ("val_dataloader", "eval")):
        at = f"{loader}.dataset"
        kind = m.take(f"{at}.type", str)
        if kind not in settings.DATA_SETS:
            why = f"there is no such data set here: data.source stays {m.config.data.source!r}"
            m.leave(f"{at}.type", why)
            continue
        root, images = (m.take(f"{at}.{name}") or "" for name in ("data_root", "data_prefix.img_path"))
        source = settings.DATA_SETS[kind]
        root = "" if PurePath(root) in (PurePath(), PurePath("data", source)) else root
        if split == "train":
            m.put(f"{at}.type", "data.source", source)
            m.put(f"{at}.data_root", "data.root", root)
        elif root != m.config.data.root:
            m.leave(f"{at}.data_root", "one data.root has both splits")
        if images:
            m.put(f"{at}.data_prefix.img_path", f"data.{split}_split", PurePath(images).name)
    name = "train_dataloader.batch_size"
    if m.gpus is None:
        m.leave(name, "it is for one GPU, and no 4xb2 in the file's name says how many: taken is one")
    m.put(name, "train.batch_size", m.take(name, 1) * (m.gpus or 1))


def pipelines(m):
    """What is done to an image in training, and before a test."""
    order = [name for name in m.theirs.look(TRAIN) or () if name in IN_ORDER]
    if order != [name for name in IN_ORDER if name in order]:
        m.leave(TRAIN, f"the order is {', '.join(IN_ORDER)}")
    for pipeline in (TRAIN, VAL):
        for name in ("LoadImageFromFile", "LoadAnnotations"):
            m.has(name, pipeline)
    at = f"{TRAIN}.RandomResize"
    resizes = m.has("RandomResize", TRAIN)
    if resizes:
        m.put(f"{at}.scale", "data.scale", m.pair(f"{at}.scale"))
    m.put(f"{at}.ratio_range", "data.ratio_range", m.pair(f"{at}.ratio_range") if resizes else (1.0, 1.0))
    at = f"{TRAIN}.RandomCrop"
    if m.has("RandomCrop", TRAIN):
        m.put(f"{at}.crop_size", "data.crop_size", m.pair(f"{at}.crop_size"))
        m.put(f"{at}.cat_max_ratio", "data.cat_max_ratio", m.take(f"{at}.cat_max_ratio", 1.0))
    else:
        m.leave(at, f"training is on crops: data.crop_size stays {m.config.data.crop_size}")
    at = f"{TRAIN}.RandomFlip"
    m.put(f"{at}.prob", "data.flip", m.take(f"{at}.prob", 0.0) if m.has("RandomFlip", TRAIN) else 0.0)
    name = "PhotoMetricDistortion"
    m.put(f"{TRAIN}.{name}", "data.photometric", "host" if m.has(name, TRAIN) else "off")
    scale = m.config.data.scale
    if m.has("Resize", VAL):
        m.expect(f"{VAL}.Resize.scale", None, scale, f"images are tested at data.scale, {scale}")
    else:
        m.leave(f"{VAL}.Resize", f"images are tested at data.scale, {scale}, there at their own size")


def preprocessing(m):
    """What is done to a batch."""
    at = "model.data_preprocessor"
    m.fix("data_preprocessor", at)
    crop = m.config.data.crop_size
    m.expect(f"{at}.size", None, crop, f"crops are padded to their size, {crop}")
    name = f"{at}.test_cfg.size_divisor"
    m.put(name, "eval.size_divisor", m.take(name, 1))
