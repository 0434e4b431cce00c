"""The rivals of one config: what each is told, and whether its network is ours."""

import contextlib

import jax
import numpy as np

from cropjax.benchmark.published import published_size
from cropjax.benchmark.rivals import RIVALS, command_of, running
from cropjax.config import build_source
from cropjax.convert import torch_state, write_safetensors
from cropjax.data.ahead import usable_cores
from cropjax.data.sources import FILES
from cropjax.errors import UserError
from cropjax.models.segnext import EVALUATION_SEED
from cropjax.ops.nmf import draw_bases

READ = ("cityscapes",)  # sources whose labels mmsegmentation reads as they are
TOLERANCE = 1e-3  # of float32 logits, over the largest
DTYPES = ("float32", "bfloat16")


class Opponents:
    """The rivals `names` on the network of `programs`; `folder` takes the files that they read.

    With `reading_only` they read files, and the network may be any. `about` is what each said of itself, and how far
    its logits are from ours.
    """

    def __init__(self, names, programs, folder, *, reading_only=False):
        self._config, self._folder = programs.config, folder
        network = self._config.model.name
        for name in names:
            if network not in RIVALS[name].networks:
                raise UserError(f"--against {name}: it has no {network}, only {', '.join(RIVALS[name].networks)}")
        self._names, self.about = names, {}
        if names and not reading_only:
            self._size = published_size(self._config)  # before the environments: a mistake in the config first
        for name in names:
            command_of(name, RIVALS[name])
        if names and not reading_only:
            state = torch_state(programs.weights) | upstream_bases(self._config)
            write_safetensors(folder / "weights.safetensors", state, {})

    def of(self, suite):
        """The names of those that take part in a suite."""
        return [name for name in self._names if suite in RIVALS[name].suites]

    @contextlib.contextmanager
    def process(self, name, batch, dtype, **options):
        """A rival that has loaded the network and `batch`, computing in `dtype`."""
        if dtype not in DTYPES:
            raise UserError(f"--against {name}: rivals compute in {' or '.join(DTYPES)}, the config in {dtype}")
        np.savez(self._folder / "batch.npz", image=batch["image"], label=batch["label"])
        c = self._config.optim
        known = ("name", "lr", "momentum", "betas", "eps", "weight_decay", "rules")
        with running(name, RIVALS[name]) as process:
            answer = process.ask(
                "load",
                network=self._config.model.name,
                size=self._size,
                align_corners=self._config.model.align_corners,
                weights=str(self._folder / "weights.safetensors"),
                image=str(self._folder / "batch.npz"),
                dtype=dtype,
                optimizer={field: c[field] for field in known if field in c},
                threads=usable_cores(),
                **RIVALS[name].options | options,
            )
            self.about.setdefault(name, {}).update({k: v for k, v in answer.items() if k != "ready"})
            yield process

    @contextlib.contextmanager
    def reader(self, name, root=None):
        """A rival that reads the training files of the config, or those at `root`, as it would train on them."""
        c = self._config.data
        if c.source not in READ:
            raise UserError(f"--against {name}: input reads the files of {' or '.join(READ)}, not of {c.source}")
        ours = build_source(self._config, "train")
        source = FILES[c.source](root, c.train_split) if root else ours
        files = getattr(source, "files", ())
        if len(files) != len(ours) or any(files[i][0] != ours[i]["name"] for i in (0, len(ours) - 1)):
            raise UserError(
                f"--against {name}: it reads files: name the folder of those that data.root was prepared from with "
                "--rival_root, and leave data.in_memory out"
            )
        pairs = [[str(image), str(label)] for _, image, label in files]
        wrong = [path for pair in pairs for path in pair if ".zip" in path or path.endswith("_labelIds.png")]
        if wrong:
            raise UserError(f"--against {name}: {wrong[0]}: it reads files with train ids: unpack and convert them")
        with running(name, RIVALS[name]) as process:
            answer = process.ask(
                "open",
                pairs=pairs,
                batch_size=self._config.train.batch_size,
                cores=usable_cores(),
                **{field: c[field] for field in ("scale", "ratio_range", "crop_size", "cat_max_ratio", "flip")},
                photometric=c.photometric != "off",
            )
            self.about.setdefault(name, {})["decoding_share"] = answer["decoding_share"]
            yield process

    def check(self, programs, batch):
        """Compares the logits of every rival that has our weights with ours, in float32.

        Raises:
            UserError: it computes something else: another shape, or further away than `TOLERANCE`.
        """
        sharing = [name for name in self._names if RIVALS[name].our_weights]
        if not sharing:
            return
        ours = programs.logits(batch)
        for name in sharing:
            path = self._folder / f"{name}.npy"
            with self.process(name, batch, "float32", compile=False) as process:
                process.ask("logits", path=str(path))
            difference = logits_difference(name, ours, path)
            self.about[name]["logits_difference"] = difference
            if not difference <= TOLERANCE:
                raise UserError(
                    f"--against {name}: its logits differ from ours by {difference:.1e} of the largest, more than "
                    f"{TOLERANCE:g}: it is not the same network"
                )


def logits_difference(name, ours, path):
    """Largest absolute difference of `ours` from the array in `path`, over its largest absolute value."""
    try:
        theirs = np.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--against {name}: its logits cannot be read") from error
    if theirs.shape != ours.shape:
        raise UserError(f"--against {name}: its logits are {list(theirs.shape)}, ours {list(ours.shape)}")
    return float(np.max(np.abs(theirs - ours)) / np.max(np.abs(theirs)))


def upstream_bases(config):
    """SegNeXt's bases as upstream's state dict has them, {key: float32 [1,channels,rank]}: those that ours draws."""
    if config.model.name != "segnext":
        return {}
    key, _ = jax.random.split(jax.random.key(EVALUATION_SEED))
    bases = draw_bases(key, 1, config.model.head.channels, config.model.head.rank)
    return {"decode_head.hamburger.ham.bases": np.asarray(bases)}
