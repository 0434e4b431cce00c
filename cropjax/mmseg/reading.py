"""mmsegmentation's config files as data: parsed, never run.

Understood is what those files are made of: names bound to literals, `dict(...)`, names bound before, `_base_.name` with
braces or without, arithmetic with numbers, and the files that `_base_` lists, merged as mmengine 0.10 merges them
(`mmengine/config/config.py`). The value of anything else is `Unread`, a mistake once somebody needs it; a statement of
another kind is one at once, for it may change what was read.
"""

import ast
import contextlib
import operator
import warnings
from dataclasses import dataclass
from pathlib import Path

from cropjax.errors import UserError

# All files of a config together; upstream's have 8 thousand characters and some 500 values.
MOST_CHARACTERS, MOST_VALUES, MOST_DEPTH, MOST_NUMBER = 1 << 18, 20_000, 50, 1 << 63
MEND = 'in mmengine, Config.fromfile("theirs.py").dump("plain.py") writes a config out in literals'
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Unread:
    """A value that is no literal: `text` in the file, and its place, "file:line"."""

    text: str
    place: str

    def __repr__(self):
        return self.text


def read_config(path):
    """The names that a config and its bases bind: dicts by text, tuples, strings, numbers, None, and `Unread`.

    Raises:
        UserError: a file that is not there, is no Python or holds more than names and values; one that is its own
            base; or an absurd size.
    """
    try:
        values = _Reader().file(Path(path), ())
        _check_depth(values, MOST_DEPTH)
    except RecursionError:
        raise UserError(f"{path}: values are nested more than {MOST_DEPTH} deep: is it a config?") from None
    return values


def _check_depth(value, most):
    if most == 0:
        raise RecursionError
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        _check_depth(part, most - 1)


