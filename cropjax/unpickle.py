"""A pickle read as data: tensors become descriptions, everything else is inert.

A pickle is a program that may call anything. Here a stack machine of our own interprets it that has no way to
import or to call: the few names with which torch describes tensors have a meaning, every other name stands for
itself. So a training checkpoint full of its framework's objects can be read, and a hostile file can do nothing.
What the opcodes do is documented in Python's `pickletools`.
"""

import dataclasses
import pickletools

import ml_dtypes
import numpy as np

DTYPES = {
    f"{module}.{kind}Storage": np.dtype(dtype)
    for module in ("torch", "torch.cuda")
    for kind, dtype in {
        "Double": "<f8",
        "Float": "<f4",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
        "ComplexFloat": "<c8",
        "ComplexDouble": "<c16",
    }.items()
}
LONGEST_NAME = 1000  # of a module and a class


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """A global of the pickle or whatever would have come of calling it: a name, nothing more."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    key: str
    dtype: np.dtype
    start: int  # elements; legacy files may hold a storage that is a view into another


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    storage: Storage
    offset: int  # elements, as the strides
    size: tuple
    stride: tuple


def unpickle(file, dtypes):
    """Interprets one pickle, from where `file` stands to its STOP; fills `dtypes` with storage key -> dtype.

    Sets and instances are inert, dicts keep their string keys only: no tensor has another name, and hashing a tuple
    of tuples of tuples can take for ever. Nothing recurses, so depth does no harm; no opcode copies what others can be
    given again, so time and memory are in proportion to the file.
    """
    stack, marks, memo = [], [], {}
    for opcode, arg, _ in pickletools.genops(file):
        # The table says what an opcode takes: so many objects, or all above the last mark and some below it.
        takes = opcode.stack_before
        marked = pickletools.markobject in takes
        start = marks.pop() - takes.index(pickletools.markobject) if marked else len(stack) - len(takes)
        if not 0 <= start <= len(stack):
            raise ValueError(f"{opcode.name} on an empty stack")
        operands = stack[start:]
        del stack[start:]
        match opcode.name, operands:
            case "STOP", [value]:
                return value
            case "MARK", _:
                marks.append(len(stack))
            case "PROTO" | "FRAME" | "POP" | "POP_MARK", _:
                pass
            case "DUP", [value]:
                stack += [value, value]
            case "PUT" | "BINPUT" | "LONG_BINPUT", _:
                memo[arg] = stack[-1]
            case "MEMOIZE", [value]:
                memo[len(memo)] = value
                stack.append(value)
            case "GET" | "BINGET" | "LONG_BINGET", _:
                stack.append(memo[arg])
            case "NONE" | "NEWTRUE" | "NEWFALSE", _:
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE", _:
                stack.append(tuple(operands))
            case "EMPTY_LIST" | "LIST", _:
                stack.append(operands)
            case "EMPTY_DICT" | "DICT", _:
                stack.append(_with_items({}, operands))
            case "APPEND" | "APPENDS", [target, *items]:
                stack.append(target)
                if isinstance(target, list):
                    target.extend(items)
            case "SETITEM" | "SETITEMS", [target, *items]:
                stack.append(_with_items(target, items))
            case "BUILD" | "ADDITEMS", [target, *_]:
                stack.append(target)
            case "GLOBAL", _:
                stack.append(Inert(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL", [str(module), str(name)] if len(module) + len(name) < LONGEST_NAME:
                stack.append(Inert(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ", [callee, tuple(args)]:
                stack.append(_called(callee, args))
            case "BINPERSID", [("storage", Inert(kind), str(key), _, int(), *_) as parts] if kind in DTYPES:
                dtypes[key] = DTYPES[kind]
                view = parts[5:6]
                stack.append(Storage(key, DTYPES[kind], view[0][1] if view and view[0] else 0))
            case "BINPERSID", [("module", Inert() as module, *_)]:  # legacy files keep a class and its source
                stack.append(module)
            case "EMPTY_SET" | "FROZENSET" | "INST" | "OBJ" | "NEWOBJ_EX", _:
                stack.append(Inert(opcode.name))
            case "EXT1" | "EXT2" | "EXT4" | "PERSID" | "BINPERSID", _:
                stack.append(Inert(opcode.name))
            case _, [] if arg is not None:  # every other opcode with an argument is a number or a string
                stack.append(arg)
            case name, _:
                raise ValueError(f"opcode {name}")
    raise EOFError("a pickle without an end")


def _with_items(target, items):
    if isinstance(target, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))
    return target


def _called(callee, args):
    """What a call of the pickle is for us; the names are data too, nothing is looked up or imported."""
    match callee, args:
        case Inert("collections.OrderedDict"), []:
            return {}
        case Inert("collections.OrderedDict"), [list(pairs)]:  # of Python 2
            given = pairs[:]
            pairs.clear()  # a second call finds none: one list unfolds to one dict
            if all(len(pair) == 2 for pair in given):
                return _with_items({}, [part for pair in given for part in pair])
            return Inert("collections.OrderedDict")
        case Inert("torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor"), [a, b, c, d, *_]:
            return Tensor(a, b, c, d)
        case Inert("torch._utils._rebuild_parameter" | "torch.Size"), [value, *_]:
            return value
        case Inert(name), _:
            return Inert(name)
    raise ValueError(f"a call of a {type(callee).__name__}")
