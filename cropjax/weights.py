"""Weight files read as data: torch's `.pth`, `.safetensors` and `.npz`, without torch.

The two layouts of `torch.save` are those of torch/serialization.py: `_save`, a zip, and `_legacy_save`, the default
before torch 1.6. No pickle is ever run: see `unpickle`.
"""

import functools
import io
import math
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from cropjax.errors import UserError
from cropjax.unpickle import Inert, Storage, Tensor, unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning, torch.compile
EXPANSION = 8  # a file that unfolds to more than this many times its size is an attack, not weights


def read_weights(path):
    """The state dict in a `.pth`, `.pt`, `.bin`, `.safetensors` or `.npz` file, as name -> array.

    A `.pth` file may hold the state dict itself, or have it under "state_dict" (mmsegmentation) or "model" (timm,
    DETR); what lies beside it is ignored. A prefix from `WRAPPERS` that all names share is removed. bfloat16
    becomes float32, every other type stays; tensors that shared memory in torch do not here.

    Raises:
        UserError: no file, not such a file, broken, big-endian, or with an entry that is no plain tensor.
    """
    path = pathlib.Path(path)
    readers = {
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,  # the Hugging Face hub's name for the same
        ".safetensors": safetensors.numpy.load_file,
        ".npz": _read_npz,
    }
    try:
        if path.suffix.lower() not in readers:
            raise UserError(f"unknown kind of weight file; give one that ends in {', '.join(readers)}")
        if not path.is_file():
            raise UserError("no such file; give the path of a weight file that exists")
        with path.open("rb") as file:
            if file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
                raise UserError("a web page, not weights; download the file that the page links to")
        weights = {name: _plain(name, array) for name, array in readers[path.suffix.lower()](path).items()}
        if not weights:
            raise UserError("holds no tensors; save model.state_dict() to it")
    except UserError as error:
        raise UserError(_one_line(f"{path}: {error}")) from None
    except OSError as error:
        raise UserError(_one_line(f"{path}: cannot be read ({error}); check it, or download it again")) from error
    except Exception as error:  # whatever a malformed file makes the parsers stumble over
        raise UserError(
            _one_line(f"{path}: broken or cut short ({type(error).__name__}: {error}); download or copy it again")
        ) from error
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in weights)), None):
        weights = {name.removeprefix(wrapper): array for name, array in weights.items()}
    return weights


def _one_line(message):
    return " ".join(message.split())[:500]


def _plain(name, array):
    if array.dtype == ml_dtypes.bfloat16:
        return array.astype(np.float32)
    if array.dtype.kind not in "biufc":
        raise UserError(f"entry {name!r} is of type {array.dtype}, not plain numbers; save it as float32")
    if not array.dtype.isnative:
        raise UserError(f"entry {name!r} is big-endian; save it again on a little-endian machine")
    return array


def _check_expansion(path, nbytes):
    if nbytes > EXPANSION * path.stat().st_size:
        raise UserError(f"unfolds to more than {EXPANSION} times its size; save the weights alone, each tensor once")


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()  # of what is compressed otherwise, zipfile unfolds more than it asks for
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise UserError("compressed as NumPy never does it; save it with np.savez")
        _check_expansion(path, sum(entry.file_size for entry in entries))
    arrays = {}
    with np.load(path, allow_pickle=False) as entries:
        for name in entries.files:
            try:
                arrays[name] = entries[name]
            except ValueError as error:
                raise UserError(f"entry {name!r} is no array of numbers ({error}); save it with np.savez") from None
    return arrays


def _read_torch(path):
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if head.startswith(b"PK"):
            return _read_torch_zip(path)
        if head.startswith(b"\x80") and unpickle(file, {}) == LEGACY_MAGIC:
            return _read_torch_legacy(path, file)
    raise UserError(f"no file of torch.save (it starts with {head!r}); download it again or save it with torch.save")


