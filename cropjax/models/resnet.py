"""ResNet with dilations, with the three-convolution stem (ResNetV1c) or the paper's 7x7.

He et al. 2016; the deep stem and the dilated form from DeepLab. Matches `mmseg/models/backbones/resnet.py`: padding
equals dilation in every 3x3, the stride sits on the bottleneck's 3x3, and with `contract_dilation` the first block of a
dilated stage uses half the dilation.
"""

import jax
from flax import nnx

from cropjax.models.frozen import frozen_parts, held
from cropjax.models.layers import ConvNorm
from cropjax.models.repeat import EVERYTHING, repeat
from cropjax.ops.order import once
from cropjax.ops.pool import max_pool

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

# Output stride -> strides and dilations of the four stages.
STRIDES = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}


@once  # or every block would add up again all that the blocks of its stage before it have added
def add_shortcut(branch, shortcut):
    return jax.nn.relu(branch + shortcut)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; stride and dilation on the first."""

    expansion = 1

    def __init__(self, i, width, *, stride, dilation, rng, norm, padding_mode):
        spatial = {"rng": rng, "norm": norm, "padding_mode": padding_mode}
        self.conv1 = ConvNorm(i, width, 3, stride=stride, dilation=dilation, **spatial)
        self.conv2 = ConvNorm(width, width, 3, relu=False, scale=0.0, **spatial)
        self.downsample = _projection(i, width, stride, rng, norm)

    def __call__(self, x, train):
        y = self.conv2(self.conv1(x, train), train)
        return add_shortcut(y, x if self.downsample is None else self.downsample(x, train))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (stride and dilation), 1x1 to four times the width."""

    expansion = 4

    def __init__(self, i, width, *, stride, dilation, rng, norm, padding_mode):
        o = width * self.expansion
        self.conv1 = ConvNorm(i, width, 1, rng=rng, norm=norm)
        self.conv2 = ConvNorm(
            width, width, 3, stride=stride, dilation=dilation, rng=rng, norm=norm, padding_mode=padding_mode
        )
        self.conv3 = ConvNorm(width, o, 1, relu=False, scale=0.0, rng=rng, norm=norm)
        self.downsample = _projection(i, o, stride, rng, norm)

    def __call__(self, x, train):
        y = self.conv3(self.conv2(self.conv1(x, train), train), train)
        return add_shortcut(y, x if self.downsample is None else self.downsample(x, train))


def _projection(i, o, stride, rng, norm):
    if i == o and stride == 1:
        return None
    return ConvNorm(i, o, 1, stride=stride, relu=False, rng=rng, norm=norm)


class ResNet(nnx.Module):
    """Images [n,h,w,3] -> four feature maps, at strides 4, 8 and then as `output_stride` (8, 16 or 32) says.

    `depth` is one of `STAGES`; `width` the channels of the first stage (64 in the paper); `channels` the channels of
    the four maps; `keep` is what each stage's blocks keep in training (see `repeat`), `frozen_stages` what does not
    train (see frozen.py). `deep_stem=False` has one 7x7 convolution in place of the three 3x3, as torchvision's
    networks do.
    The last norm of every residual branch starts at zero, as upstream's does without a checkpoint.
    """

    def __init__(
        self, depth, *, rng, norm, width=64, output_stride=8, contract_dilation=True, deep_stem=True,
        padding_mode="zeros", keep=(EVERYTHING,) * 4, frozen_stages=-1,
    ):  # fmt: skip
        block = BasicBlock if depth < 50 else Bottleneck
        spatial = {"rng": rng, "norm": norm, "padding_mode": padding_mode}
        if deep_stem:
            self.stem = nnx.List(
                [
                    ConvNorm(3, width // 2, 3, stride=2, **spatial),
                    ConvNorm(width // 2, width // 2, 3, **spatial),
                    ConvNorm(width // 2, width, 3, **spatial),
                ]
            )
        else:
            self.conv1 = ConvNorm(3, width, 7, stride=2, **spatial)
        self.deep_stem = deep_stem
        self.stages = nnx.List()
        i = width
        strides, dilations = STRIDES[output_stride]
        for stage, (count, stride, dilation) in enumerate(zip(STAGES[depth], strides, dilations, strict=True)):
            blocks = nnx.List()
            for k in range(count):
                contract = k == 0 and contract_dilation and dilation > 1
                blocks.append(
                    block(
                        i,
                        width * 2**stage,
                        stride=stride if k == 0 else 1,
                        dilation=dilation // 2 if contract else dilation,
                        **spatial,
                    )
                )
                i = width * 2**stage * block.expansion
            self.stages.append(blocks)
        self.channels = tuple(width * 2**stage * block.expansion for stage in range(4))
        self.keep, self.frozen_stages = tuple(keep), frozen_stages

    def __call__(self, x, train, key=None):
        stem_frozen, *frozen_stages = frozen_parts(self.frozen_stages, train)
        for layer in self.stem if self.deep_stem else [self.conv1]:
            x = layer(x, train and not stem_frozen)
        x = held(max_pool(x), stem_frozen)  # stride 4
        maps = []
        for blocks, keep, frozen in zip(self.stages, self.keep, frozen_stages, strict=True):
            x = held(_stage(blocks, x, train and not frozen, keep), frozen)
            maps.append(x)
        return maps


def _stage(blocks, x, train, keep):
    for equal in (blocks[:1], blocks[1:]):  # the first one projects
        x = repeat(equal, x, lambda block, x: block(x, train), keep=keep if train else EVERYTHING)
    return x
