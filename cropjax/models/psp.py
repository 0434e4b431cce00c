"""Pyramid pooling (Zhao et al. 2017; `mmseg/models/decode_heads/psp_head.py`)."""

from flax import nnx

from cropjax.models.layers import Classifier, ConvNorm, pooled_branch


class PSPHead(nnx.Module):
    """The last feature map [n,h,w,i] -> logits [n,h,w,num_classes].

    The map is averaged over s x s cells for each s of `pool_scales`, projected to `channels`, resized back and
    concatenated behind it. `pool_norm=False` gives the pooled branches a bias in place of BatchNorm. At test they pool
    over windows of `pool_window` positions if that is given (see `pooled_branch`).
    """

    def __init__(
        self, in_channels, num_classes, *, rng, norm, align_corners, channels=512, pool_scales=(1, 2, 3, 6),
        pool_norm=True, pool_window=(), dropout=0.1, padding_mode="zeros",
    ):  # fmt: skip
        i = in_channels[-1]
        branch_norm = norm if pool_norm else None
        self.pools = nnx.List(ConvNorm(i, channels, 1, rng=rng, norm=branch_norm) for _ in range(len(pool_scales)))
        self.bottleneck = ConvNorm(
            i + len(pool_scales) * channels, channels, 3, rng=rng, norm=norm, padding_mode=padding_mode
        )
        self.classifier = Classifier(channels, num_classes, rng=rng, dropout=dropout)
        self.pool_scales, self.pool_window, self.align_corners = tuple(pool_scales), tuple(pool_window), align_corners

    def __call__(self, maps, train, key):
        x = maps[-1]
        pyramid = [x]
        for scale, pool in zip(self.pool_scales, self.pools, strict=True):
            pyramid.append(
                pooled_branch(pool, x, scale, train, window=self.pool_window, align_corners=self.align_corners)
            )
        x = self.bottleneck.joined(pyramid, train, size=x.shape[1:3], align_corners=self.align_corners)
        return self.classifier(x, train, key)
