"""The promises of SECURITY.md: what comes from outside is data, stays in its folder, and nothing of ours listens."""

import ast
import contextlib
import html.parser
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from command import command
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_config

import cropjax
from cropjax import commandline, distributed
from cropjax.config import build_model
from cropjax.convert import load_torch_state, write_safetensors
from cropjax.data import archives, browse, files, prepare, store
from cropjax.data.labels import CAMVID
from cropjax.data.sources import FILES, CamVid, Cityscapes
from cropjax.errors import UserError
from cropjax.pages.figure import draw
from cropjax.pages.page import as_html
from cropjax.pages.section import Section, Table
from cropjax.step import split_model
from cropjax.train import train
from cropjax.unpickle import unpickle
from cropjax.weights import read_weights

MODULES = sorted(Path(cropjax.__file__).parent.rglob("*.py"))
MARKUP = "\"><img src=x onerror=alert(1)>&'<script>x</script>`<script>y</script>`</svg>"

# ---- what the code can do at all -------------------------------------------------------------------------------------


def names_in(path):
    """What a module imports, and what it calls by its last name: {"pickle", "pickle.loads", ...}, [ast.Call, ...]."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return imported, [node for node in nodes if isinstance(node, ast.Call)]


def called(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(MODULES[0].parent)))
def test_no_module_unpickles_unpacks_evaluates_or_serves(path):
    imported, calls = names_in(path)
    roots = {name.partition(".")[0] for name in imported}
    assert not roots & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "xml", "tarfile"}
    assert not roots & {"torch", "tensorflow", "socketserver", "http", "xmlrpc", "grpc", "flask", "requests"}
    assert "urllib.request" not in imported
    unwanted = {"eval", "exec", "system", "popen", "extract", "extractall", "unpack_archive", "listen", "create_server"}
    unwanted |= {"start_server", "start_http_server"}
    assert not unwanted & {called(call) for call in calls if not isinstance(call.func, ast.Attribute)}
    assert not unwanted - {"eval", "exec"} & {called(call) for call in calls}
    for call in calls:
        given_by_name = {keyword.arg: keyword.value for keyword in call.keywords}
        if "allow_pickle" in given_by_name:
            assert given_by_name["allow_pickle"].value is False
        if called(call) == "load" and getattr(call.func.value, "id", "") == "np":
            assert len(call.args) == 1  # the third would be allow_pickle
        if called(call) == "initialize" and getattr(call.func.value, "attr", "") == "distributed":
            assert "coordinator_bind_address" in given_by_name
        assert "shell" not in given_by_name


# ---- weight files ----------------------------------------------------------------------------------------------------


class Gadget:
    """Unpickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def gadgets(canary):
    """Objects, and pickles, of which each creates the file `canary` when it is unpickled."""
    python = f"open({str(canary)!r}, 'w').close()"
    shell = f"touch {canary}"
    return {
        "os.system": Gadget(os.system, shell),
        "eval": Gadget(eval, python),
        "exec": Gadget(exec, python),
        "import": Gadget(eval, f"__import__('os').system({shell!r})"),
        "getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR(V%b\ntR." % shell.encode(),
        "subprocess": Gadget(subprocess.check_call, ["touch", str(canary)]),
        "nested": {"state_dict": {"a": [({"b": Gadget(os.system, shell)},)]}},
        "beside": {"meta": Gadget(os.system, shell), "state_dict": {}},
    }


def in_zip(path, pickled, **more):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickled)
        for name, data in more.items():
            archive.writestr(f"w/data/{name[1:]}", data)
    return path


# {"w": a tensor of 2 x 3 floats}, as torch.save writes it with protocol 2
GOOD = (
    b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)R"
    b"tRs."
)
LEGACY = (pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2))


@pytest.fixture
def events(_events):
    """What the interpreter is asked to do, of what weights never need; see Python's table of audit events."""
    _events.clear()
    yield _events
    _events.armed = False


class _Events(list):
    armed = False

    def hear(self, event, args):
        if self.armed and event in UNWANTED:
            self.append((event, args))


