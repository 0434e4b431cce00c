"""`python -m cropjax.data.prepare --source cityscapes --root FOLDER`: a data set's files into the form of `store`.

A data set of one's own, `--source folders`, takes `--classes road,lane` and, if its labels are in colours,
`--colours 402020,ff0000`.

The work goes on in FOLDER-prepared.partial, a shard at a time, each read back before it counts; killed and started
again it goes on after the last whole shard. The folder gets its name when everything is there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from cropjax import commandline
from cropjax.data.ahead import ahead, usable_cores
from cropjax.data.archives import Member
from cropjax.data.sources import FILES, NO_DATA
from cropjax.data.store import FEATURES, FORM, encode
from cropjax.errors import UserError
from cropjax.progress import Progress
from cropjax.workdir import write_text

SHARD_BYTES = 256 << 20
SAMPLE = 8  # records that are encoded to tell the disk need


def prepare(source, root, out, *, splits=("train", "val"), threads=None, classes=(), colours=()):
    """Writes the `splits` of the data set `source`, one of `FILES`, found at `root`, to the new folder `out`.

    `classes` and `colours` are those of "folders".

    Returns {split: number of records}. Raises `UserError` for a wrong file, a disk too small, or another prepare at
    work on the same folder; what was done is kept for the next call.
    """
    root, out = Path(root).expanduser().absolute(), Path(out).expanduser().absolute()
    if not splits:
        raise UserError("--splits names none: train,val is what training and evaluation read")
    threads = threads or usable_cores()
    if out.exists():
        raise UserError(f"--out={out} exists already: remove it, or name another")
    own = {"classes": classes, "colours": colours} if source == "folders" else {}
    try:
        sources = {split: FILES[source](root, split, **own) for split in splits}
    except UserError as error:  # those of a config's field
        text = re.sub(r"data\.(root|classes|colours)", r"--\1", str(error)).removesuffix(f"; {NO_DATA}")
        raise UserError(text) from error
    partial = out.with_name(f"{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    started = partial.exists()
    partial.mkdir(exist_ok=True)
    with _locked(partial):
        plan_path = partial / "plan.json"
        files = _fingerprint(sources, root)
        if plan_path.exists():
            plan = json.loads(plan_path.read_text())
            if (plan["form"], plan["source"], plan["files"]) != (FORM, source, files):
                raise UserError(f"{partial}: was begun from other files, or by another version; remove it")
        else:
            try:
                plan = {"form": FORM, "source": source, "files": files} | _plan(sources, partial, threads)
            except BaseException:
                if not started:
                    shutil.rmtree(partial)
                raise
            write_text(plan_path, json.dumps(plan))
        for split, records in sources.items():
            _write_split(partial, source, split, records, plan["shards"][split], threads)
        _write_metadata(partial, source, sources, plan)
        plan_path.unlink()
    (partial / "lock").unlink()
    os.replace(partial, out)
    return {split: len(records) for split, records in sources.items()}


def _plan(sources, folder, threads):
    """How many shards each split has, by the size of a few of its records; a disk too small is a `UserError`."""
    shards, total = {}, 0
    for split, records in sources.items():
        picked = np.unique(np.linspace(0, len(records) - 1, SAMPLE).astype(int)).tolist()
        encoded = ahead(lambda i, records=records: len(_encoded(records, i)), picked, threads)
        size = float(np.mean(list(encoded))) * len(records)
        shards[split] = min(max(round(size / SHARD_BYTES), 1), len(records))
        total += size
    free = shutil.disk_usage(folder).free
    count = sum(map(len, sources.values()))
    print(f"{count} images take about {_gigabytes(total)}; {_gigabytes(free)} are free in {folder.parent}", flush=True)
    if total * 1.05 > free:
        raise UserError(f"--out: {folder.parent} has {_gigabytes(free)} free, and about {_gigabytes(total)} are needed")
    return {"shards": shards}


def _write_split(folder, name, split, records, shards, threads):
    with Progress(len(records), unit="image", label=f"prepare {split}") as progress:
        for shard, (first, end) in enumerate(pairwise(_bounds(records, shards))):
            path = folder / f"{name}-{split}.array_record-{shard:05d}-of-{shards:05d}"
            if not path.exists():
                _write_shard(path, records, range(first, end), threads, progress)
            progress.update(end)


def _write_shard(path, records, indices, threads, progress):
    temporary = path.with_name(f"{path.name}.tmp")
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    digests = []
    for i, data in zip(indices, ahead(lambda i: _encoded(records, i), indices, threads), strict=True):
        writer.write(data)
        digests.append(_digest(data))
        progress.update(i + 1)
    writer.close()
    reader = ArrayRecordReader(str(temporary))
    if [_digest(reader.read([i])[0]) for i in range(len(digests))] != digests:
        raise UserError(f"{temporary}: does not read back as it was written; is the disk sound?")
    reader.close()
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _encoded(records, index):
    return encode(records[index], records.labels.num_classes)


def _write_metadata(folder, name, sources, plan):
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    infos = []
    for split, records in sources.items():
        files = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record", template=template
        )
        size = sum(path.stat().st_size for path in folder.glob(f"{name}-{split}.*"))
        lengths = np.diff(_bounds(records, plan["shards"][split])).tolist()
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=files))
    labels = next(iter(sources.values())).labels
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=FEATURES,
        split_infos=infos,
        filename_template=template,
        check_data=False,  # needs TensorFlow
        metadata=tfds.core.MetadataDict(form=FORM, source=name, classes=list(labels.names)),
    )


def _bounds(records, shards):
    """The first record of each shard, and the end."""
    return np.linspace(0, len(records), shards + 1).astype(int).tolist()


def _fingerprint(sources, root):
    """Of the classes, and the files' names within `root`, sizes and times."""
    digest = hashlib.blake2b(digest_size=16)
    for split, records in sources.items():
        digest.update(repr(records.labels).encode())
        for name, *files in records.files:
            stats = [(file.archive if isinstance(file, Member) else file).stat() for file in files]
            times = [
                (os.path.relpath(str(file), root), stat.st_size, stat.st_mtime_ns)
                for file, stat in zip(files, stats, strict=True)
            ]
            digest.update(repr((split, name, times)).encode())
    return digest.hexdigest()


