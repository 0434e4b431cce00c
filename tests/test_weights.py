"""Weight files: what torch would have written is read to the bit, and nothing in a file is ever run."""

import collections
import copyreg
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cropjax.errors import UserError
from cropjax.weights import read_weights

# ---------------------------------------------------------------- a torch.save of our own
# The names that a torch pickle refers to; `torch_modules` lends them to the pickler under torch's module names.

KINDS = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}


def _stand_in(module, name):
    return type(name, (), {"__module__": module})


STORAGES = {dtype: _stand_in("torch", f"{kind}Storage") for dtype, kind in KINDS.items()}
CUDA_FLOAT = _stand_in("torch.cuda", "FloatStorage")
REBUILD = _stand_in("torch._utils", "_rebuild_tensor_v2")
PARAMETER = _stand_in("torch._utils", "_rebuild_parameter")
QUANTISED = _stand_in("torch._utils", "_rebuild_qtensor")
MODULE = _stand_in("torch.nn.modules.container", "Sequential")


@pytest.fixture(autouse=True)
def torch_modules(monkeypatch):
    for stand_in in (*STORAGES.values(), CUDA_FLOAT, REBUILD, PARAMETER, QUANTISED, MODULE):
        module = sys.modules.get(stand_in.__module__)
        if not getattr(module, "stand_in", False):
            module = types.ModuleType(stand_in.__module__)
            module.stand_in = True
            monkeypatch.setitem(sys.modules, stand_in.__module__, module)
        setattr(module, stand_in.__name__, stand_in)


class Storage:
    """A flat array, saved under `key`; `view` is (start, length) for a legacy view into it."""

    def __init__(self, key, flat, kind=None, view=None):
        self.key, self.flat, self.view = key, np.asarray(flat), view
        self.kind = kind or STORAGES[self.flat.dtype.name]


