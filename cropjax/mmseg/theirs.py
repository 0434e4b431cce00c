"""The settings of one of their configs, taken out by dotted names until none is left that anything is known about."""

from cropjax.errors import UserError
from cropjax.mmseg.reading import MEND, Unread


class _Absent:
    def __repr__(self):
        return "absent"


ABSENT = _Absent()


class Theirs:
    """`values` as `reading.read_config` gives them, which stay as they are; `path` is their file, for messages.

    Lists of things that have a type, those that `typed` names, are dicts by that type here: for example
    "train_dataloader.dataset.pipeline.RandomCrop.crop_size". A second one of a type is called `type#2`.
    """

    def __init__(self, values, path, typed=()):
        self.path = path
        self.given, self._left = (_by_types(_copy(values), typed) for _ in range(2))

    def __contains__(self, name):
        return _look(self._left, name) is not ABSENT

    def look(self, name):
        """What the config says of a setting, taken or not; `ABSENT` if nothing."""
        return _look(self.given, name)

    def take(self, name, default=None):
        """The value of a setting, which is then gone; `default` if it is absent.

        It is of the default's type unless that is None. A default that is a type is that of a setting which must be
        there.

        Raises:
            UserError: it must be and is not, is no literal, or is of another type.
        """
        value = _look(self._left, name)
        if value is ABSENT:
            if isinstance(default, type):
                raise UserError(f"{self.path}: there is no {name}, which a whole config of mmsegmentation 1.x has")
            return default
        outer, _, last = name.rpartition(".")
        del _look(self._left, outer)[last]
        if unread := _unread_in(value):
            raise UserError(f"{unread.place}: {name} cannot be read, {unread.text!r} is no literal; {MEND}")
        if not _fits(value, default):
            raise UserError(f"{self.path}: {name} = {shown(value)} is of a kind that it cannot be")
        return value

    def left(self):
        """(name, value) of all that is left, a dict that has a type as one value."""
        return _leaves(self._left, "")


def shown(value):
    """A value of theirs as part of a line, whatever it holds."""
    text = plain(repr(value))
    return text if len(text) <= 70 else f"{text[:67]}..."


def plain(text):
    """A name of theirs, or text, without what a terminal obeys or ends a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _look(values, name):
    for part in name.split(".") if name else ():
        if not isinstance(values, dict) or part not in values:
            return ABSENT
        values = values[part]
    return values


def _copy(value):
    """Without the scope of types: what has none is mmsegmentation's."""
    if isinstance(value, dict):
        value = {name: _copy(item) for name, item in value.items()}
        if isinstance(value.get("type"), str):
            value["type"] = value["type"].removeprefix("mmseg.")
        return value
    return tuple(map(_copy, value)) if isinstance(value, tuple) else value


def _by_types(values, typed):
    for name in typed:
        items, (outer, _, last) = _look(values, name), name.rpartition(".")
        items = (items,) if isinstance(items, dict) else items
        if isinstance(items, tuple) and all(isinstance(item, dict) and "type" in item for item in items):
            found = _look(values, outer)[last] = {}
            for item in items:
                kind = str(item["type"])
                count = sum(key.partition("#")[0] == kind for key in found)
                found[f"{kind}#{count + 1}" if count else kind] = item
    return values


def _leaves(values, prefix):
    for name, value in values.items():
        if isinstance(value, dict) and "type" not in value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _unread_in(value):
    if isinstance(value, Unread):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return next((found for found in map(_unread_in, parts) if found), None)


def _fits(value, default):
    kind = default if isinstance(default, type) else type(default)
    if default is None:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)