def _digest(data):
    return hashlib.blake2b(data, digest_size=16).digest()


def _gigabytes(size):
    return f"{size / 1e9:.3g} GB"


@contextlib.contextmanager
def _locked(folder):
    """The system gives the lock back when the process ends, however it ends."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another prepare is at work here; wait for it") from error
        yield


def _command():
    given = flags.FLAGS
    if given.source is None:
        raise UserError(f"--source is missing: name one of {', '.join(FILES)}")
    if given.source not in FILES:
        raise UserError(f"--source={given.source!r} is not one of {', '.join(FILES)}")
    root = Path(given.root or Path(os.environ.get("CROPJAX_DATA", "data"), given.source)).expanduser().absolute()
    out = Path(given.out or f"{root}-prepared").expanduser()
    if given.source != "folders" and (given.classes or given.colours):
        raise UserError(f"--classes and --colours are for --source=folders; {given.source} has classes of its own")
    classes, colours = tuple(given.classes), tuple(_colour(code) for code in given.colours)
    counts = prepare(
        given.source,
        root,
        out,
        splits=tuple(given.splits),
        threads=given.threads,
        classes=classes,
        colours=colours,
    )
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in counts.items())} images, {_gigabytes(size)}")
    same = " and the same data.classes" if classes else ""
    print(f"read it with --config.data.source={given.source} --config.data.root={out}{same}")


def _colour(code):
    """'402020' or '#402020' -> (64, 32, 32)"""
    if not re.fullmatch("#?[0-9a-fA-F]{6}", code):
        raise UserError(f"--colours: {code!r} is no colour; one is rrggbb, as 402020 for (64, 32, 32)")
    return tuple(bytes.fromhex(code.removeprefix("#")))


if __name__ == "__main__":
    flags.DEFINE_string("source", None, f"What is prepared: {', '.join(FILES)}.")
    flags.DEFINE_string("root", None, "Its folder; default: $CROPJAX_DATA/<source>, else data/<source>.")
    flags.DEFINE_string("out", None, "The folder to write; default: <root>-prepared.")
    flags.DEFINE_list("splits", ["train", "val"], "The splits to prepare.")
    flags.DEFINE_list("classes", [], "Of folders: the names of the classes in the order of their ids.")
    flags.DEFINE_list("colours", [], "Of folders whose labels are in colours: rrggbb of each class.")
    flags.DEFINE_integer("threads", None, "Images at work at a time; default: one a core.", lower_bound=1)
    commandline.run_without_config(_command)