class Call:
    """Something that unpickles as `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


def tensor(storage, size, stride, offset=0):
    return Call(REBUILD, storage, offset, size, stride, False, collections.OrderedDict())


def whole(key, array):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(Storage(key, array.ravel()), array.shape, strides)


def _dumps(value, storages, legacy):
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage):
                storages[thing.key] = thing.flat
                view = (f"{thing.key}v", *thing.view) if thing.view else None
                return "storage", thing.kind, thing.key, "cpu", thing.flat.size, *([view] if legacy else [])
            return None

        def reducer_override(self, thing):
            if isinstance(thing, Call):
                return thing.function, thing.args
            return NotImplemented

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def save(path, value, *, legacy=False, byteorder="little", compression=zipfile.ZIP_STORED, splice=None):
    """What torch.save(value, path) writes. `splice` replaces the pickled string "HERE" by opcodes."""
    storages = {}
    pickled = _dumps(value, storages, legacy)
    if splice is not None:
        here = b"X\x04\x00\x00\x00HERE"
        assert pickled.count(here) == 1
        pickled = pickled.replace(here, splice)
    if legacy:
        system = {"protocol_version": 1001, "little_endian": byteorder == "little", "type_sizes": {"int": 4}}
        with path.open("wb") as file:
            for head in (0x1950A86A20F9469CFC6C, 1001, system):
                pickle.dump(head, file, protocol=2)
            file.write(pickled)
            pickle.dump(sorted(storages), file, protocol=2)
            for key in sorted(storages):
                file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
    else:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(f"{path.stem}/data.pkl", pickled)
            archive.writestr(f"{path.stem}/byteorder", byteorder)
            for key, flat in storages.items():
                archive.writestr(f"{path.stem}/data/{key}", flat.tobytes())
            archive.writestr(f"{path.stem}/version", "3\n")
    return path


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    return request.param


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


# ---------------------------------------------------------------- what is read


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_type_and_shape(tmp_path, legacy, data):
    dtype = data.draw(st.sampled_from([name for name in KINDS if name != "bfloat16"]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(dtype, shape))
    order = data.draw(st.permutations(range(array.ndim)))
    entry = whole("0", array)
    entry.args = (*entry.args[:2], *(tuple(part[i] for i in order) for part in entry.args[2:4]), *entry.args[4:])
    read = read_weights(save(tmp_path / "w.pth", {"w": entry}, legacy=legacy))["w"]
    assert read.dtype == array.dtype
    assert read.shape == array.transpose(order).shape
    assert read.tobytes() == array.transpose(order).tobytes()


def test_tensors_that_share_a_storage(tmp_path, legacy):
    flat = np.arange(24, dtype=np.float32)
    base = Storage("7", flat)
    state = {
        "all": tensor(base, (4, 6), (6, 1)),
        "rows": tensor(base, (2, 6), (6, 1), offset=12),
        "every_third": tensor(base, (8,), (3,)),
        "repeated": tensor(base, (2, 3), (1, 0), offset=4),
    }
    read = read_weights(save(tmp_path / "w.pth", collections.OrderedDict(state), legacy=legacy))
    expected = {
        "all": flat.reshape(4, 6),
        "rows": flat[12:].reshape(2, 6),
        "every_third": flat[::3],
        "repeated": [[4, 4, 4], [5, 5, 5]],
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array)
    read["all"][:] = -1
    np.testing.assert_array_equal(read["rows"], expected["rows"])


def test_scalar_parameter_and_bfloat16(tmp_path, legacy):
    half = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    state = {
        "num_batches_tracked": whole("0", np.array(7, np.int64)),
        "parameter": Call(PARAMETER, whole("1", WEIGHT), True, collections.OrderedDict()),
        "half": whole("2", half),
        "old_gpu": tensor(Storage("3", np.ones(2, np.float32), kind=CUDA_FLOAT), (2,), (1,)),
    }
    read = read_weights(save(tmp_path / "w.pt", state, legacy=legacy))
    assert read["num_batches_tracked"].shape == ()
    assert read["num_batches_tracked"].dtype == np.int64
    assert read["num_batches_tracked"] == 7
    np.testing.assert_array_equal(read["parameter"], WEIGHT)
    assert read["half"].dtype == np.float32
    np.testing.assert_array_equal(read["half"], [1.5, -2.0])
    np.testing.assert_array_equal(read["old_gpu"], [1, 1])


def test_a_legacy_view_of_a_storage(tmp_path):
    view = Storage("0", np.arange(10, dtype=np.float32), view=(4, 6))
    path = save(tmp_path / "w.pth", {"w": tensor(view, (2, 2), (2, 1), offset=1)}, legacy=True)
    np.testing.assert_array_equal(read_weights(path)["w"], [[5, 6], [7, 8]])


def test_pairs_as_python_2_wrote_them(tmp_path, legacy):
    pairs = Call(collections.OrderedDict, [["w", whole("0", WEIGHT)], ["b", whole("1", WEIGHT[0])]])
    assert list(read_weights(save(tmp_path / "w.pth", pairs, legacy=legacy))) == ["w", "b"]


def test_pairs_that_are_none_are_no_state_dict(tmp_path, legacy):
    """A list that holds one list many times would unfold to their product."""
    wide = list(range(10_000))
    path = save(tmp_path / "w.pth", Call(collections.OrderedDict, [wide] * 1000), legacy=legacy)
    with pytest.raises(UserError, match=r"w\.pth: .*OrderedDict"):
        read_weights(path)


def test_the_hubs_ending(tmp_path, legacy):
    path = save(tmp_path / "pytorch_model.bin", {"w": whole("0", WEIGHT)}, legacy=legacy)
    np.testing.assert_array_equal(read_weights(path)["w"], WEIGHT)


@pytest.mark.parametrize("place", ["state_dict", "model"])
def test_a_training_checkpoint(tmp_path, legacy, place):
    checkpoint = {
        "meta": {"epoch": 3, "seen": {1, 2}, "config": types.SimpleNamespace(a=[1.5, None, True, b"x"])},
        place: {"module.w": whole("0", WEIGHT), "module.b": whole("1", WEIGHT[0])},
        "optimizer": {"state": {0: {"momentum": whole("2", WEIGHT)}}, (1, 2): np.arange(3)},
    }
    read = read_weights(save(tmp_path / "epoch_3.pth", checkpoint, legacy=legacy))
    assert list(read) == ["w", "b"]
    np.testing.assert_array_equal(read["w"], WEIGHT)


class Keyworded:
    def __new__(cls, *, a):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_all_pickle_protocols(tmp_path, protocol):
    """What lies beside the state dict may come in any protocol; opcodes must not derail the stack."""
    things = [(), (1,), (1, 2, 3, 4), 2**70, -1.5, "ü", b"", bytearray(b"x"), {1}, frozenset({2}), {"a": [True, None]}]
    things += [things[:], types.SimpleNamespace(a=1), collections.deque([1]), np.float32(1), Keyworded(a=1), "x" * 300]
    beside = pickle.dumps(things, protocol)
    start = 2 if protocol >= 2 else 0  # past PROTO
    path = save(tmp_path / "w.pth", {"a": "HERE", "model": {"w": whole("0", WEIGHT)}}, splice=beside[start:-1])
    np.testing.assert_array_equal(read_weights(path)["w"], WEIGHT)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.w", "module.b"], ["w", "b"]),
        (["module._orig_mod.w"], ["w"]),
        (["module.w", "b"], ["module.w", "b"]),
        (["backbone.w", "backbone.b"], ["backbone.w", "backbone.b"]),
    ],
)
def test_a_wrapper_s_prefix(tmp_path, suffix, names, expected):
    path, arrays = tmp_path / f"w{suffix}", dict.fromkeys(names, WEIGHT)
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        save(path, {name: whole(name, WEIGHT) for name in names})
    read = read_weights(path)
    assert sorted(read) == sorted(expected)
    np.testing.assert_array_equal(read[expected[0]], WEIGHT)


def test_safetensors_bfloat16(tmp_path):
    safetensors.numpy.save_file({"w": np.array([1.5], ml_dtypes.bfloat16)}, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")["w"]
    assert (read.dtype, read.item()) == (np.float32, 1.5)


# ---------------------------------------------------------------- hostile pickles


class Reduced:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def _text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def payload(kind, canary):
    """Opcodes that make a plain unpickler create `canary`."""
    command, name = _text(f"touch {canary}"), os.system.__module__.encode()
    match kind:
        case "reduce":
            return pickle.dumps(Reduced(os.system, f"touch {canary}"), 2)[2:-1]
        case "nested":
            inner = {"a": [(1, {"b": Reduced(os.system, f"touch {canary}")})]}
            return pickle.dumps(inner, 2)[2:-1]
        case "eval":
            return pickle.dumps(Reduced(eval, f"open({str(canary)!r}, 'w').close()"), 3)[2:-1]
        case "build":  # an instance whose __setstate__ becomes os.system, then BUILD with the command
            make = b"ctypes\nSimpleNamespace\n)\x81}" + _text("__setstate__") + b"c" + name + b"\nsystem\nsb"
            return make + command + b"b"
        case "inst":
            return b"(" + command + b"i" + name + b"\nsystem\n"
        case "obj":
            return b"(c" + name + b"\nsystem\n" + command + b"o"
        case "dotted":
            return _text("os") + _text("path.os.system") + b"\x93(" + command + b"tR"
        case "extension":
            return b"\x82\xf0(" + command + b"tR"
        case "import":
            return b"ccanary_module\nanything\n"
    raise AssertionError(kind)


HOSTILE = ["reduce", "nested", "eval", "build", "inst", "obj", "dotted", "extension", "import"]


@pytest.fixture
def extension():
    copyreg.add_extension(os.system.__module__, "system", 0xF0)
    yield
    copyreg.remove_extension(os.system.__module__, "system", 0xF0)


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path, monkeypatch, extension):
    """(opcodes, canary): opcodes that were just seen to create the file `canary` in Python's own unpickler."""
    canary = tmp_path / "canary"
    (tmp_path / "canary_module.py").write_text(f"open({str(canary)!r}, 'w').close()\nanything = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = payload(request.param, canary)
    pickle.loads(b"\x80\x04" + code + b".")
    assert canary.exists(), "the payload is a dud"
    canary.unlink()
    sys.modules.pop("canary_module", None)
    return code, canary


def test_nothing_runs_beside_the_state_dict(tmp_path, legacy, hostile):
    code, canary = hostile
    saved = {"meta": "HERE", "state_dict": {"w": whole("0", WEIGHT)}}
    read = read_weights(save(tmp_path / "w.pth", saved, legacy=legacy, splice=code))
    np.testing.assert_array_equal(read["w"], WEIGHT)
    assert not canary.exists()
    assert "canary_module" not in sys.modules


@pytest.mark.parametrize(
    "saved", ["HERE", {"w": "HERE"}, {"w": whole("0", WEIGHT), "v": "HERE"}, {"state_dict": "HERE"}]
)
def test_nothing_runs_in_the_place_of_weights(tmp_path, legacy, hostile, saved):
    code, canary = hostile
    refusal(save(tmp_path / "w.pth", saved, legacy=legacy, splice=code))
    assert not canary.exists()
    assert "canary_module" not in sys.modules


def test_nothing_runs_in_the_parts_of_a_tensor(tmp_path, legacy, hostile):
    code, canary = hostile
    for part in range(4):
        args = [Storage("0", WEIGHT.ravel()), 0, (2, 3), (3, 1), False, None]
        args[part] = "HERE"
        refusal(save(tmp_path / "w.pth", {"w": Call(REBUILD, *args)}, legacy=legacy, splice=code))
    assert not canary.exists()


def test_nothing_runs_in_npz(tmp_path):
    path, canary = tmp_path / "w.npz", tmp_path / "canary"
    np.savez(path, w=np.array([Reduced(os.system, f"touch {canary}")], dtype=object))
    np.load(path, allow_pickle=True)["w"]
    assert canary.exists(), "the payload is a dud"
    canary.unlink()
    assert "'w'" in refusal(path)
    assert not canary.exists()


DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple in a tuple ...
WIDE = b")" + b"2\x86" * 64  # t = (t, t), 64 times: 2**64 leaves to hash


@pytest.mark.parametrize("code", [DEEP, WIDE, b"}" + DEEP + b"Ns", b"}" + WIDE + b"Ns", b"\x8f(" + WIDE + b"\x90"])
def test_nesting_does_no_harm(tmp_path, code):
    saved = {"meta": "HERE", "state_dict": {"w": whole("0", WEIGHT)}}
    np.testing.assert_array_equal(read_weights(save(tmp_path / "w.pth", saved, splice=code))["w"], WEIGHT)
    refusal(save(tmp_path / "w.pth", {"w": tensor(Storage("0", WEIGHT.ravel()), "HERE", (1,))}, splice=code))
    refusal(save(tmp_path / "w.pth", "HERE", splice=code))


# ---------------------------------------------------------------- files that cannot be used


def test_no_such_file_and_unknown_suffix(tmp_path):
    assert "no such file" in refusal(tmp_path / "w.pth")
    (tmp_path / "folder.npz").mkdir()
    assert "no such file" in refusal(tmp_path / "folder.npz")
    (tmp_path / "w.h5").write_bytes(b"x")
    assert ".safetensors" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("page", [b"\n<!DOCTYPE html><html>", b"<html><head>", b'<?xml version="1.0"?><Error>'])
def test_a_web_page(tmp_path, suffix, page):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(page * 20)
    assert "web page" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, b"PK\x03\x04" + bytes(90), b"\x80\x02", pickle.dumps([1], 2)])
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_neither_format(tmp_path, suffix, content):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert "download" in refusal(path)


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_cut_short_anywhere(tmp_path, suffix, legacy):
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(path, w=WEIGHT)
    elif suffix == ".safetensors":
        safetensors.numpy.save_file({"w": WEIGHT}, path)
    else:
        save(path, {"w": whole("0", WEIGHT)}, legacy=legacy)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refusal(path)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_read(tmp_path, legacy, data):
    """Whatever byte is wrong: arrays or a UserError, never another exception."""
    path = save(tmp_path / "w.pth", {"state_dict": {"w": whole("0", WEIGHT)}, "n": [1, {"a": (2,)}]}, legacy=legacy)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read = read_weights(path)
    except UserError:
        read = {}
    assert all(isinstance(array, np.ndarray) for array in read.values())


