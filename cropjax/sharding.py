"""The mesh of devices, and where batches and state live on it."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cropjax.errors import UserError


def make_mesh(*, data, space, batch_size=None, rows=None):
    """A mesh with the axes `data` (splits the batch) and `space` (splits the rows of every crop), over all processes.

    Either may be -1: the devices that are left. Both are: as many on `data` as `batch_size`, the images that go through
    the network together, can use, and the rest, which would have nothing to do, on `space`. Without a `batch_size`, all
    on `data`. A process has neighbouring devices, and `space`, which exchanges rows within every layer, lies within it.
    The smallest map that is split over it has `rows`.

    Raises:
        UserError: the two do not multiply to the devices, a batch does not divide, `space` would span processes, or a
            device would have no row: XLA's sums of such maps were seen to be wrong, within a loop.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count, local = len(devices), jax.local_device_count()
    if data == space == -1:
        data = count if batch_size is None else math.gcd(batch_size, count)
    if data == -1:
        data = count // max(space, 1)
    elif space == -1:
        space = count // max(data, 1)
    if data < 1 or space < 1 or data * space != count:
        raise UserError(
            f"mesh.data x mesh.space = {data} x {space}, but there are {count} devices: make the product {count}, or "
            "set one of them to -1"
        )
    if local % space:
        raise UserError(
            f"mesh.space = {space} would span processes, which have {local} devices each: make mesh.space a divisor of "
            f"{local}, and train.batch_size a multiple of mesh.data = {count} / mesh.space"
        )
    if batch_size is not None and batch_size % data:
        raise UserError(
            f"train.batch_size = {batch_size} (or so many in a part of train.accumulate) does not divide among the "
            f"{data} devices of mesh.data: make it a multiple of {data}, or set mesh.data = mesh.space = -1"
        )
    if rows is not None and space > rows:
        raise UserError(
            f"mesh.space = {space} devices cannot share the {rows} rows of the deepest map: take fewer, or a larger "
            "data.crop_size"
        )
    return Mesh(np.reshape(devices, (data, space)), ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def one_device():
    """The mesh of this process's first device alone."""
    return Mesh(np.reshape(jax.local_devices()[:1], (1, 1)), ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def local_mesh(mesh: Mesh):
    """This process's part of `mesh`."""
    ours = [row for row in mesh.devices if row[0].process_index == jax.process_index()]
    return Mesh(np.stack(ours), mesh.axis_names, axis_types=mesh.axis_types)


def local_view(tree, mesh: Mesh):
    """A tree of replicated arrays, each on this process's devices alone: the same memory, no copy."""
    here = replicated(local_mesh(mesh))

    def view(x):
        return jax.make_array_from_single_device_arrays(x.shape, here, [shard.data for shard in x.addressable_shards])

    return jax.tree.map(view, tree)


def replicated(mesh: Mesh):
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh):
    return NamedSharding(mesh, PartitionSpec("data"))


def split_largest(shape, mesh: Mesh):
    """Splits an array's largest axis that `data` divides over it; replicated where there is none."""
    parts = mesh.shape["data"]
    divisible = [axis for axis, side in enumerate(shape) if side % parts == 0]
    if parts == 1 or not divisible:
        return replicated(mesh)
    axis = max(divisible, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))


def place_batch(batch, mesh):
    """This process's part of a batch, NumPy arrays [n,...], as global arrays split over `data`."""
    return {k: jax.make_array_from_process_local_data(split_batch(mesh), v) for k, v in batch.items()}


def batch_form(n, mesh, **arrays):
    """The form of a placed batch of `n` examples, to trace on: {name: (shape of one, dtype)}."""
    return {
        name: jax.ShapeDtypeStruct((n, *shape), dtype, sharding=split_batch(mesh))
        for name, (shape, dtype) in arrays.items()
    }


def rows_split_over(mesh):
    """A context to trace a network in: `split_rows` there means this mesh."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def rows_are_split():
    """Whether what is traced has a mesh of `rows_split_over`, with several devices on `space`."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape["space"] > 1


def split_rows(maps):
    """Inside `jit`: splits maps [n,h,w,c] over `data` and their rows over `space`, whatever the height.

    The mesh is that of `rows_split_over`; without one, or where its `space` is 1, they are what they were. XLA goes on
    from the images to most maps by itself, but not through strides of 4 to a height that does not divide.
    """
    if not rows_are_split():
        return maps
    return jax.lax.with_sharding_constraint(maps, PartitionSpec("data", "space"))


def on_every_device(x):
    """Inside `jit`: all of `x` on each device of the mesh of `rows_split_over`, for what sorts or ranks all of it."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty or mesh.size == 1 else jax.lax.with_sharding_constraint(x, PartitionSpec())


def in_parts(batch, parts, mesh):
    """Inside `jit`: arrays [n,...] as [parts,n/parts,...], contiguous parts of the batch, each split over `data`."""
    spread = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x.reshape(parts, -1, *x.shape[1:]), spread), batch)
