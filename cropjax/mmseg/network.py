"""Their network: backbone, heads, norms, and the weights they start from."""

from pathlib import PurePath

from cropjax.config import label_set
from cropjax.errors import UserError
from cropjax.mmseg import loss, settings
from cropjax.mmseg.theirs import shown
from cropjax.models.mit import HEADS
from cropjax.models.repeat import INPUTS
from cropjax.models.resnet import STAGES, STRIDES


def find(theirs):
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


def backbone(m, kind):
    """Ours is of this `kind`."""
    at = "model.backbone"
    m.move(kind)
    m.fix(kind, at)
    if kind == "resnet":
        _resnet(m, at)
    if kind == "mit":
        _mit(m, at)
    if m.take(f"{at}.with_cp", False):
        m.put(f"{at}.with_cp", "train.keep", (INPUTS,) * 4)


def _resnet(m, at):
    c = m.config.model.backbone
    if c.depth not in STAGES:
        depths = ", ".join(map(str, STAGES))
        raise UserError(f"{m.theirs.path}: {at}.depth = {c.depth}: here it can be {depths}")
    deep = m.theirs.look(f"{at}.type") == "ResNetV1c"
    m.put(f"{at}.type", "model.backbone.deep_stem", m.take(f"{at}.deep_stem", deep))
    m.expect(f"{at}.stem_channels", 64, c.width, "the stem is as wide as the first stage")
    strides = m.take(f"{at}.strides", (1, 2, 2, 2))
    by_strides = {theirs: output_stride for output_stride, (theirs, _) in STRIDES.items()}
    if strides in by_strides:
        m.put(f"{at}.strides", "model.backbone.output_stride", by_strides[strides])
    else:
        m.leave(f"{at}.strides", f"they can be {', '.join(map(str, by_strides))}; taken are the first")
    _, dilations = STRIDES[c.output_stride]
    m.expect(f"{at}.dilations", (1, 1, 1, 1), dilations, f"with output stride {c.output_stride} they are {dilations}")


def _mit(m, at):
    heads = m.take(f"{at}.num_heads", (1, 2, 4, 8))
    if heads != HEADS:
        raise UserError(f"{m.theirs.path}: {at}.num_heads = {shown(heads)}: here they are {HEADS}")
    m.out.same.append(f"{at}.num_heads")
    width = m.take(f"{at}.embed_dims", 64)
    m.put(f"{at}.embed_dims", "model.backbone.widths", tuple(width * count for count in heads))
    eps = 1e-5 if f"{at}.norm_cfg" in m.theirs else 1e-6  # of torch, and of the backbone
    m.expect(f"{at}.norm_cfg.type", "LN", "LN", "the backbone has LayerNorms")
    m.put(f"{at}.norm_cfg.eps", "model.backbone.norm_eps", m.take(f"{at}.norm_cfg.eps", eps))


def head(m, network):
    """The decode head and its losses."""
    at = "model.decode_head"
    m.move(network)
    m.fix("head", at)
    m.fix(network, at)
    m.put(f"{at}.align_corners", "model.align_corners", m.take(f"{at}.align_corners", False))
    _classes(m, at)
    if network == "deeplabv3plus" and not m.take(f"{at}.c1_in_channels", int):
        raise UserError(f"{m.theirs.path}: {at}.c1_in_channels = 0: here the head sees the first stage as well")
    if network == "segnext":
        channels = m.config.model.head.channels
        m.expect(f"{at}.ham_channels", 512, channels, "what is factorised is as wide as the head")
    loss.head(m, at)


def auxiliary(m):
    """The auxiliary head and its losses."""
    at = "model.auxiliary_head"
    if m.theirs.look(f"{at}.type") != "FCNHead":
        if m.take(at) is not None:
            m.leave(at, "one FCNHead is the auxiliary head here, or none")
        m.put(at, "loss.auxiliary_weight", 0.0)
        return
    m.take(f"{at}.type")
    m.move("auxiliary")
    m.fix("head", at)
    m.fix("auxiliary", at)
    m.put(f"{at}.in_index", "model.auxiliary.index", m.take(f"{at}.in_index", -1) % 4)
    _classes(m, at)
    m.expect(f"{at}.align_corners", False, m.config.model.align_corners, "it is that of the head")
    loss.auxiliary(m, at)


def _classes(m, at):
    source, classes = m.config.data.source, label_set(m.config).num_classes
    m.expect(f"{at}.num_classes", None, classes, f"the classes are the {classes} of data.source = {source!r}")


def norms(m, network):
    """BatchNorms, all alike here; one that is not synchronised has a group a GPU."""
    defaults = {"backbone": "BN", "decode_head": None, "auxiliary_head": None}
    if network == "segformer":
        del defaults["backbone"]
    if network == "segnext":
        defaults["backbone"] = "SyncBN"
        del defaults["decode_head"]
        _group_norm(m, "model.decode_head.norm_cfg")
    if not m.config.loss.auxiliary_weight:
        del defaults["auxiliary_head"]
    of_all = None
    for part, default in defaults.items():
        name = f"model.{part}.norm_cfg"
        kind = m.take(f"{name}.type", default)
        groups = {"SyncBN": 1, "BN": m.gpus or 1}.get(kind)
        if groups is None:
            m.take(name)
            m.leave(name, "it has BatchNorms")
            continue
        m.expect(f"{name}.requires_grad", True, True, "norms are trained")
        momentum = round(1 - m.take(f"{name}.momentum", 0.1), 12)
        ours = {"type": groups, "momentum": momentum, "eps": m.take(f"{name}.eps", 1e-5)}
        if of_all is None:
            of_all = ours
            for theirs, value in ours.items():
                m.put(f"{name}.{theirs}", f"model.norm.{'groups' if theirs == 'type' else theirs}", value)
        elif ours == of_all:
            m.out.same.append(name)
        else:
            m.leave(name, "BatchNorms are all alike here, model.norm")


def _group_norm(m, name):
    norm = m.take(name, {})
    if (norm.get("type"), norm.get("num_groups")) == ("GN", 32):
        m.out.same.append(name)
    else:
        m.leave(name, "the head has GroupNorms of 32 groups")


def weights(m):
    """The file to start from: of a whole network, or else of its backbone."""
    names = ("load_from", "model.init_cfg.checkpoint", "model.pretrained", "model.backbone.pretrained")
    files = {name: m.take(name) for name in (*names, "model.backbone.init_cfg.checkpoint")}
    for name in ("model.init_cfg", "model.backbone.init_cfg"):
        if isinstance(m.theirs.look(name), tuple):
            m.take(name)
            m.leave(name, "a list is not looked into: name the file in init_from")
    name = next((name for name, file in files.items() if isinstance(file, str)), None)
    if name is None:
        return
    file = settings.ZOO.get(files[name], files[name])
    if file.startswith(("http://", "https://")):
        m.out.weights = file
        m.put(name, "init_from", f"weights/{PurePath(file.partition('?')[0]).name}")
    elif "://" in file:
        m.leave(name, "the file is not known by this name: name one in init_from")
    else:
        m.put(name, "init_from", file)
    if name in names[:2]:
        parts = ("backbone", "head", "auxiliary") if m.config.loss.auxiliary_weight else ("backbone", "head")
        m.put(name, "init_parts", parts)
