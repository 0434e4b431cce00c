"""Weight files read as data: torch's `.pth`, `.safetensors` and `.npz`, without torch.

A `.pth` file holds a pickle, and a pickle is a program that may call anything. Here it is interpreted by a stack machine
of our own that has no way to import or to call: the few names that describe tensors have a meaning, every other
name stands for itself. So a training checkpoint full of its framework's objects can be read, and a hostile file
can do nothing. The opcodes are documented in Python's `pickletools`, the two layouts of `torch.save` in
torch/serialization.py (`_save`, and `_legacy_save` up to torch 1.5).
"""

import dataclasses
import functools
import math
import pathlib
import pickletools
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from cropjax.errors import UserError

DTYPES = {
    f"{module}.{kind}Storage": np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for kind, dtype in {
        "Double": "<f8",
        "Float": "<f4",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
        "ComplexFloat": "<c8",
        "ComplexDouble": "<c16",
    }.items()
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning, torch.compile
EXPANSION = 8  # a file that unfolds to more than this many times its size is an attack, not weights


def read_weights(path):
    """The state dict in a `.pth`, `.pt`, `.safetensors` or `.npz` file, as name -> array that owns its memory.

    A `.pth` file may hold the state dict itself, or have it under "state_dict" (mmsegmentation) or "model" (timm,
    DETR); what lies beside it is ignored. A prefix from `WRAPPERS` that all names share is removed. bfloat16
    becomes float32, every other type stays.

    Raises:
        UserError: no file, not such a file, broken, big-endian, or with an entry that is no plain tensor.
    """
    path = pathlib.Path(path)
    readers = {".pth": _read_torch, ".pt": _read_torch, ".safetensors": _read_safetensors, ".npz": _read_npz}
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
        raise UserError(f"unfolds to {nbytes:.2e} bytes, over {EXPANSION} times its size; save the weights again")


def _read_safetensors(path):
    return safetensors.numpy.load_file(path)


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        _check_expansion(path, sum(entry.file_size for entry in archive.infolist()))
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
        if head.startswith(b"\x80") and _unpickle(file, {}) == LEGACY_MAGIC:
            return _read_torch_legacy(path, file)
    raise UserError(f"no file of torch.save (it starts with {head!r}); download it again or save it with torch.save")


def _read_torch_zip(path):
    """`<name>/data.pkl` is the object, `<name>/data/<key>` the bytes of each storage, nothing compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UserError("a compressed zip, which torch.save never writes; save it again with torch.save")
        _check_expansion(path, sum(entry.file_size for entry in entries))
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
        if len(roots) != 1:
            raise UserError("a zip without a torch object in it (data.pkl); save it with torch.save")
        (root,) = roots
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise UserError("written on a big-endian machine; save it again on a little-endian one")
        with archive.open(f"{root}data.pkl") as pickled:
            saved = _unpickle(pickled, {})
        return _arrays(path, saved, lambda key: archive.read(f"{root}data/{key}"))


def _read_torch_legacy(path, file):
    """Five pickles (magic number, version, machine, object, storage keys), then each storage's count and bytes."""
    version, machine, dtypes = _unpickle(file, {}), _unpickle(file, {}), {}
    if version != 1001:
        raise UserError("an unknown version of torch's legacy format; save it again with a current torch")
    if machine["little_endian"] is not True:
        raise UserError("written on a big-endian machine; save it again on a little-endian one")
    saved, keys = _unpickle(file, dtypes), _unpickle(file, {})
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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Inert:
    """A global of the pickle or whatever would have come of calling it: a name, nothing more."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Storage:
    key: str
    dtype: np.dtype
    start: int  # elements; legacy files may hold a storage that is a view into another


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    storage: _Storage
    offset: int  # elements, as the strides
    size: tuple
    stride: tuple


def _arrays(path, saved, read_storage):
    """The tensors of the state dict in `saved`, each copied out of the storage that it looks into."""
    if isinstance(saved, _Inert):
        raise UserError(f"holds a whole {saved.name!r}, not weights; save model.state_dict() to it")
    saved = saved if isinstance(saved, dict) else {}
    for state in (saved.get("state_dict"), saved.get("model"), saved):
        if isinstance(state, dict) and any(isinstance(value, _Tensor) for value in state.values()):
            break
    else:
        raise UserError('no state dict at the top, under "state_dict" or under "model"; save {"state_dict": ...}')
    read_storage, nbytes = functools.cache(read_storage), 0
    for name, tensor in state.items():
        if not (isinstance(tensor, _Tensor) and isinstance(tensor.storage, _Storage)):
            what = tensor.name if isinstance(tensor, _Inert) else type(tensor).__name__.strip("_")
            raise UserError(f"entry {name!r} of the state dict is no plain tensor ({what!r}); remove it and save again")
        numbers = (tensor.offset, tensor.storage.start, *tensor.size, *tensor.stride)
        if len(tensor.size) != len(tensor.stride) or len(tensor.size) > 64:
            raise ValueError(f"the shape of entry {name!r}")
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError(f"the shape of entry {name!r}")
        nbytes += math.prod(tensor.size) * tensor.storage.dtype.itemsize
    _check_expansion(path, nbytes)  # before the first array is made: a stride of 0 can ask for any size
    return {name: _array(name, tensor, read_storage(tensor.storage.key)) for name, tensor in state.items()}


def _array(name, tensor, raw):
    dtype, start = tensor.storage.dtype, tensor.storage.start + tensor.offset
    end = start + 1 + sum((n - 1) * stride for n, stride in zip(tensor.size, tensor.stride, strict=True))
    if 0 in tensor.size:
        return np.zeros(tensor.size, dtype)
    if end * dtype.itemsize > len(raw):
        raise UserError(f"entry {name!r} is longer than its storage; the file is broken, download or copy it again")
    flat = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)[start:]
    strides = [stride * dtype.itemsize for stride in tensor.stride]
    return np.array(np.lib.stride_tricks.as_strided(flat, tensor.size, strides), order="C")


def _unpickle(file, dtypes):
    """Interprets one pickle of `file` up to its STOP; fills `dtypes` with storage key -> dtype.

    Dicts keep their string keys only: no tensor has another name, and hashing a nested tuple of a hostile file could
    take for ever. Sets and instances are inert. Nothing here recurses, so depth is no danger.
    """
    stack, marks, memo = [], [], {}

    def since_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, arg, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(arg)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(arg)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BYTEARRAY8":
                stack.append(arg)
            case "MARK":
                marks.append(len(stack))
            case "POP_MARK":
                since_mark()
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(since_mark())
            case "APPEND" | "APPENDS":
                items = since_mark() if opcode.name == "APPENDS" else [stack.pop()]
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_set_items({}, since_mark()))
            case "SETITEM":
                stack[-2:] = []
            case _:
                raise ValueError(f"opcode {opcode.name}")
    raise ValueError("no STOP")