UNWANTED = {"pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen"}


@pytest.fixture(scope="module")
def _events():
    heard = _Events()
    sys.addaudithook(heard.hear)  # which cannot be taken away again
    return heard


def read(path, events):
    """The weights, or None for a `UserError` of one line."""
    events.armed = True
    try:
        return read_weights(path)
    except UserError as error:
        message = str(error)
    finally:
        events.armed = False
    assert "\n" not in message
    assert len(message) <= 500
    return None


@pytest.mark.parametrize("kind", gadgets("canary"))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_data(tmp_path, events, kind, protocol):
    canary = tmp_path / "canary"
    pickled = gadgets(canary)[kind]
    pickled = pickled if isinstance(pickled, bytes) else pickle.dumps(pickled, protocol)
    pickle.loads(pickled)
    assert canary.exists(), "the gadget is a dud"
    canary.unlink()
    paths = [in_zip(tmp_path / "zip.pth", pickled, _0=bytes(24)), tmp_path / "legacy.pth", tmp_path / "plain.pt"]
    paths[1].write_bytes(b"".join(LEGACY) + pickled + pickle.dumps([], 2))
    paths[2].write_bytes(pickled)
    for path in paths:
        assert read(path, events) is None
    assert not canary.exists()
    assert events == []


def test_a_command_says_so_in_one_line(tmp_path, events):
    canary = tmp_path / "canary"
    path = in_zip(tmp_path / "w.pth", pickle.dumps(gadgets(canary)["os.system"]))
    done = command(
        "cropjax.convert", "--config", "configs/demo.py", "--weights", path, "--out", tmp_path / "o.safetensors"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"cropjax: {path}: ")
    assert sorted(tmp_path.iterdir()) == [path]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_mutation_does_anything_but_give_weights_or_an_error(tmp_path, events, data):
    code = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(code) - 1))
        match data.draw(st.sampled_from(["change", "insert", "cut", "repeat"])):
            case "change":
                code[place] = data.draw(st.sampled_from(list(b"cR\x81\x93b)tQqh(2}]0.\x8d\x8e\x95\xff")))
            case "insert":
                code[place:place] = data.draw(
                    st.sampled_from([b"cos\nsystem\n", b"X\xff\xff\xff\x7f", b"\x8a\xff", b"R"])
                )
            case "cut":
                del code[place : place + data.draw(st.integers(1, 9))]
                code = code or bytearray(b".")
            case "repeat":
                code[place:place] = code[place:] * data.draw(st.integers(1, 3))
    raw = {"_0": np.arange(6, dtype="<f4").tobytes()}
    found = peak(lambda: read(in_zip(tmp_path / "w.pth", bytes(code), **raw), events), 8 << 20)
    assert found is None or all(isinstance(array, np.ndarray) for array in found.values())
    assert events == []


def test_the_good_file_is_good(tmp_path, events):
    """Or the mutations would tell nothing."""
    raw = np.arange(6, dtype="<f4").tobytes()
    np.testing.assert_array_equal(
        read(in_zip(tmp_path / "w.pth", GOOD, _0=raw), events)["w"], np.arange(6, dtype="<f4").reshape(2, 3)
    )


def peak(function, most):
    """The function's result; it must not take more than `most` bytes."""
    tracemalloc.start()
    try:
        result = function()
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    return result


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string


