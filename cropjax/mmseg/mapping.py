"""A config of mmsegmentation, as it was read, to one of ours.

What is one of ours by another name, or always the same here, stands in the tables of `settings`; what takes more is in
network.py, loss.py, data.py and training.py. Whatever neither takes comes out as left: nothing is passed over in
silence.
"""

import re
from dataclasses import dataclass, field

from ml_collections import ConfigDict

from cropjax.config import defaults
from cropjax.errors import UserError
from cropjax.mmseg import data, network, settings, training
from cropjax.mmseg.reading import Unread
from cropjax.mmseg.theirs import ABSENT, Theirs, shown

# Lists of things that have a type.
TYPED = (
    *(f"{split}_dataloader.dataset.pipeline" for split in ("train", "val", "test")),
    *(f"model.{head}.loss_decode" for head in ("decode_head", "auxiliary_head")),
    "param_scheduler",
    "custom_hooks",
)


@dataclass
class Mapped:
    """Our `config`, and what became of each of their settings."""

    config: ConfigDict
    moved: list = field(default_factory=list)  # (their name, value or ABSENT, our name, value)
    same: list = field(default_factory=list)  # names of what has no field here, because it is always so
    idle: list = field(default_factory=list)  # names of what means nothing here
    left: list = field(default_factory=list)  # (their name, value or ABSENT, why)
    weights: str = ""  # where the file of init_from is to be had


def map_config(values, path):
    """The `Mapped` of what `read_config` has read from `path`, whose name says how many GPUs there are, "4xb2".

    Raises:
        UserError: a network that is none of ours, a setting that is needed and absent, no literal, or of a kind that
            it cannot be, or a config of mmsegmentation 0.x.
    """
    if "train_dataloader" not in values and "data" in values:
        raise UserError(
            f"{path} is a config of mmsegmentation 0.x: bring it to 1.x first, by upstream's migration guide"
        )
    values = {name: value for name, value in values.items() if name in settings.OF_THE_RUNNER}
    if isinstance(values.get("model"), dict) and "data_preprocessor" in values:
        values["model"] = {"data_preprocessor": values["data_preprocessor"]} | values["model"]
    values.pop("data_preprocessor", None)
    theirs = Theirs(values, path, TYPED)
    name, backbone = network.find(theirs)
    m = Mapping(theirs, defaults(name))
    network.backbone(m, backbone)
    network.head(m, name)
    network.auxiliary(m)
    network.norms(m, name)
    network.weights(m)
    data.sources(m)
    data.pipelines(m)
    data.preprocessing(m)
    training.optimizer(m)
    training.schedule(m)
    training.evaluation(m)
    training.hooks(m)
    m.rest()
    return m.out


class Mapping:
    """One config under way from `theirs` to `out`."""

    def __init__(self, theirs, config):
        self.theirs, self.take, self.config, self.out = theirs, theirs.take, config, Mapped(config)

    def put(self, name, ours, value):
        """Their setting `name` is our field `ours`, which gets `value`."""
        outer, _, last = ours.rpartition(".")
        group = self.get(outer)
        given = self.theirs.look(name)
        if given is not ABSENT or group[last] != value:
            self.out.moved.append((name, given, ours, value))
        try:
            group[last] = value
        except TypeError:
            raise UserError(f"{self.theirs.path}: {name} = {shown(given)} is of a kind that {ours} cannot be") from None

    def leave(self, name, why, value=None):
        """What becomes of a setting is `why`; its `value`, where its name has dots of its own."""
        left = name, self.theirs.look(name) if value is None else value, why
        if left not in self.out.left:
            self.out.left.append(left)

    def move(self, group):
        """The settings that go over as they are."""
        for name, (default, ours) in settings.MOVED[group].items():
            self.put(name, ours, self.take(name, default))

    def fix(self, group, at):
        """The settings below `at` that are always the same here."""
        for name, (default, value, why) in settings.FIXED[group].items():
            self.expect(f"{at}.{name}".lstrip("."), default, value, why)

    def expect(self, name, default, value, why):
        """A setting that always has this `value` here; `default` is theirs."""
        given = name in self.theirs
        if (self.take(name) if given else default) != value:
            self.leave(name, why)
        elif given:
            self.out.same.append(name)

    def get(self, ours):
        value = self.config
        for part in filter(None, ours.split(".")):
            value = value[part]
        return value

    def pair(self, name):
        """Two numbers, also given as one for both."""
        value = self.take(name)
        value = (value, value) if isinstance(value, int | float) else value
        if not isinstance(value, tuple) or len(value) != 2:
            raise UserError(f"{self.theirs.path}: {name} = {shown(value)} must be two numbers")
        return value

    def has(self, name, at):
        """Whether a transform or schedule of that type is there, whose unchanging settings are then done with."""
        there = self.take(f"{at}.{name}.type") is not None
        if there:
            self.fix(name, f"{at}.{name}")
        return there

    @property
    def gpus(self):
        """How many of them the file's name says, or None."""
        named = re.search(r"_(\d{1,6})xb\d", self.theirs.path.stem)
        return int(named[1]) if named else None

    def rest(self):
        """What nothing above has asked for."""
        self.fix("", "")
        for name, value in self.theirs.left():
            if name.startswith("test_dataloader") and self.theirs.look(name.replace("test", "val", 1)) == value:
                continue
            if any(name == idle or name.startswith(f"{idle}.") for idle in settings.OF_NO_MATTER):
                self.out.idle.append(name)
            elif isinstance(value, Unread):
                self.leave(name, "it is no literal", value)
            else:
                self.leave(name, next(why for start, why in settings.WHY.items() if name.startswith(start)), value)
