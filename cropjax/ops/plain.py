"""By definition: a switch that turns the shortcuts of this folder off.

Shortcuts save operations or memory and give the same result. A network by definition is what its operations are counted
from, and what the shortcuts are checked against.
"""

from contextlib import contextmanager
from contextvars import ContextVar

_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain():
    """Within, whatever is traced computes by definition."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain():
    return _PLAIN.get()