PAIRS = b"](" + b"".join(text(b"%d" % i) + b"N\x86" for i in range(1000)) + b"e"
ORDERED = b"ccollections\nOrderedDict\n"
BOMBS = {
    "one list, many dicts": b"\x80\x02(" + ORDERED + b"q\0" + PAIRS + b"q\1" + b"h\0h\1\x85R" * 1000 + b"t.",
    "one list that is none": b"\x80\x02(" + ORDERED + b"q\0" + PAIRS + b"Naq\1" + b"h\0h\1\x85R" * 1000 + b"t.",
    "one word, many names": b"\x80\x04(" + text(b"x" * 10_000) + b"q\0" + b"h\0h\0\x93" * 1000 + b"t.",
    "a string of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "a number of two gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_pickle_takes_memory_in_proportion(kind):
    def read_it():
        with contextlib.suppress(ValueError, TypeError, EOFError):
            unpickle(io.BytesIO(BOMBS[kind]), {})

    peak(read_it, 4 << 20)


def test_a_storage_of_absurd_size(tmp_path, events):
    for count, size in ((b"\x8a\x08" + struct.pack("<q", 2**62), b"K\x02"), (b"K\x06", b"J\xff\xff\xff\x7f")):
        code = GOOD.replace(b"K\x06t", count + b"t").replace(b"K\x00K\x02", b"K\x00" + size)
        for more in ({"_0": bytes(24)}, {}):
            peak(lambda code=code, more=more: read(in_zip(tmp_path / "w.pth", code, **more), events), 1 << 20)


def lying(path, member, data, compression, size):
    """An archive that says of a member that it unfolds to `size` bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(member, data)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_lies_about_its_size(tmp_path, events, compression):
    data = io.BytesIO()
    np.save(data, np.zeros(16 << 20, np.uint8))
    path = lying(tmp_path / "w.npz", "w.npy", data.getvalue(), compression, 136)
    assert peak(lambda: read(path, events), 4 << 20) is None


def test_an_object_array_is_refused(tmp_path, events):
    canary = tmp_path / "canary"
    np.savez(tmp_path / "w.npz", w=np.array([Gadget(os.system, f"touch {canary}")], dtype=object))
    assert read(tmp_path / "w.npz", events) is None
    assert not canary.exists()
    assert events == []


def test_names_of_parameters_are_no_paths(tmp_path):
    """They are compared with those of the network, and else are keys in a file."""
    arrays = {name: np.zeros(2, np.float32) for name in ("../../escaped", "/etc/passwd", "a\0b\n<script>", "C:\\x")}
    write_safetensors(tmp_path / "w.safetensors", arrays, {})
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.keys() == arrays.keys()
    with pytest.raises(UserError, match=r"has") as caught:
        load_torch_state(split_model(build_model(tiny_config()))[1], weights)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


# ---- archives and pictures -------------------------------------------------------------------------------------------


def png(h=8, w=8, channels=3):
    file = io.BytesIO()
    Image.fromarray(np.zeros((h, w, channels) if channels > 1 else (h, w), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "name",
    ["../x.png", "a/../../x.png", "/etc/x.png", "//host/x.png", "C:\\x.png", "C:/x.png", "a\\..\\x.png", "..", "a/.."],
)
def test_an_archive_with_a_path_out_of_it_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, png())
    with pytest.raises(UserError, match=r"a.zip: holds a file with the path .* not the official one") as caught:
        archives.members(tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_nothing_of_an_archive_is_unpacked(tmp_path):
    """Links, names with NUL, very long ones and those of devices are read in place, as what they hold."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret_leftImg8bit.png").write_bytes(png())
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        with zipfile.ZipFile(root / f"{kind}_trainvaltest.zip", "w") as archive:
            for stem in ("a" * 30_000, "null", "CON"):
                member = f"{kind}/train/city/{stem}_{ending}.png"
                archive.writestr(member, png(channels=3 if kind == "leftImg8bit" else 1))
            link = zipfile.ZipInfo(f"{kind}/train/city/link_{ending}.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, str(tmp_path / "secret_leftImg8bit.png"))
            archive.writestr(f"{kind}/train/city/nul\0/../../x_{ending}.png", b"x")
    before = sorted(tmp_path.rglob("*"))
    source = Cityscapes(root, "train")
    assert len(source) == 4
    for i, (name, *_) in enumerate(source.files):
        if name == "link":
            with pytest.raises(UserError, match="neither PNG nor JPEG"):
                source[i]
        else:
            assert source[i]["image"].shape == (8, 8, 3)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("size", [100, 2**31 - 1])
def test_a_zip_bomb_is_not_unfolded(tmp_path, compression, size):
    path = lying(tmp_path / "a.zip", "x.png", bytes(16 << 20), compression, size)
    (member,) = archives.members(path)

    def read_it():
        with pytest.raises(UserError, match=r"a.zip/x.png: "):
            files.read_image(member)

    peak(read_it, 4 << 20)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_bomb():
    """16000 x 16000 pixels in 700 bytes, with a header that Pillow cannot read and OpenCV can."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    data = file.getvalue()
    data = data[:2] + b"\xff\xe0\0\6JFIF" + data[4 + int.from_bytes(data[4:6], "big") :]
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", 16_000, 16_000) + data[size + 4 :]


def png_bomb(side):
    """A second header, larger than the first."""
    headers = [chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, depth, 0, 0, 0, 0)) for n, depth in ((4, 16), (side, 8))]
    parts = *headers, chunk(b"IDAT", zlib.compress(bytes(36))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("data", [jpeg_bomb(), png_bomb(13_000), png_bomb(60_000)], ids=["jpeg", "png", "larger png"])
@pytest.mark.parametrize("read_it", [files.read_image, files.read_values, files.Colours(CAMVID.palette)])
def test_a_picture_that_hides_its_size(tmp_path, data, read_it):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match=r"x.png: cannot be decoded"):
        read_it(tmp_path / "x.png")


# ---- prepared data sets ----------------------------------------------------------------------------------------------

HOSTILE_NAMES = ["../../../escaped", f"/tmp/{MARKUP}"]


class Renamed(CamVid):
    """A data set whose records have hostile names."""

    def __init__(self, root, split):
        super().__init__(root, split)
        self.files = [(name, *pair[1:]) for name, pair in zip(HOSTILE_NAMES, self.files, strict=True)]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        for folder, channels in ((split, 3), (f"{split}annot", 1)):
            (root / folder).mkdir(parents=True)
            for name in "ab":
                (root / folder / f"{name}.png").write_bytes(png(40, 40, channels))
    monkeypatch.setitem(FILES, "camvid", Renamed)
    prepare.prepare("camvid", root, tmp_path / "data" / "store")
    return tmp_path / "data" / "store"


def test_names_of_records_are_no_paths(prepared, tmp_path, events):
    before = set(tmp_path.rglob("*"))
    assert {path.parent for path in before if "store" in path.name} <= {prepared.parent}
    assert [record["name"] for record in store.open_tfds(prepared, "train", "camvid", CAMVID)] == HOSTILE_NAMES
    config = tiny_config(source="camvid", root=str(prepared), train_split="train")
    browse.browse(config, tmp_path / "out" / "deep" / "sheets", 4)
    made = set(tmp_path.rglob("*")) - before
    assert {path for path in made if path.is_file()} == {tmp_path / "out" / "deep" / "sheets" / "000.png"}


EVIL = "store.evil.Text"


@pytest.mark.parametrize(
    "feature",
    [
        {"pythonClassName": EVIL, "text": {}},
        {"python_class_name": EVIL, "text": {}},
        {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "jsonFeature": {"json": json.dumps({"x": {"type": EVIL, "content": {}}})},
        },
        None,
    ],
    ids=["camel", "snake", "nested", "legacy"],
)
def test_a_data_set_imports_nothing(prepared, monkeypatch, feature):
    """TFDS would: a module in the data set's own folder, where that lies below the working folder."""
    canary = prepared.parent / "canary"
    (prepared / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(prepared.parent)
    content = json.loads((prepared / "features.json").read_text())
    if feature:
        content["featuresDict"]["features"]["name"] = feature
    else:
        content |= {"type": EVIL, "content": {}}
    (prepared / "features.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Unrecognized"):
        tfds.builder_from_directory(prepared)
    assert canary.exists(), "the attack is a dud"
    canary.unlink()
    for name in ("store.evil", "store"):
        sys.modules.pop(name, None)
    with pytest.raises(UserError, match=r"features.json names 'store.evil.Text', no feature"):
        store.open_tfds(prepared, "train", "camvid", CAMVID)
    assert not canary.exists()
    assert "store.evil" not in sys.modules


@pytest.mark.parametrize("folder", ["/etc/", "../", "sub/../../", "{DATASET}/../"])
def test_a_data_set_is_read_from_its_folder_alone(prepared, folder):
    content = json.loads((prepared / "dataset_info.json").read_text())
    for split in content["splits"]:
        split["filepathTemplate"] = folder + split["filepathTemplate"]
    (prepared / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"says that .* belongs to it"):
        store.open_tfds(prepared, "train", "camvid", CAMVID)


# ---- pages -----------------------------------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, value in attributes if name.startswith("on") or "script:" in (value or "")]


@given(st.text("<>\"'`&/ax", max_size=12))
@settings(max_examples=20)
@example(MARKUP)
def test_a_page_shows_names_as_text(name):
    """Of a config file, a run, a layer, a class or a record, wherever one may come."""
    assert [tag for tag in tags_of(name) if tag != "code"] == tags_of("t")


def tags_of(name):
    """Of a page in which everything is called `name`."""
    table = Table(name, (name,), ((name,),))
    page = _Page()
    page.feed(as_html(name, {name: name}, [Section(name, name, (table,), "<svg></svg>", name)]))
    return page.tags


def test_a_figure_shows_names_as_text():
    def paint(axes):
        axes[0, 0].set(title=MARKUP, xlabel=MARKUP)
        axes[0, 0].plot([1, 2], label=MARKUP)
        axes[0, 0].legend()

    page = _Page()
    page.feed(draw(1, 1, paint))
    assert not {"script", "img", "a", "image"} & set(page.tags)


# ---- ports -----------------------------------------------------------------------------------------------------------


def listening():
    """Addresses at which this process and its children accept connections."""
    processes = [Path("/proc/self"), *(p for p in Path("/proc").glob("[0-9]*") if parent_of(p) == os.getpid())]
    sockets = {link for process in processes for link in links(process / "fd")}
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path("/proc/self/net", kind).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1])
    return found


