import pytest
from tiny import tiny_config

from cropjax.benchmark.published import SIZES, published_size
from cropjax.config import defaults
from cropjax.errors import UserError


@pytest.mark.parametrize(("network", "size"), [(network, size) for network in SIZES for size in SIZES[network]])
def test_every_size_is_known_again(network, size):
    config = defaults(network)
    for part, values in SIZES[network][size].items():
        config.model[part].update(values)
    assert published_size(config) == size
    config.model.align_corners = True
    assert published_size(config) == size


def test_what_is_not_published_is_named():
    config = defaults("deeplabv3plus")
    config.model.head.dilations = (1, 6, 12, 18)
    with pytest.raises(UserError, match=r"from r50 it differs in model\.head\.dilations$"):
        published_size(config)
    config = defaults("pspnet")
    config.data.source = "camvid"
    with pytest.raises(UserError, match="11 classes"):
        published_size(config)
    with pytest.raises(UserError, match=r"model\.backbone\.widths"):
        published_size(tiny_config("segformer"))
