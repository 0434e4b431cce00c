"""The other kits: processes in environments of their own, asked over pipes, one JSON object a line in and out.

The script of a kit, `third_party/<kit>/rival.py`, never imports cropjax. It is asked, in this order of life,

    {"do": "load", "network", "size", "align_corners", "weights", "image", "dtype", "optimizer", "threads", ...options}
        -> {"ready": true, "parameters": N, "versions": {...}, "device": "cpu" or the GPU's name}
    {"do": "forward"} -> {"seconds": s}     logits at the head's stride, of images normalised before
    {"do": "logits", "path": "x.npy"} -> {"path": ...}     those, float32 [n,h',w',k]
    {"do": "train"} -> {"seconds": s, "loss": x}     one step, from uint8 images
    {"do": "evaluate", "mode", "window", "stride"} -> {"seconds": s}     class ids at full size
    {"do": "memory"} -> {"peak_bytes": N}
    {"do": "stop"}

or, instead of a network, for the input pipeline

    {"do": "open", "pairs": [[image, label], ...], "batch_size", "cores", "scale", "ratio_range", "crop_size",
        "cat_max_ratio", "flip", "photometric"} -> {"ready": true, "decoding_share": s}
    {"do": "read", "images": N} -> {"seconds": s}

and may answer {"error": "one line"} instead. `weights` is a safetensors file by mmsegmentation's names, `image` an
.npz of uint8 image [n,h,w,3] and label [n,h,w]. A process serves one row of the report, so that its peak of memory is
that row's; between two questions it waits for its standard input, which costs no processor time but for the spinning
of its threads right after work: `Times.idle_cores` says how much.
"""

import contextlib
import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from cropjax.benchmark.machine import cpu_seconds
from cropjax.errors import UserError

ROOT = Path(__file__).parents[2]
PATIENCE = 10  # seconds until a process that should end is ended


NETWORK = ("forward", "train", "evaluate", "scaling")  # suites


class Rival(NamedTuple):
    """How to start a kit, what to tell it, and what it can do."""

    environment: str  # folder, made by `make <environment>/installed`
    script: str
    options: dict
    networks: tuple = ("pspnet", "deeplabv3plus", "segformer", "segnext")
    suites: tuple = NETWORK
    our_weights: bool = True  # and then its logits must be ours


MMSEGMENTATION = (".cache/reference/mmsegmentation", "third_party/mmsegmentation/rival.py")
KERAS_HUB = (".cache/reference/keras_hub", "third_party/keras_hub/rival.py")
RIVALS = {
    "torch": Rival(*MMSEGMENTATION, {"layout": "contiguous", "compile": False}, suites=(*NETWORK, "input")),
    "torch_channels_last": Rival(*MMSEGMENTATION, {"layout": "channels_last", "compile": False}),
    "torch_compile": Rival(*MMSEGMENTATION, {"layout": "channels_last", "compile": True}),
    "keras_hub": Rival(*KERAS_HUB, {}, ("segformer",), ("forward", "train"), our_weights=False),
}


def command_of(name, rival):
    """Interpreter and script; `UserError` where one is missing."""
    python, script = ROOT / rival.environment / "bin/python", ROOT / rival.script
    if not python.exists():
        raise UserError(f"--against {name}: {python} is missing: run `make {rival.environment}/installed`")
    if not script.is_file():
        raise UserError(f"--against {name}: {script} is missing: rivals run from a checkout of cropjax")
    return [python, script]


@contextlib.contextmanager
def running(name, rival):
    """A `Process` of `rival`, which ends with the context: by itself, or by force if it does not."""
    command = command_of(name, rival)
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            child = subprocess.Popen(command, **pipes)
        except OSError as error:
            raise UserError(f"--against {name}: {command[0]} cannot be started ({error.strerror})") from error
        try:
            yield Process(name, child, errors)
        finally:
            _end(child)


def _end(child):
    with contextlib.suppress(OSError):
        child.stdin.write('{"do": "stop"}\n')
        child.stdin.flush()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):  # what it did not read any more
            pipe.close()


class Process:
    """A rival at work. `UserError` for whatever goes wrong on the other side."""

    def __init__(self, name, child, errors):
        self._name, self._child, self._errors = name, child, errors

    def ask(self, do, **message):
        """The answer to one message, a dict."""
        try:
            self._child.stdin.write(json.dumps({"do": do} | message) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except (OSError, UnicodeDecodeError):
            line = ""
        if not line:
            raise self._failed(f"the process ended{self._last_words()}")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failed(f"answered {line.strip()[:80]!r}, which is no JSON object")
        if "error" in answer:
            raise self._failed(" ".join(str(answer["error"]).split()))
        return answer

    def number(self, field, do, **message):
        """One number of an answer: seconds or bytes, finite and above 0."""
        value = self.ask(do, **message).get(field)
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self._failed(f"answered {field} = {value!r} to {do}")
        return value

    def cpu(self):
        return cpu_seconds(self._child.pid)

    def _failed(self, what):
        return UserError(f"--against {self._name}: {what}")

    def _last_words(self):
        """How a process ended, and the last line that it wrote."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(PATIENCE)
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        last = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")
        return f" with status {self._child.poll()}: {last}"