def parent_of(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None


def links(folder):
    for path in folder.glob("*"):
        try:
            yield os.readlink(path)
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="asks Linux")
def test_a_run_opens_no_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"0100007F:{server.getsockname()[1]:04X}"
        assert port in listening(), "nothing would be found"
    before, found, done = listening(), set(), threading.Event()
    config = tiny_config()
    config.train.update(steps=1, log_every=1)
    config.eval.update(every=1, modes=("whole",))

    def watch():
        while not done.wait(0.1):
            found.update(listening())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        train(config, tmp_path / "run")
    finally:
        done.set()
        watcher.join()
    assert found | listening() <= before


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_coordinator_for_one_machine_is_for_it_alone(monkeypatch, host):
    """JAX's own would listen at every address; its arguments are looked at, for it can start only once."""
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **more: given.update(more))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    names = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
    distributed.join(dict(zip(names, (f"{host}:1234", "2", "0"), strict=True)))
    assert given["coordinator_bind_address"] == f"{host}:1234"


def test_where_one_machine_has_all_processes_the_coordinator_is_for_it_alone(monkeypatch):
    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **more: given.extend([*args, more]))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    environ = {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "1212", strict=True)}
    distributed.join(environ | {"JAX_COORDINATOR_ADDRESS": "192.0.2.2:1234"})
    assert given[0] == given[1]["coordinator_bind_address"] == "127.0.0.1:1234"


@pytest.mark.parametrize(
    ("mode", "owner", "used"), [(0o755, 0, True), (0o775, 0, True), (0o777, 0, False), (0o755, 1, False)]
)
def test_compiled_programs_of_others_are_not_run(tmp_path, monkeypatch, mode, owner, used):
    folder = tmp_path / ".xla-cache"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + owner)
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *args: updates.append(args))
    commandline._cache_programs(folder)
    assert updates == [("jax_compilation_cache_dir", str(folder))] * used


def test_a_message_is_one_line_that_no_terminal_obeys(capsys):
    def fail():
        raise UserError("no \x1b[31mrecord\n\x07 é")

    with pytest.raises(SystemExit):
        commandline._guarded(fail)
    assert capsys.readouterr().err == "cropjax: no \\x1b[31mrecord\\n\\x07 é\n"