class _Reader:
    """Reads one config; what it may still take of characters and values bounds its time and memory."""

    def __init__(self):
        self.characters, self.values = MOST_CHARACTERS, MOST_VALUES

    def file(self, path, above):
        """The merged names of a file; `above` are the files that it is a base of."""
        text = self._text(path, above)
        if path.resolve() in above:
            raise UserError(f"{path} is among its own _base_ files: take it out of one")
        module = _File(path, text, self._spend)
        inherited = {}
        for name in module.bases():
            for key, value in self.file(path.parent / name, (*above, path.resolve())).items():
                if key in inherited:
                    raise UserError(f"{path}: two of its _base_ files bind {key!r}: take it out of one")
                inherited[key] = value
        return merged(module.names(inherited), inherited, path)

    def _text(self, path, above):
        try:
            if not path.is_file():
                raise FileNotFoundError
            with path.open(encoding="utf-8") as file:
                text = file.read(self.characters + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and above:
                raise UserError(
                    f"{path} is not there, a _base_ of {above[-1]}: copy their folder _base_ along with the config; or "
                    + MEND
                ) from None
            why = getattr(error, "strerror", None) or "is it a text file that exists?"
            raise UserError(f"{path} cannot be read ({why}): name a config file of mmsegmentation") from None
        self.characters -= len(text) + 1
        if self.characters < 0:
            raise UserError(f"{path}: more than {MOST_CHARACTERS} characters, with its _base_ files: is it a config?")
        return text

    def _spend(self, path):
        self.values -= 1
        if self.values < 0:
            raise UserError(f"{path}: more than {MOST_VALUES} values, with its _base_ files: is it a config?")


class _File:
    """One parsed file; `spend` is told of each value that is made."""

    def __init__(self, path, text, spend):
        self.path, self.lines, self.spend = path, text.encode(errors="replace").split(b"\n"), spend
        self.bound = {}
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes in strings
                self.body = ast.parse(text).body
        except SyntaxError as error:
            raise UserError(f"{path}:{error.lineno}: no Python ({error.msg}): is it a config file?") from None
        except (ValueError, MemoryError) as error:
            raise UserError(f"{path}: no Python ({str(error) or 'too deep'}): is it a config file?") from None

    def bases(self):
        """The names of the files in `_base_`."""
        for statement in self.body:
            match statement:
                case ast.Assign([ast.Name("_base_")], node):
                    names = self._value(node)
                    names = names if isinstance(names, tuple) else (names,)
                    if not all(isinstance(name, str) for name in names):
                        raise self._cannot_read(node)
                    return names
        return ()

    def names(self, inherited):
        """The names that the file itself binds; `inherited` is what `_base_` stands for in it."""
        self.bound = {"_base_": inherited}
        for statement in self.body:
            match statement:
                case ast.Expr(ast.Constant(str())) | ast.Assign([ast.Name("_base_")]):
                    pass
                case ast.Assign([ast.Name(name)], node):
                    self.bound[name] = self._value(node)
                case _:
                    raise self._cannot_read(statement)
        del self.bound["_base_"]
        return self.bound

    def _value(self, node):
        self.spend(self.path)
        match node:
            case ast.Constant(int() | float() as value) if abs(value) < MOST_NUMBER:
                return value
            case ast.Constant(None | str() as value):
                return value
            case ast.List(nodes) | ast.Tuple(nodes):
                return tuple(map(self._value, nodes))
            case ast.Call(ast.Name("dict"), [], keywords):
                return self._dict(node, [(word.arg, word.value) for word in keywords])
            case ast.Dict(keys, values):
                keys = [None if key is None else self._value(key) for key in keys]
                return self._dict(node, list(zip(keys, values, strict=True)))
            case ast.Set([ast.Set([ast.Attribute() | ast.Subscript() as inner])]):  # {{_base_.name}}
                return self._value(inner)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self._copy(self._found(node))
            case ast.UnaryOp(ast.USub(), operand):
                return self._number(node, operator.neg, operand)
            case ast.BinOp(left, sign, right) if type(sign) in ARITHMETIC:
                return self._number(node, ARITHMETIC[type(sign)], left, right)
        return self._unread(node)

    def _dict(self, node, items):
        found = {}
        for key, value in items:
            value = self._value(value)
            if key is not None and not isinstance(key, Unread):
                found[str(key)] = value
            elif key is None and isinstance(value, dict):  # **value
                found |= value
            else:
                return self._unread(node)
        return found

    def _found(self, node):
        """What a name, or a place in it, is bound to."""
        match node:
            case ast.Name(name):
                return self.bound.get(name, self._unread(node))
            case ast.Attribute(outer, key) | ast.Subscript(outer, ast.Constant(str() as key)):
                outer = self._found(outer)
                if isinstance(outer, dict) and key in outer:
                    return outer[key]
            case ast.Subscript(outer, ast.Constant(int() as index)):
                outer = self._found(outer)
                if isinstance(outer, tuple) and 0 <= index < len(outer):
                    return outer[index]
        return self._unread(node)

    def _copy(self, value):
        """So that each place has a value of its own, and a short file cannot stand for an endless one."""
        self.spend(self.path)
        if isinstance(value, dict):
            return {key: self._copy(item) for key, item in value.items()}
        return tuple(map(self._copy, value)) if isinstance(value, tuple) else value

    def _number(self, node, function, *operands):
        numbers = [self._value(operand) for operand in operands]
        if all(type(number) in (int, float) and abs(number) < MOST_NUMBER for number in numbers):
            with contextlib.suppress(ZeroDivisionError):
                if abs(number := function(*numbers)) < MOST_NUMBER:
                    return number
        return self._unread(node)

    def _unread(self, node):
        start, most = node.col_offset, node.col_offset + 60
        whole = node.end_lineno == node.lineno and node.end_col_offset <= most
        text = self.lines[node.lineno - 1][start : node.end_col_offset if whole else most].decode(errors="replace")
        return Unread(text if whole else f"{text}...", f"{self.path}:{node.lineno}")

    def _cannot_read(self, node):
        found = self._unread(node)
        what = "names bound to literals and dict(...) are all that is read"
        if isinstance(node, ast.With | ast.Import | ast.ImportFrom):
            what = "imports and read_base() would have to be run, and configs are not"
        return UserError(f"{found.place}: cannot read {found.text!r}: {what}; {MEND}")


def merged(own, inherited, path):
    """`inherited` with `own` laid over it, dict into dict; one with `_delete_=True` takes the place of the other."""
    result = dict(inherited)
    for key, value in own.items():
        if isinstance(value, dict):
            below = {} if value.get("_delete_") is True or key not in inherited else inherited[key]
            if not isinstance(below, dict):
                raise UserError(f"{path}: {key!r} is a dict and was none in its _base_: set _delete_=True in it")
            value = merged({name: item for name, item in value.items() if name != "_delete_"}, below, path)
        result[key] = value
    return result
