"""A config of mmsegmentation, as it was read, to one of ours.

Whatever is neither in a table of `settings` nor taken here by its name comes out as left: nothing is passed over in
silence.
"""

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from ml_collections import ConfigDict

from cropjax.config import OPTIMIZERS, defaults, label_set
from cropjax.errors import UserError
from cropjax.mmseg import settings
from cropjax.mmseg.reading import Unread
from cropjax.mmseg.theirs import ABSENT, Theirs, shown
from cropjax.models.mit import HEADS
from cropjax.models.repeat import INPUTS
from cropjax.models.resnet import STAGES, STRIDES

TRAIN, VAL, TEST = (f"{split}_dataloader.dataset.pipeline" for split in ("train", "val", "test"))
LOSSES = ("model.decode_head.loss_decode", "model.auxiliary_head.loss_decode")
IN_ORDER = ("RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion")
SCORES = {"mIoU": "miou", "auto": "miou", "mAcc": "macc", "aAcc": "aacc"}


@dataclass
class Mapped:
    """Our `config`, and what became of each of their settings."""

    config: ConfigDict
    moved: list = field(default_factory=list)  # (their name, value or ABSENT, our name, value)
    same: list = field(default_factory=list)  # names of what has no field here, because it is always so
    idle: list = field(default_factory=list)  # names of what means nothing here
    left: list = field(default_factory=list)  # (their name, value or ABSENT, why)
    weights: str = ""  # where the file of init_from is to be had


def map_config(values, path):
    """The `Mapped` of what `read_config` has read from `path`, whose name says how many GPUs there are, "4xb2".

    Raises:
        UserError: a network that is none of ours, a setting that is needed and absent, no literal, or of a kind that
            it cannot be, or a config of mmsegmentation 0.x.
    """
    if "train_dataloader" not in values and "data" in values:
        raise UserError(
            f"{path} is a config of mmsegmentation 0.x: bring it to 1.x first, by upstream's migration guide"
        )
    values = {name: value for name, value in values.items() if name in settings.OF_THE_RUNNER}
    if isinstance(values.get("model"), dict) and "data_preprocessor" in values:
        values["model"] = {"data_preprocessor": values["data_preprocessor"]} | values["model"]
    values.pop("data_preprocessor", None)
    theirs = Theirs(values, path, (TRAIN, VAL, TEST, "param_scheduler", "custom_hooks", *LOSSES))
    network, backbone = _network(theirs)
    mapping = _Mapping(theirs, defaults(network))
    mapping.backbone(backbone)
    mapping.head(network)
    mapping.auxiliary()
    mapping.norms(network)
    mapping.weights()
    mapping.data()
    mapping.pipelines()
    mapping.preprocessing()
    mapping.optimizer()
    mapping.schedule()
    mapping.evaluation()
    mapping.hooks()
    mapping.rest()
    return mapping.out


def _network(theirs):
    """Our names of the network and of its backbone."""

    def refused(name, can_be):
        return UserError(
            f"{theirs.path}: {name} = {shown(theirs.look(name))}: there is no such network here, it can be {can_be}"
        )

    if theirs.take("model.type", str) != "EncoderDecoder":
        raise refused("model.type", "EncoderDecoder")
    head, backbone = theirs.take("model.decode_head.type", str), theirs.take("model.backbone.type", str)
    if head not in settings.NETWORKS:
        raise refused("model.decode_head.type", ", ".join(settings.NETWORKS))
    network, wanted = settings.NETWORKS[head]
    if settings.BACKBONES.get(backbone) != wanted:
        names = [name for name, ours in settings.BACKBONES.items() if ours == wanted]
        raise refused("model.backbone.type", f"{' or '.join(names)} with {head}")
    if theirs.take("model.neck") is not None:
        raise refused("model.neck", "absent")
    return network, wanted