def _read_torch_zip(path):
    """`<name>/data.pkl` is the object, `<name>/data/<key>` the bytes of each storage, nothing compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError(
                "a compressed zip (TorchScript?), which torch.save never writes; use it on model.state_dict()"
            )
        _check_expansion(path, sum(entry.file_size for entry in entries))
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
        if len(roots) != 1:
            raise UserError("a zip without a torch object in it (data.pkl); save it with torch.save")
        (root,) = roots
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise UserError("written on a big-endian machine; save it again on a little-endian one")
        saved = unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), {})
        return _arrays(path, saved, lambda key: archive.read(f"{root}data/{key}"))


def _read_torch_legacy(path, file):
    """Five pickles (magic number, version, machine, object, storage keys), then each storage's count and bytes."""
    version, machine, dtypes = unpickle(file, {}), unpickle(file, {}), {}
    if version != 1001:
        raise UserError("an unknown version of torch's legacy format; save it again with a current torch")
    if machine["little_endian"] is not True:
        raise UserError("written on a big-endian machine; save it again on a little-endian one")
    saved, keys = unpickle(file, dtypes), unpickle(file, {})
    size, places = path.stat().st_size, {}
    for key in keys:
        if not isinstance(key, str) or key not in dtypes:
            raise UserError("holds a storage of an unknown type; save model.state_dict() alone, as float32")
        nbytes = int.from_bytes(file.read(8), "little") * dtypes[key].itemsize
        places[key] = file.tell(), nbytes
        if file.tell() + nbytes > size:
            raise UserError("cut short; download or copy it again")
        file.seek(nbytes, 1)

    def read_storage(key):
        start, nbytes = places[key]
        file.seek(start)
        return file.read(nbytes)

    return _arrays(path, saved, read_storage)


def _arrays(path, saved, read_storage):
    """The tensors of the state dict in `saved`, each copied out of the storage that it looks into."""
    if isinstance(saved, Inert):
        raise UserError(f"holds a whole {saved.name!r}, not weights; save model.state_dict() to it")
    saved = saved if isinstance(saved, dict) else {}
    for state in (saved.get("state_dict"), saved.get("model"), saved):
        if isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values()):
            break
    else:
        raise UserError('no state dict at the top, under "state_dict" or under "model"; save {"state_dict": ...}')
    read_storage, nbytes = functools.cache(read_storage), 0
    for name, tensor in state.items():
        if not (isinstance(tensor, Tensor) and isinstance(tensor.storage, Storage)):
            what = tensor.name if isinstance(tensor, Inert) else type(tensor).__name__
            raise UserError(f"entry {name!r} of the state dict is no plain tensor ({what!r}); remove it and save again")
        numbers = (tensor.offset, tensor.storage.start, *tensor.size, *tensor.stride)
        whole = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
        if not (whole and len(tensor.size) == len(tensor.stride) <= 64):
            raise UserError(f"entry {name!r} has no possible shape; the file is broken, download or copy it again")
        nbytes += math.prod(tensor.size) * tensor.storage.dtype.itemsize
    _check_expansion(path, nbytes)  # before the first array is made: a stride of 0 can ask for any size
    return {name: _array(name, tensor, read_storage(tensor.storage.key)) for name, tensor in state.items()}


def _array(name, tensor, raw):
    dtype, start = tensor.storage.dtype, tensor.storage.start + tensor.offset
    if 0 in tensor.size:
        return np.zeros(tensor.size, dtype)
    end = start + 1 + sum((n - 1) * stride for n, stride in zip(tensor.size, tensor.stride, strict=True))
    if end * dtype.itemsize > len(raw):
        raise UserError(f"entry {name!r} is longer than its storage; the file is broken, download or copy it again")
    flat = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)[start:]
    strides = [stride * dtype.itemsize for stride in tensor.stride]
    return np.array(np.lib.stride_tricks.as_strided(flat, tensor.size, strides), order="C")
