"""`python -m cropjax.data.check --config FILE`: reads every file of a data set, says what is wrong and what is in it.

Every record of both splits is read, and one training crop is made of each; what is wrong is listed by file, and ends in
exit status 2. The table tells how much of the labelled pixels each class has, in how many images it occurs, and in how
many training crops (images that `data.repeat_rare` repeats count as often): what a network is shown depends on those.
"""

import collections
import hashlib
from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from cropjax import commandline
from cropjax.config import build_augment, build_source, label_set
from cropjax.data.ahead import ahead
from cropjax.data.frequencies import class_weights, repeats
from cropjax.data.labels import IGNORE
from cropjax.errors import UserError
from cropjax.progress import Progress


@dataclass
class Findings:
    """What was found in one split."""

    records: int
    sizes: collections.Counter = field(default_factory=collections.Counter)
    pixels: list = field(default_factory=list)  # int64 [k] of each readable record
    in_crops: list = field(default_factory=list)  # bool [k] of each crop
    ignored: int = 0
    images: dict = field(default_factory=dict)  # digest of the pixels -> name
    wrong: dict = field(default_factory=dict)  # index of the record -> what is wrong with it

    def counts(self):
        """int64 [records,k]"""
        return np.array(self.pixels)


def check_split(config, split, source, progress=None):
    """Reads all records of the `source` of a split, "train" or "eval" -> `Findings`."""
    augment, k = build_augment(config), label_set(config).num_classes
    found = Findings(len(source))

    def read(index):
        try:
            record = source[index]
            image, label = record["image"][:, :], record["label"][:, :]
            crop = None
            if split == "train":
                crop = augment(record, np.random.default_rng([config.seed, index]))["label"]
        except UserError as error:
            return str(error)
        counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
        shown = None if crop is None else np.bincount(crop.ravel(), minlength=IGNORE + 1)[:k] > 0
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        return record["name"], label.shape, counts, shown, digest

    for index, result in enumerate(ahead(read, range(len(source)), config.data.threads)):
        if isinstance(result, str):
            found.wrong[index] = result
        else:
            name, size, counts, shown, digest = result
            found.sizes[size] += 1
            found.pixels.append(counts[:k])
            found.ignored += int(counts[IGNORE])
            if not counts[:k].any():
                found.wrong[index] = f"{name}: no pixel is labelled; remove it"
            if digest in found.images:
                found.wrong[index] = f"{name}: the same image as {found.images[digest]}; remove one of them"
            found.images[digest] = name
            if shown is not None:
                found.in_crops.append(shown)
        if progress:
            progress.update(index + 1)
    return found


def table(labels, train, test, times):
    """A row a class: share of the labelled pixels, of the images and of the training crops, in percent.

    `times`: how often each image comes in an epoch.
    """
    in_crops = 100 * np.average(train.in_crops, axis=0, weights=times)
    rows = [("class", "train: pixels", "images", "crops", "eval: pixels", "images")]
    for i, name in enumerate(labels.names):
        rows.append((name, *_shares(train, i), f"{in_crops[i]:.2f}", *_shares(test, i)))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


def _shares(found, i):
    counts = found.counts()
    return f"{100 * counts[:, i].sum() / max(counts.sum(), 1):.3f}", f"{100 * (counts[:, i] > 0).mean():.2f}"


def report(config, train, test):
    """The whole text for the screen."""
    labels = label_set(config)
    lines = []
    for split, found in ((config.data.train_split, train), (config.data.eval_split, test)):
        sizes = ", ".join(f"{count} of {h}x{w}" for (h, w), count in found.sizes.most_common(5))
        more = f" and {len(found.sizes) - 5} more sizes" if len(found.sizes) > 5 else ""
        total = found.counts().sum() + found.ignored
        lines.append(f"{split}: {found.records} images, {sizes}{more}; {100 * found.ignored / total:.2f} % ignored")
    times = repeats(train.counts(), config.data.repeat_rare, config.seed)
    lines += ["", table(labels, train, test, times), ""]
    for balance in ("log", "median"):
        weights = ", ".join(f"{weight:.3f}" for weight in class_weights(train.counts(), balance))
        lines.append(f"loss.balance = {balance!r}: loss.class_weights = ({weights})")
    for split, found in (("train", train), ("eval", test)):
        missing = [name for name, count in zip(labels.names, found.counts().sum(0), strict=True) if not count]
        if missing:
            lines.append(f"note: {', '.join(missing)} never occurs in {config.data[f'{split}_split']}")
    return "\n".join(lines)


def _command(config, workdir):
    config = ConfigDict(config)
    config.data.in_memory = False
    sources = {split: build_source(config, split) for split in ("train", "eval")}
    found = {}
    for split, source in sources.items():
        with Progress(len(source), unit="image", label=f"check {config.data[f'{split}_split']}") as progress:
            found[split] = check_split(config, split, source, progress)
    train, test = found.values()
    if train.pixels and test.pixels:
        print(report(config, train, test))
    wrong = [*train.wrong.values(), *test.wrong.values()]
    wrong += [
        f"{name}: is in {config.data.train_split} too, as {train.images[digest]}; remove one of them"
        for digest, name in test.images.items()
        if digest in train.images
    ]
    for line in wrong:
        print(f"wrong: {line}")
    if wrong:
        raise UserError(f"{len(wrong)} of {train.records + test.records} records are wrong, see above")
    print("nothing is wrong")


if __name__ == "__main__":
    commandline.run(_command)
