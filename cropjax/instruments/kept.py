"""Measurements that are kept, so that a report that was interrupted goes on where it was."""

import dataclasses
import hashlib
import importlib
import json
import os
import zipfile
from pathlib import Path

import jax
import numpy as np

_HOME = "cropjax.instruments."  # where the classes of what is kept come from


class Kept:
    """The measurements of one `identity` in `folder`, a file each; those of another identity count for nothing."""

    def __init__(self, folder: Path, identity: str):
        self.folder, self.identity = folder / identity, identity

    def get(self, step):
        """What `step` has measured before, or measures now and leaves behind."""
        path = self.folder / (step.name.replace("/", ".") + ".npz")
        found = _read(path)
        if not isinstance(found, step.kind):
            found = step.measure()
            _write(path, found)
        return found


def identity(config, weight_sets, **more):
    """Text that is another one for other fields of the config, other weights, or whatever `more` says."""
    found = hashlib.sha256(json.dumps([config.to_dict(), more], sort_keys=True, default=str).encode())
    for leaf in jax.tree.leaves(weight_sets):
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()[:16]


def _write(path, value):
    """All or nothing, also under a kill."""
    arrays = {}
    skeleton = _encoded(value, arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, skeleton=np.frombuffer(json.dumps(skeleton).encode(), np.uint8), **arrays)
    os.replace(temporary, path)


def _read(path):
    """What was written, or None where that is missing or damaged."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return _decoded(json.loads(arrays["skeleton"].tobytes()), arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, EOFError, zipfile.BadZipFile):
        return None


def _encoded(value, arrays):
    if dataclasses.is_dataclass(value):
        name = type(value).__module__.removeprefix(_HOME), type(value).__name__
        fields = {field.name: _encoded(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {"class": name, "fields": fields}
    if isinstance(value, np.ndarray):
        arrays[name := f"a{len(arrays)}"] = value
        return {"array": name}
    if isinstance(value, tuple | list):
        return {"tuple": [_encoded(item, arrays) for item in value]}
    return value.item() if isinstance(value, np.generic) else value


def _decoded(skeleton, arrays):
    match skeleton:
        case {"class": [module, name], "fields": fields}:
            kind = getattr(importlib.import_module(_HOME + module), name)
            if not dataclasses.is_dataclass(kind):
                raise TypeError(name)
            return kind(**{key: _decoded(value, arrays) for key, value in fields.items()})
        case {"array": name}:
            return arrays[name]
        case {"tuple": items}:
            return tuple(_decoded(item, arrays) for item in items)
        case _:
            return skeleton
