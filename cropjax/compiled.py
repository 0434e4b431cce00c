"""Programs of a function, each for one form of its arguments, and what they say of the memory that they take."""

from collections import OrderedDict
from functools import partial

import jax

MOST_FORMS = 16  # of the arguments of each function: a folder may have images of thousands of sizes


class Compiled:
    """A function, compiled for each form of its arguments; the latest are kept. Keywords are static."""

    def __init__(self, function, **how):
        self.function, self._how, self._latest = function, how, OrderedDict()

    def __call__(self, *arrays, **static):
        return self.of(*arrays, **static)(*arrays)

    def of(self, *arrays, **static):
        """The `jax.stages.Compiled` for arrays, or forms of arrays, like these."""
        key = (*((x.shape, x.dtype) for x in jax.tree.leaves(arrays)), *static.items())
        if key not in self._latest:
            self._latest[key] = jax.jit(partial(self.function, **static), **self._how).lower(*arrays).compile()
            if len(self._latest) > MOST_FORMS:
                self._latest.popitem(last=False)
        self._latest.move_to_end(key)
        return self._latest[key]

    def bytes(self, *arrays, **static):
        """What it takes while it runs, with its arguments and its result."""
        plan = self.of(*arrays, **static).memory_analysis()
        return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
