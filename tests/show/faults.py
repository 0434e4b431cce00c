"""Injects faults into runs of two processes at random moments, and looks at what is left; makes a table.

    python tests/show/faults.py [--count 50] [--seed 0]

Needs root on Linux: file systems of its own (tmpfs) that are full or read-only, and two network namespaces between
which the link is cut. Runs of a tiny network are disturbed again and again, each going on from the last; every chain
of faults must end with the weights of a run that nothing has disturbed, bit for bit. Of each fault the table says how
the processes ended, after how many seconds, and how many steps were lost. Exit status 1 if anything hung for more than
60 s, lost more than a checkpoint interval, or ended with other weights.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from command import environments
from tiny_run import get_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "tiny_run.py"
TOTAL, EVERY = 160, 8
KINDS = ("kill", "stop", "term", "usr1", "cut", "full", "full-kill", "read-only", "damage")
OF_DISKS = ("full", "full-kill", "read-only")
NETWORKS, HOSTS = ("cropjax0", "cropjax1"), ("10.77.7.1", "10.77.7.2")
MOUNT_BYTES = 24 << 20


def sh(*command, check=True):
    return subprocess.run(command, check=check, capture_output=True, text=True)


def make_networks():
    """Two namespaces with a link between them, in each of which this machine's name is its own address."""
    remove_networks()
    name = sh("hostname").stdout.strip()
    for network, host in zip(NETWORKS, HOSTS, strict=True):
        sh("ip", "netns", "add", network)
        folder = Path("/etc/netns", network)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{host} {name}\n")
    sh("ip", "link", "add", "cj0", "netns", NETWORKS[0], "type", "veth", "peer", "name", "cj1", "netns", NETWORKS[1])
    for i, (network, host) in enumerate(zip(NETWORKS, HOSTS, strict=True)):
        sh("ip", "-n", network, "addr", "add", f"{host}/24", "dev", f"cj{i}")
        sh("ip", "-n", network, "link", "set", f"cj{i}", "up")
        sh("ip", "-n", network, "link", "set", "lo", "up")


def remove_networks():
    for network in NETWORKS:
        sh("ip", "netns", "del", network, check=False)
        shutil.rmtree(Path("/etc/netns", network), ignore_errors=True)


class Run:
    """Two processes of a run in `workdir`, their output in files beside it."""

    def __init__(self, workdir, number, logs, *, networks=False):
        self.workdir, self.processes, self.logs = workdir, [], []
        for index, place in enumerate(environments(2, HOSTS[0] if networks else "127.0.0.1")):
            environment = os.environ | place | {"CROPJAX_SAVED_STATUS": "75"}
            command = [sys.executable, "-m", "cropjax.main", f"--config={CONFIG}", f"--workdir={workdir}"]
            command += [f"--config.train.steps={TOTAL}", f"--config.train.checkpoint_every={EVERY}"]
            command += ["--config.eval.every=40", f"--config.train.patience={45.0}"]
            if networks:
                command = ["ip", "netns", "exec", NETWORKS[index], *command]
            self.logs.append(logs / f"{number}.{index}.log")
            with self.logs[-1].open("w") as log:
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT))

    def step(self):
        return last_step(self.workdir)

    def reached(self):
        """The last step that it has told of, on whatever disk."""
        said = re.findall(rf"(?:train +|step )(\d+)(?:/{TOTAL}|:)", self.text())
        return max(self.step(), *map(int, said), 0)

    def wait_until(self, condition):
        """Or until a process has ended."""
        end = time.monotonic() + 180
        while not condition() and all(process.poll() is None for process in self.processes):
            if time.monotonic() > end:
                raise TimeoutError(self.text())
            time.sleep(0.01)

    def wait_for(self, step):
        self.wait_until(lambda: self.step() >= step)

    def text(self):
        return "\n".join(log.read_text() for log in self.logs)

    def resumed(self):
        """The step that it goes on from, all of them if the fault has come after the last; what it prints tells."""
        said, end = None, time.monotonic() + 120
        while said is None and time.monotonic() < end:
            time.sleep(0.05)
            said = re.search(r"resuming after step (\d+)|(finished already)|first step starts", self.text())
        return TOTAL if said and said[2] else int(said[1] or 0) if said else 0

    def ended(self, timeout):
        """Seconds until all have ended, infinite if they have not within `timeout`."""
        began = time.monotonic()
        for process in self.processes:
            try:
                process.wait(max(began + timeout - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                return float("inf")
        return time.monotonic() - began

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def statuses(self):
        return [process.poll() for process in self.processes]


def last_step(workdir):
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines[-3:] if line.endswith("}")), default=0)
    except (OSError, ValueError):
        return 0