class _Mapping:
    """One config under way from `theirs` to `out`."""

    def __init__(self, theirs, config):
        self.theirs, self.take, self.config, self.out = theirs, theirs.take, config, Mapped(config)

    # ------------------------------------------------------------------------------------- what becomes of a setting

    def put(self, name, ours, value):
        """Their setting `name` is our field `ours`, which gets `value`."""
        outer, _, last = ours.rpartition(".")
        group = self.get(outer)
        given = self.theirs.look(name)
        if given is not ABSENT or group[last] != value:
            self.out.moved.append((name, given, ours, value))
        try:
            group[last] = value
        except TypeError:
            raise UserError(f"{self.theirs.path}: {name} = {shown(given)} is of a kind that {ours} cannot be") from None

    def leave(self, name, why):
        self.out.left.append((name, self.theirs.look(name), why))

    def move(self, group):
        """The settings that go over as they are."""
        for name, (default, ours) in settings.MOVED[group].items():
            self.put(name, ours, self.take(name, default))

    def fix(self, group, at):
        """The settings below `at` that are always the same here."""
        for name, (default, value, why) in settings.FIXED[group].items():
            self.expect(f"{at}.{name}".lstrip("."), default, value, why)

    def expect(self, name, default, value, why):
        """A setting that always has this `value` here; `default` is theirs."""
        given = name in self.theirs
        if (self.take(name) if given else default) != value:
            self.leave(name, why)
        elif given:
            self.out.same.append(name)

    def get(self, ours):
        value = self.config
        for part in filter(None, ours.split(".")):
            value = value[part]
        return value

    def pair(self, name):
        """Two numbers, also given as one for both."""
        value = self.take(name)
        value = (value, value) if isinstance(value, int | float) else value
        if not isinstance(value, tuple) or len(value) != 2:
            raise UserError(f"{self.theirs.path}: {name} = {shown(value)} must be two numbers")
        return value

    def has(self, name, at):
        """Whether a transform or schedule of that type is there, whose unchanging settings are then done with."""
        there = self.take(f"{at}.{name}.type") is not None
        if there:
            self.fix(name, f"{at}.{name}")
        return there

    # ---------------------------------------------------------------------------------------------------- the network

    def backbone(self, kind):
        at = "model.backbone"
        self.move(kind)
        self.fix(kind, at)
        if kind == "resnet":
            self._resnet(at)
        if kind == "mit":
            self._mit(at)
        if self.take(f"{at}.with_cp", False):
            self.put(f"{at}.with_cp", "train.keep", (INPUTS,) * 4)

    def _resnet(self, at):
        c = self.config.model.backbone
        if c.depth not in STAGES:
            depths = ", ".join(map(str, STAGES))
            raise UserError(f"{self.theirs.path}: {at}.depth = {c.depth}: here it can be {depths}")
        deep = self.theirs.look(f"{at}.type") == "ResNetV1c"
        self.put(f"{at}.type", "model.backbone.deep_stem", self.take(f"{at}.deep_stem", deep))
        self.expect(f"{at}.stem_channels", 64, c.width, "the stem is as wide as the first stage")
        strides = self.take(f"{at}.strides", (1, 2, 2, 2))
        by_strides = {theirs: output_stride for output_stride, (theirs, _) in STRIDES.items()}
        if strides in by_strides:
            self.put(f"{at}.strides", "model.backbone.output_stride", by_strides[strides])
        else:
            self.leave(f"{at}.strides", f"they can be {', '.join(map(str, by_strides))}; taken are the first")
        _, dilations = STRIDES[c.output_stride]
        self.expect(
            f"{at}.dilations", (1, 1, 1, 1), dilations, f"with output stride {c.output_stride} they are {dilations}"
        )

    def _mit(self, at):
        heads = self.take(f"{at}.num_heads", (1, 2, 4, 8))
        if heads != HEADS:
            raise UserError(f"{self.theirs.path}: {at}.num_heads = {shown(heads)}: here they are {HEADS}")
        self.out.same.append(f"{at}.num_heads")
        width = self.take(f"{at}.embed_dims", 64)
        self.put(f"{at}.embed_dims", "model.backbone.widths", tuple(width * count for count in heads))
        eps = 1e-5 if f"{at}.norm_cfg" in self.theirs else 1e-6  # of torch, and of the backbone
        self.expect(f"{at}.norm_cfg.type", "LN", "LN", "the backbone has LayerNorms")
        self.put(f"{at}.norm_cfg.eps", "model.backbone.norm_eps", self.take(f"{at}.norm_cfg.eps", eps))

    def head(self, network):
        at = "model.decode_head"
        self.move(network)
        self.fix("head", at)
        self.fix(network, at)
        self.put(f"{at}.align_corners", "model.align_corners", self.take(f"{at}.align_corners", False))
        self._classes(at)
        if network == "deeplabv3plus" and not self.take(f"{at}.c1_in_channels", int):
            raise UserError(f"{self.theirs.path}: {at}.c1_in_channels = 0: here the head sees the first stage as well")
        if network == "segnext":
            channels = self.config.model.head.channels
            self.expect(f"{at}.ham_channels", 512, channels, "what is factorised is as wide as the head")
        average, weights, times = self._loss(at)
        self.put(f"{at}.loss_decode.CrossEntropyLoss.avg_non_ignore", "loss.average", average)
        self.put(f"{at}.loss_decode.CrossEntropyLoss.class_weight", "loss.class_weights", weights)
        if times != 1:
            self.leave(f"{at}.loss_decode.CrossEntropyLoss.loss_weight", "the head's loss counts once")
        for name, value in self._hard_pixels(at).items():
            self.put(f"{at}.sampler", f"loss.ohem.{name}", value)

    def auxiliary(self):
        at = "model.auxiliary_head"
        if self.theirs.look(f"{at}.type") != "FCNHead":
            if self.take(at) is not None:
                self.leave(at, "one FCNHead is the auxiliary head here, or none")
            self.put(at, "loss.auxiliary_weight", 0.0)
            return
        self.take(f"{at}.type")
        self.move("auxiliary")
        self.fix("head", at)
        self.fix("auxiliary", at)
        self.put(f"{at}.in_index", "model.auxiliary.index", self.take(f"{at}.in_index", -1) % 4)
        self._classes(at)
        self.expect(f"{at}.align_corners", False, self.config.model.align_corners, "it is that of the head")
        average, weights, times = self._loss(at)
        self.put(f"{at}.loss_decode.CrossEntropyLoss.loss_weight", "loss.auxiliary_weight", times)
        if (average, weights) != (self.config.loss.average, self.config.loss.class_weights):
            self.leave(f"{at}.loss_decode.CrossEntropyLoss", "pixels and classes weigh as in the head's loss")
        if self._hard_pixels(at) != self.config.loss.ohem.to_dict():
            self.leave(f"{at}.sampler", "pixels are picked as for the head's loss")

    def _classes(self, at):
        source, classes = self.config.data.source, label_set(self.config).num_classes
        self.expect(f"{at}.num_classes", None, classes, f"the classes are the {classes} of data.source = {source!r}")

    def _loss(self, at):
        """Of a head's cross entropy: the average, the weights of the classes, and how often it counts itself."""
        at = f"{at}.loss_decode.CrossEntropyLoss"
        if self.take(f"{at}.type") is None and f"{at.rpartition('.')[0]}" in self.theirs:
            self.leave(at, "the loss is cross entropy all the same")
        self.take(f"{at}.loss_name")
        self.fix("cross entropy", at)
        average = "valid" if self.take(f"{at}.avg_non_ignore", False) else "all"
        weights = self.take(f"{at}.class_weight") or ()
        if isinstance(weights, str):
            self.leave(f"{at}.class_weight", "the file is not read: write its numbers into loss.class_weights")
            weights = ()
        return average, weights, self.take(f"{at}.loss_weight", 1.0)

    def _hard_pixels(self, at):
        """What `loss.ohem` is for a head."""
        at = f"{at}.sampler"
        if self.theirs.look(f"{at}.type") != "OHEMPixelSampler":
            if self.take(at) is not None:
                self.leave(at, "pixels are picked by OHEMPixelSampler or not at all")
            return {"min_kept": 0, "threshold": 0.0}
        self.take(f"{at}.type")
        least, threshold = self.take(f"{at}.min_kept", 100_000), self.take(f"{at}.thresh")
        return {"min_kept": least, "threshold": threshold or 0.0}

    def norms(self, network):
        """BatchNorms are all alike here; one that is not synchronised has a group a GPU."""
        defaults = {"backbone": "BN", "decode_head": None, "auxiliary_head": None}
        if network == "segformer":
            del defaults["backbone"]
        if network == "segnext":
            defaults["backbone"] = "SyncBN"
            del defaults["decode_head"]
            self._group_norm("model.decode_head.norm_cfg")
        if not self.config.loss.auxiliary_weight:
            del defaults["auxiliary_head"]
        of_all = None
        for part, default in defaults.items():
            name = f"model.{part}.norm_cfg"
            kind = self.take(f"{name}.type", default)
            groups = {"SyncBN": 1, "BN": self._gpus() or 1}.get(kind)
            if groups is None:
                self.take(name)
                self.leave(name, "it has BatchNorms")
                continue
            self.expect(f"{name}.requires_grad", True, True, "norms are trained")
            momentum = round(1 - self.take(f"{name}.momentum", 0.1), 12)
            ours = {"type": groups, "momentum": momentum, "eps": self.take(f"{name}.eps", 1e-5)}
            if of_all is None:
                of_all = ours
                for theirs, value in ours.items():
                    self.put(f"{name}.{theirs}", f"model.norm.{'groups' if theirs == 'type' else theirs}", value)
            elif ours == of_all:
                self.out.same.append(name)
            else:
                self.leave(name, "BatchNorms are all alike here, model.norm")

    def _group_norm(self, name):
        norm = self.take(name, {})
        if (norm.get("type"), norm.get("num_groups")) == ("GN", 32):
            self.out.same.append(name)
        else:
            self.leave(name, "the head has GroupNorms of 32 groups")

    def weights(self):
        """The file to start from: of a whole network, or else of its backbone."""
        names = ("load_from", "model.init_cfg.checkpoint", "model.pretrained", "model.backbone.pretrained")
        files = {name: self.take(name) for name in (*names, "model.backbone.init_cfg.checkpoint")}
        name = next((name for name, file in files.items() if isinstance(file, str)), None)
        if name is None:
            return
        file = settings.ZOO.get(files[name], files[name])
        if file.startswith(("http://", "https://")):
            self.out.weights = file
            self.put(name, "init_from", f"weights/{PurePath(file.partition('?')[0]).name}")
        elif "://" in file:
            self.leave(name, "the file is not known by this name: name one in init_from")
        else:
            self.put(name, "init_from", file)
        if name in names[:2]:
            parts = ("backbone", "head", "auxiliary") if self.config.loss.auxiliary_weight else ("backbone", "head")
            self.put(name, "init_parts", parts)

    # ------------------------------------------------------------------------------------------------------- the data

    def data(self):
        for loader, split in (("train_dataloader", "train"), ("val_dataloader", "eval")):
            at = f"{loader}.dataset"
            kind = self.take(f"{at}.type", str)
            root, images = self.take(f"{at}.data_root", ""), self.take(f"{at}.data_prefix.img_path", "")
            if kind not in settings.DATA_SETS:
                why = f"there is no such data set here: data.source stays {self.config.data.source!r}"
                self.leave(f"{at}.type", why)
                continue
            source = settings.DATA_SETS[kind]
            root = "" if PurePath(root) in (PurePath(), PurePath("data", source)) else root
            if split == "train":
                self.put(f"{at}.type", "data.source", source)
                self.put(f"{at}.data_root", "data.root", root)
            elif root != self.config.data.root:
                self.leave(f"{at}.data_root", "one data.root has both splits")
            if images:
                self.put(f"{at}.data_prefix.img_path", f"data.{split}_split", PurePath(images).name)
        name = "train_dataloader.batch_size"
        if self._gpus() is None:
            self.leave(name, "it is for one GPU, and no 4xb2 in the file's name says how many: taken is one")
        self.put(name, "train.batch_size", self.take(name, 1) * (self._gpus() or 1))

    def _gpus(self):
        named = re.search(r"_(\d{1,6})xb\d", self.theirs.path.stem)
        return int(named[1]) if named else None

    def pipelines(self):
        order = [name for name in self.theirs.look(TRAIN) or () if name in IN_ORDER]
        if order != [name for name in IN_ORDER if name in order]:
            self.leave(TRAIN, f"the order is {', '.join(IN_ORDER)}")
        for pipeline in (TRAIN, VAL):
            for name in ("LoadImageFromFile", "LoadAnnotations"):
                self.has(name, pipeline)
        at = f"{TRAIN}.RandomResize"
        resizes = self.has("RandomResize", TRAIN)
        if resizes:
            self.put(f"{at}.scale", "data.scale", self.pair(f"{at}.scale"))
        self.put(f"{at}.ratio_range", "data.ratio_range", self.pair(f"{at}.ratio_range") if resizes else (1.0, 1.0))
        at = f"{TRAIN}.RandomCrop"
        if self.has("RandomCrop", TRAIN):
            self.put(f"{at}.crop_size", "data.crop_size", self.pair(f"{at}.crop_size"))
            self.put(f"{at}.cat_max_ratio", "data.cat_max_ratio", self.take(f"{at}.cat_max_ratio", 1.0))
        else:
            self.leave(at, f"training is on crops: data.crop_size stays {self.config.data.crop_size}")
        at = f"{TRAIN}.RandomFlip"
        self.put(f"{at}.prob", "data.flip", self.take(f"{at}.prob", 0.0) if self.has("RandomFlip", TRAIN) else 0.0)
        name = "PhotoMetricDistortion"
        self.put(f"{TRAIN}.{name}", "data.photometric", "host" if self.has(name, TRAIN) else "off")
        if self.has("Resize", VAL):
            scale = self.config.data.scale
            self.expect(f"{VAL}.Resize.scale", None, scale, f"images are tested at data.scale, {scale}")

    def preprocessing(self):
        at = "model.data_preprocessor"
        self.fix("data_preprocessor", at)
        crop = self.config.data.crop_size
        self.expect(f"{at}.size", None, crop, f"crops are padded to their size, {crop}")
        name = f"{at}.test_cfg.size_divisor"
        self.put(name, "eval.size_divisor", self.take(name, 1))

    # --------------------------------------------------------------------------------------------------- the training

    def optimizer(self):
        at = "optim_wrapper"
        self.fix(at, at)
        kind = self.take(f"{at}.type", "OptimWrapper")
        if kind == "AmpOptimWrapper":
            self.take(f"{at}.loss_scale")
            if self.take(f"{at}.dtype", "float16") == "bfloat16":
                self.put(f"{at}.dtype", "train.dtype", "bfloat16")
            else:
                self.leave(f"{at}.type", "float16 is not used: train.dtype = 'bfloat16' is the mixed precision here")
        elif kind != "OptimWrapper":
            self.leave(f"{at}.type", "there is no such wrapper")
        kind = self.theirs.look(f"{at}.optimizer.type")
        if kind in settings.OPTIMIZERS:
            self.take(f"{at}.optimizer.type")
            self._is(settings.OPTIMIZERS[kind])
            self.move(kind)
            self.fix(kind, f"{at}.optimizer")
        rules = []
        for text, factors in self.take(f"{at}.paramwise_cfg.custom_keys", {}).items():
            match factors:
                case {**known} if known.keys() <= {"lr_mult", "decay_mult"}:
                    rules.append((text, known.get("lr_mult", 1.0), known.get("decay_mult", 1.0)))
                case _:
                    self.leave(f"{at}.paramwise_cfg.custom_keys.{text}", "optim.rules know lr_mult and decay_mult")
        self.put(f"{at}.paramwise_cfg.custom_keys", "optim.rules", tuple(rules))

    def _is(self, name):
        """Makes the optimiser that of this name, with the fields that it has."""
        c = self.config.optim
        if name != c.name:
            with self.config.unlocked():
                for unknown in OPTIMIZERS[c.name].keys() - OPTIMIZERS[name].keys():
                    del c[unknown]
                c.update(OPTIMIZERS[name])
            self.put("optim_wrapper.optimizer.type", "optim.name", name)

    def schedule(self):
        at = "param_scheduler"
        self.fix("train_cfg", "train_cfg")
        self.move("train_cfg")
        steps = self.config.train.steps
        warmup = self.take(f"{at}.LinearLR.end", int) if self.has("LinearLR", at) else 0
        self.put(f"{at}.LinearLR.end", "optim.warmup_steps", warmup)
        if self.has("PolyLR", at):
            self.put(f"{at}.PolyLR.power", "optim.power", self.take(f"{at}.PolyLR.power", 1.0))
            self.put(f"{at}.PolyLR.eta_min", "optim.min_lr", self.take(f"{at}.PolyLR.eta_min", 0.0))
            self.expect(f"{at}.PolyLR.begin", 0, warmup, f"the decay begins where the warm-up ends, at {warmup}")
            self.expect(f"{at}.PolyLR.end", None, steps, f"the decay ends with training, at {steps}")
        elif not any(name.startswith(at) for name, _ in self.theirs.left()):
            self.put(at, "optim.power", 0.0)  # the learning rate stays as it is

    # ------------------------------------------------------------------------------------------------- the evaluation

    def evaluation(self):
        at = "model.test_cfg"
        mode = self.take(f"{at}.mode", "whole")
        self.put(f"{at}.mode", "eval.modes", (mode,))
        for name, ours in (("crop_size", "eval.window"), ("stride", "eval.stride")):
            if mode == "slide":
                self.put(f"{at}.{name}", ours, self.pair(f"{at}.{name}"))
            elif self.take(f"{at}.{name}") is not None:
                self.out.idle.append(f"{at}.{name}")
        self.fix("val_evaluator", "val_evaluator")
        name = "default_hooks.checkpoint.save_best"
        best = self.take(name, "mIoU")
        if best not in SCORES:
            self.leave(name, f"the best is one of {', '.join(SCORES)}")
        self.put(name, "eval.best", f"{mode}/{SCORES.get(best, 'miou')}")

    def hooks(self):
        every = {"default_hooks.logger": "train.log_every", "default_hooks.checkpoint": "train.checkpoint_every"}
        for hook, ours in every.items():
            interval = self.take(f"{hook}.interval", self.get(ours))
            # Each evaluation saves as well, so that saves at evaluations alone say nothing against ours between them.
            if ours == "train.log_every" or interval != self.config.eval.every:
                self.put(f"{hook}.interval", ours, interval)
            else:
                self.out.same.append(f"{hook}.interval")
        if self.take("custom_hooks.EMAHook.type") is not None:
            self.take("custom_hooks.EMAHook.priority")
            self.put("custom_hooks.EMAHook.momentum", "train.ema", self.take("custom_hooks.EMAHook.momentum", 0.0002))
        self.put("randomness.seed", "seed", self.take("randomness.seed", 0))

    def rest(self):
        """What nothing above has asked for."""
        self.fix("", "")
        for name, value in self.theirs.left():
            if name.startswith("test_dataloader") and self.theirs.look(name.replace("test", "val", 1)) == value:
                continue
            if any(name == idle or name.startswith(f"{idle}.") for idle in settings.OF_NO_MATTER):
                self.out.idle.append(name)
            elif isinstance(value, Unread):
                self.leave(name, "it is no literal")
            else:
                self.leave(name, next(why for start, why in settings.WHY.items() if name.startswith(start)))
