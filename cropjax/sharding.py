"""The mesh of devices, and where batches and state live on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cropjax.errors import UserError


def make_mesh(*, data, space):
    """A mesh with the axes `data` (splits the batch) and `space` (splits the rows of every crop).

    One of the two may be -1: all devices that are left. Raises `UserError` when they do not multiply to the devices.
    """
    count = jax.device_count()
    if data == -1:
        data = count // max(space, 1)
    elif space == -1:
        space = count // max(data, 1)
    if data < 1 or space < 1 or data * space != count:
        raise UserError(
            f"mesh.data x mesh.space = {data} x {space}, but there are {count} devices: make the product {count}, or "
            "set one of them to -1"
        )
    return jax.make_mesh((data, space), ("data", "space"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh):
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh):
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(batch, mesh):
    """This process's part of a batch, NumPy arrays [n,...], as global arrays split over `data`."""
    return {k: jax.make_array_from_process_local_data(split_batch(mesh), v) for k, v in batch.items()}


def batch_form(n, mesh, **arrays):
    """The form of a placed batch of `n` examples, to trace on: {name: (shape of one, dtype)}."""
    return {
        name: jax.ShapeDtypeStruct((n, *shape), dtype, sharding=split_batch(mesh))
        for name, (shape, dtype) in arrays.items()
    }


def split_rows(images, mesh):
    """Inside `jit`: splits images [n,h,w,c] over `data` and their rows over `space`, whatever the height."""
    return jax.lax.with_sharding_constraint(images, NamedSharding(mesh, PartitionSpec("data", "space")))