def saved_steps(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []


def mounted(folder):
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "tmpfs", str(folder))
    return folder / "run"


def fill_disk(run):
    """Until a save has found no room; the file that fills it.

    Again after a save that found some: the run retires checkpoints, which may have come after the first filling.
    """
    filler, filled_after = run.workdir.parent / "filler", None
    tried = run.text().count("no room for step")
    while run.text().count("no room for step") == tried and run.statuses() == [None, None]:
        newest = saved_steps(run.workdir)[-1:]
        if newest != filled_after:
            with contextlib.suppress(OSError), filler.open("ab") as file:
                while True:
                    file.write(b"x" * 65536)
                    file.flush()
            filled_after = newest
        time.sleep(0.01)
    return filler


def inject(kind, run, rng):
    """Does it; (which process or file, seconds until all have ended or None if the run is to go on)."""
    victim = rng.randrange(2)
    process = run.processes[victim]
    match kind:
        case "kill":
            process.kill()
            return f"process {victim}", run.ended(60)
        case "stop":
            process.send_signal(signal.SIGSTOP)
            other = run.processes[1 - victim]
            began = time.monotonic()
            try:
                other.wait(60)
                seconds = time.monotonic() - began
            except subprocess.TimeoutExpired:
                seconds = float("inf")
            process.send_signal(signal.SIGCONT)  # what was asleep must find out, and not go on alone
            return f"process {victim}", max(seconds, run.ended(60))
        case "term" | "usr1":
            process.send_signal(signal.SIGTERM if kind == "term" else signal.SIGUSR1)
            return f"process {victim}", run.ended(60)
        case "cut":
            sh("ip", "-n", NETWORKS[0], "link", "set", "cj0", "down")
            seconds = run.ended(60)
            sh("ip", "-n", NETWORKS[0], "link", "set", "cj0", "up")
            return "link", seconds
        case "full":
            filler = fill_disk(run)
            time.sleep(rng.uniform(0, 4))
            filler.unlink()
            return "both", None
        case "full-kill":
            filler = fill_disk(run)
            time.sleep(rng.uniform(0, 4))
            run.processes[victim].kill()
            seconds = run.ended(60)
            filler.unlink()
            return f"process {victim}", seconds
        case "read-only":
            run.kill()
            sh("mount", "-o", "remount,ro", str(run.workdir.parent))
            refused = Run(run.workdir, "refused", run.logs[0].parent)
            seconds = refused.ended(60)
            sh("mount", "-o", "remount,rw", str(run.workdir.parent))
            said = next((line for line in refused.text().splitlines() if "Read-only" in line), "nothing")
            return f"start refused with {refused.statuses()}: {said[:60]}", seconds
        case "damage":
            run.wait_until(lambda: len(saved_steps(run.workdir)) > 1)  # with no other it is refused a start
            run.kill()
            steps = saved_steps(run.workdir)
            files = [p for p in (run.workdir / "checkpoints" / str(steps[-1])).rglob("*") if p.is_file()]
            file = rng.choice(files)
            data = bytearray(file.read_bytes())
            if rng.random() < 0.5 or not data:
                file.write_bytes(data[: len(data) // 2])
                how = "halved"
            else:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                file.write_bytes(data)
                how = "bit flipped"
            return f"{file.relative_to(run.workdir / 'checkpoints')} {how}", 0.0


def disturbed(kinds, folder, networks, seed, table):
    """A run from its beginning to its end through faults of the `kinds`; its folder."""
    rng = random.Random(seed)
    needs_mount = any(kind in OF_DISKS for kind in kinds)
    workdir = mounted(folder) if needs_mount else folder / "run"
    workdir.parent.mkdir(exist_ok=True)
    logs = folder.parent / f"{folder.name}.logs"
    logs.mkdir()
    ends = TOTAL * 3 // 4
    number, run = 0, None
    for i, kind in enumerate(kinds):
        if run is None:
            run = Run(workdir, number, logs, networks=networks)
            number += 1
        run.wait_for(max(last_step(workdir) + 1, ends * i // len(kinds) + rng.randrange(2, ends // len(kinds))))
        time.sleep(rng.uniform(0, 0.3))  # in the middle of a step, of an evaluation, of a save
        assert run.statuses() == [None, None], run.text()  # or there is nothing to disturb
        at = run.step()
        what, seconds = inject(kind, run, rng)
        row = {"fault": kind, "where": what, "step": at, "seconds": seconds, "statuses": run.statuses(), "lost": 0}
        row["right"] = row["statuses"] == [None, None]
        table.append(row)
        if seconds is not None:
            run.kill()
            reached = run.reached()
            run = Run(workdir, number, logs, networks=networks)
            number += 1
            resumed = run.resumed()
            row |= {"lost": reached - resumed, "resumed": resumed}
            row["right"] = row["lost"] <= EVERY
        print(row, flush=True)
    if run.ended(300) == float("inf"):
        run.kill()
    table[-1]["end"] = run.statuses()
    print("chain ended", run.statuses(), flush=True)
    kept = folder.parent / f"{folder.name}.end"
    shutil.copytree(workdir, kept)
    if needs_mount:
        sh("umount", str(folder))
    return kept


def final_weights(workdir):
    import jax

    from cropjax.checkpoint import Checkpoints
    from cropjax.config import build_model, build_optimizer
    from cropjax.sharding import make_mesh
    from cropjax.step import abstract_state, split_model

    config = get_config()
    direction, _ = build_optimizer(config)
    checkpoints = Checkpoints(workdir / "checkpoints", best=config.eval.best)
    template = abstract_state(split_model(build_model(config))[1], direction, make_mesh(data=-1, space=1))
    step, state = checkpoints.restore(template)
    checkpoints.close()
    return step, [bytes(leaf.tobytes()) for leaf in jax.tree.leaves(jax.device_get(state))]


def chains(count, kinds):
    """Lists of kinds; the network's cuts by themselves, for such runs are in namespaces."""
    kinds = (kinds * count)[:count]
    cuts = [kind for kind in kinds if kind == "cut"]
    disks = [kind for kind in kinds if kind in OF_DISKS]
    others = [kind for kind in kinds if kind not in ("cut", *OF_DISKS)]
    random.Random(1).shuffle(disks)
    random.Random(1).shuffle(others)
    thirds = [some[i::3] for some in (others, disks) for i in range(3)]
    return [(chain, chain[0] == "cut") for chain in (*thirds, cuts) if chain]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, table, same = Path(folder), [], []
        if "cut" in options.kinds:
            make_networks()
        try:
            whole = Run(folder / "undisturbed", 0, folder)
            whole.ended(600)
            print("undisturbed", whole.statuses(), flush=True)
            expected = final_weights(folder / "undisturbed")
            for i, (kinds, networks) in enumerate(chains(options.count, options.kinds)):
                end = disturbed(kinds, folder / f"chain{i}", networks, options.seed + i, table)
                same.append(final_weights(end) == expected)
                print(f"chain {i}: {len(kinds)} faults, same weights at the end: {same[-1]}", flush=True)
        finally:
            if "cut" in options.kinds:
                remove_networks()
            for left in folder.glob("chain*/run"):
                sh("umount", "--lazy", str(left.parent), check=False)
    print("\n| fault | where | at step | all ended after | statuses | steps lost |")
    print("|---|---|---|---|---|---|")
    for row in table:
        row["ended"] = "went on" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        print("| {fault} | {where} | {step} | {ended} | {statuses} | {lost} |".format(**row))
    hung = [row for row in table if row["seconds"] is not None and row["seconds"] > 60]
    wrong = [row for row in table if not row["right"]]
    print(f"\n{len(table)} faults, {len(hung)} hung, {len(wrong)} lost too much, chains with the same weights: {same}")
    sys.exit(bool(hung or wrong or not all(same)))


if __name__ == "__main__":
    main()
