"""A statement, how it is decided, and the verdict."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

HOLDS, UNDECIDED = "holds", "cannot be decided without training"


class Finding(NamedTuple):
    """What was found, as text, and the verdict: `HOLDS`, `UNDECIDED`, or what is wrong with the statement."""

    value: str
    verdict: str


class Claim(NamedTuple):
    """The statement, what of ours decides it, and `find(networks)`, which does: a `Finding`."""

    section: str
    words: str
    how: str
    find: Callable


class Claims(list):
    """The statements of one section of the study."""

    def states(self, section, words, how, **stated):
        """Makes a function the finder of a claim; what `stated` are its arguments then. The lowest comes first."""

        def add(find):
            self.append(Claim(section, words, how, partial(find, **stated)))
            return find

        return add

    def undecided(self, section, words):
        """A claim that no instrument can decide."""
        self.append(Claim(section, words, "-", lambda networks: Finding("-", UNDECIDED)))


def text(number):
    """Four digits, whole numbers in full."""
    if isinstance(number, bool | np.bool_):
        return "yes" if number else "no"
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}"


def compared(stated, found, unit="", *, within=0.02):
    """A `Finding` of numbers against those that are stated, off where one differs by more than the share `within`."""
    stated, found = (np.atleast_1d(x).astype(float) for x in (stated, found))
    off = np.abs(found - stated) > within * np.abs(stated)
    value = ", ".join(map(text, found)) + (f" {unit}" if unit else "")
    if not off.any():
        return Finding(value, HOLDS)
    worst = int(np.argmax(np.abs(np.log(found.clip(1e-12) / stated))))
    return Finding(
        value, f"off: {text(found[worst])} and not {text(stated[worst])}, {found[worst] / stated[worst]:.2f} times"
    )


def is_so(found, value, wrong):
    """A `Finding` of a statement that is true or false; `wrong` says what is the case if it is false."""
    return Finding(value, HOLDS if found else f"does not hold: {wrong}")
