"""The GPU rows of docs/performance.md: the eight configs of the study in bfloat16, against PyTorch on the same card.

    python tests/show/gpu.py OUT [CONFIG=BATCH ...]

Compiling takes many times as long as measuring, so a few configs compile side by side, each loading its rivals once,
and then each has the card for itself: nothing compiles or loads anywhere while anything is timed. Every row is a line
of OUT/rows.jsonl, where the time goes in a step is in OUT/profiles.txt, and what was printed in OUT/log.txt.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import glob
import gzip
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

AT_ONCE = 2  # what three processes of each hold fits into one card
ROUNDS = 5
PATIENCE = 240  # seconds a config
RIVALS = ("torch_channels_last", "torch_compile")
CONFIGS = (
    "segnext_b_512=8",
    "pspnet_512=8",
    "segformer_b3_512=8",
    "deeplab_512=8",
    "segnext_b_769=4",
    "pspnet_769=4",
    "deeplab_769=4",
    "segformer_b3_769=4",
)


def main(out, chosen):
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}

    def run(name):
        began = time.monotonic()
        with open(out / "log.txt", "a") as log:
            command = [sys.executable, __file__, "--one", str(out), name]
            try:
                code = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=PATIENCE).returncode
            except subprocess.TimeoutExpired:
                code = "late"
        print(f"{name}: {code}, {time.monotonic() - began:.0f} s", flush=True)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, chosen or CONFIGS))


@contextlib.contextmanager
def card(out, *, alone):
    """Shared while something compiles or loads, or alone, which waits for all of those."""
    with open(out / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def one(out, chosen):
    import jax
    import numpy as np

    from cropjax.benchmark.machine import describe, peak_bytes
    from cropjax.benchmark.measure import OURS, Party, alternate, matrix_peak
    from cropjax.benchmark.opponents import Opponents
    from cropjax.benchmark.programs import Programs, count_flop
    from cropjax.benchmark.report import HEADER, Row

    name, _, batch = chosen.partition("=")
    config = runpy.run_path(f"configs/{name}.py")["get_config"]()
    config.train.batch_size, config.train.dtype = int(batch), "bfloat16"
    programs = Programs(config)
    size = tuple(config.data.crop_size)
    batch = programs.batch(config.train.batch_size, size)
    ours = {"forward": programs.forward(batch, "bfloat16"), "train": programs.train(batch)}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with card(out, alone=False):
            opponents = Opponents(RIVALS, programs, Path(folder))
            rivals = {rival: stack.enter_context(opponents.process(rival, batch, "bfloat16")) for rival in RIVALS}

            path = Path(folder, "logits.npy")

            def warm(rival):
                if rival == RIVALS[0]:
                    rivals[rival].ask("logits", path=str(path))  # before it trains
                for do in ours:
                    for _ in range(2):
                        rivals[rival].number("seconds", do)

            threads = [threading.Thread(target=warm, args=(rival,)) for rival in RIVALS]
            for thread in threads:
                thread.start()
            began = time.monotonic()
            for program in ours.values():
                program.run(), program.run()
            compiled = time.monotonic() - began
            flop = {do: count_flop(program.jitted, *program.arguments) for do, program in ours.items()}
            for thread in threads:
                thread.join()
            theirs = np.load(path)
            logits = np.asarray(ours["forward"].jitted(*ours["forward"].arguments), np.float32)
            difference = float(np.abs(logits - theirs).max() / np.abs(theirs).max())
        with card(out, alone=True):
            peak = matrix_peak("bfloat16", 8192)
            print(f"{name}: compiled in {compiled:.0f} s, logits differ by {difference:.1e} of the largest")
            print(HEADER)
            for do, program in ours.items():
                parties = {OURS: Party(program.seconds, time.process_time)}
                for rival, process in rivals.items():
                    parties[rival] = Party(partial(process.number, "seconds", do), process.cpu)
                times = alternate(parties, ROUNDS, Silent())
                memory = {OURS: peak_bytes()} | {r: p.number("peak_bytes", "memory") for r, p in rivals.items()}
                what = f"{name} {config.train.batch_size}"
                row = Row(do, what, times, flop[do], peak, memory if do == "train" else {})  # the larger of both
                print(*row.lines(), sep="\n")
                found = {"config": name, "batch": config.train.batch_size, "logits_difference": difference}
                found |= {"compile_seconds": compiled, "machine": describe(), "rivals": opponents.about}
                with open(out / "rows.jsonl", "a") as file:
                    file.write(json.dumps(found | row.json()) + "\n")
            trace = Path(folder, "trace")
            with jax.profiler.trace(str(trace)):
                ours["train"].run(), ours["train"].run()
        with open(out / "profiles.txt", "a") as file:
            print(f"=== {name}", *where_time_goes(trace, 2), sep="\n", file=file)
        with gzip.open(out / f"{name}.hlo.gz", "wt") as file:
            file.write(ours["train"]._compiled.as_text())


class Silent:
    def update(self, done):
        pass


def where_time_goes(trace, steps, most=60):
    """Lines of milliseconds a step, kernel by kernel."""
    import jax

    (file,) = glob.glob(f"{trace}/**/*.xplane.pb", recursive=True)
    for plane in jax.profiler.ProfileData.from_file(file).planes:
        for line in plane.lines if "GPU" in plane.name else ():
            total, count = collections.Counter(), collections.Counter()
            for event in line.events:
                key = f"{event.name[:70]} | {dict(event.stats).get('hlo_op', '')}"
                total[key] += event.duration_ns / 1e6 / steps
                count[key] += 1 / steps
            yield f"{sum(total.values()):9.3f} ms {sum(count.values()):6.0f} {line.name}"
            for key, milliseconds in total.most_common(most):
                yield f"{milliseconds:9.3f} ms {count[key]:6.0f} {key}"


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(Path(sys.argv[2]), sys.argv[3])
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