def test_big_endian(tmp_path, legacy):
    assert "big-endian" in refusal(save(tmp_path / "w.pth", {"w": whole("0", WEIGHT)}, legacy=legacy, byteorder="big"))
    np.savez(tmp_path / "w.npz", w=WEIGHT.astype(">f4"))
    assert "big-endian" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 4), (4, 1), 0),
        ((2, 3), (3, 1), 1),
        ((2,), (6,), 0),
        ((1,), (1,), 6),
        ((2, 3), (1,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        ((2**62,) * 64, (0,) * 64, 0),
        ((2000, 2000), (0, 0), 0),
        ((10**6, 10**6), (0, 0), 0),
        ((1,) * 65, (1,) * 65, 0),
        (6, 1, 0),
        (None, None, None),
        ((2**100,), (1,), 0),
    ],
)
def test_a_tensor_that_its_storage_cannot_hold(tmp_path, legacy, size, stride, offset):
    state = {"w": tensor(Storage("0", WEIGHT.ravel()), size, stride, offset)}
    refusal(save(tmp_path / "w.pth", state, legacy=legacy))


def test_a_storage_that_the_file_lacks(tmp_path):
    path = save(tmp_path / "w.pth", {"w": whole("0", WEIGHT)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("w/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
    assert "w/data/0" in refusal(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_bomb(tmp_path, compression):
    state = {"w": whole("0", np.zeros(10**6, np.float32))}
    assert "compressed" in refusal(save(tmp_path / "w.pth", state, compression=compression))
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros(10**6))
    assert "times its size" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_an_absurd_declared_size(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".npz":
        np.savez(path, w=WEIGHT)
    else:
        save(path, {"w": whole("0", WEIGHT)})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 2**31)  # the uncompressed size
    path.write_bytes(content)
    assert "times its size" in refusal(path)


def test_an_absurd_header_in_npz(tmp_path):
    """The array's own header may promise more than its member has."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    refusal(tmp_path / "w.npz")


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["a"]), np.array([1.5], ml_dtypes.bfloat16)])
def test_npz_entries_that_are_no_numbers(tmp_path, array):
    np.savez(tmp_path / "w.npz", good=WEIGHT, odd=array)
    assert "'odd'" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "header", [b"{}", b"not json", b'{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}']
)
@pytest.mark.parametrize("length", [None, 2**62])
def test_a_safetensors_file_with_a_bad_header(tmp_path, header, length):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length or len(header)) + header + bytes(4))
    refusal(path)


@pytest.mark.parametrize(
    ("saved", "named"),
    [
        ({"epoch": 3}, "state_dict"),
        ([1, 2], "state_dict"),
        ({"state_dict": {}}, "state_dict"),
        (Call(MODULE), "Sequential"),
        ({"state_dict": {"w": whole("0", WEIGHT), "steps": 3}}, "'steps'"),
        ({"state_dict": {"w": whole("0", WEIGHT), "q": Call(QUANTISED, 1)}}, "_rebuild_qtensor"),
        ({"w": whole("0", WEIGHT), "epoch": 3}, "'epoch'"),
        ({"w": tensor("no storage", (1,), (1,))}, "'w'"),
    ],
)
def test_no_state_dict_or_not_of_tensors(tmp_path, legacy, saved, named):
    assert named in refusal(save(tmp_path / "w.pth", saved, legacy=legacy))


def test_an_empty_file_of_weights(tmp_path):
    np.savez(tmp_path / "w.npz")
    assert "no tensors" in refusal(tmp_path / "w.npz")
