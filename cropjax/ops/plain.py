"""By definition: a switch that turns shortcuts off.

Shortcuts save operations or memory and give the same result. A network by definition is what its operations are counted
from, what the shortcuts are checked against, and what is exported: other compilers know its operations, and where the
order of a sum is left to them, a network by definition fixes it.
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
