"""Which devices split the batch and which the rows, for any number of devices and processes."""

import types

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from cropjax import sharding
from cropjax.errors import UserError
from cropjax.sharding import make_mesh, split_largest


@pytest.fixture
def devices(monkeypatch):
    """Makes jax believe in `processes` times `local` devices, listed in another order; meshes are their shapes."""

    def believe(processes, local):
        found = [
            types.SimpleNamespace(process_index=p, id=100 * p + i)
            for i in range(local)
            for p in reversed(range(processes))
        ]
        monkeypatch.setattr(jax, "devices", lambda: found)
        monkeypatch.setattr(jax, "local_device_count", lambda: local)
        monkeypatch.setattr(sharding, "Mesh", lambda devices, *_, **__: devices)

    return believe


@pytest.mark.parametrize(
    ("processes", "local", "batch_size", "asked", "shape"),
    [
        (1, 1, 8, (-1, -1), (1, 1)),
        (1, 8, 8, (-1, -1), (8, 1)),
        (1, 8, 2, (-1, -1), (2, 4)),  # the study's batch on a node
        (1, 6, 4, (-1, -1), (2, 3)),
        (1, 4, 6, (-1, -1), (2, 2)),
        (2, 4, 4, (-1, -1), (4, 2)),
        (4, 1, 8, (-1, -1), (4, 1)),
        (1, 8, None, (-1, -1), (8, 1)),
        (1, 8, 8, (-1, 2), (4, 2)),
        (1, 8, 8, (2, -1), (2, 4)),
        (2, 2, 4, (4, 1), (4, 1)),
    ],
)
def test_mesh(devices, processes, local, batch_size, asked, shape):
    devices(processes, local)
    mesh = make_mesh(data=asked[0], space=asked[1], batch_size=batch_size)
    assert mesh.shape == shape
    assert [d.process_index for d in mesh.ravel()] == sorted(d.process_index for d in mesh.ravel())
    assert all(len({d.process_index for d in row}) == 1 for row in mesh)


@pytest.mark.parametrize(
    ("processes", "local", "batch_size", "asked", "wanted"),
    [
        (1, 4, 8, (3, 1), "mesh.data x mesh.space = 3 x 1, but there are 4 devices"),
        (1, 4, 8, (0, -1), "set one of them to -1"),
        (1, 3, 8, (-1, 1), r"train.batch_size = 8 .* does not divide among the 3 devices of mesh.data"),
        (4, 1, 2, (-1, -1), "mesh.space = 2 would span processes, which have 1 devices each"),
        (2, 2, 4, (1, 4), "mesh.space = 4 would span processes, which have 2 devices each"),
        (1, 8, 1, (-1, -1), "mesh.space = 8 devices cannot share the 4 rows of the deepest map"),
    ],
)
def test_what_cannot_be_split_is_named(devices, processes, local, batch_size, asked, wanted):
    devices(processes, local)
    with pytest.raises(UserError, match=wanted):
        make_mesh(data=asked[0], space=asked[1], batch_size=batch_size, rows=4)


@given(shape=st.lists(st.integers(0, 9), max_size=4), parts=st.integers(1, 5))
def test_the_largest_axis_that_divides_is_split(shape, parts):
    seen = []
    mesh = types.SimpleNamespace(shape={"data": parts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "NamedSharding", lambda _, spec: seen.append(spec))
        split_largest(tuple(shape), mesh)
    (spec,) = seen
    divisible = [side for side in shape if side % parts == 0]
    if parts == 1 or not divisible:
        assert spec == PartitionSpec()
    else:
        axis = list(spec).index("data")
        assert shape[axis] == max(divisible)
