"""Signals that ask a run to stop: it saves and ends well, and the same command goes on."""

import signal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cropjax.distributed import SIGNALS


class Preemption:
    """Within it, SIGTERM and SIGUSR1 ask the run to stop after the step under way.

    `asked` is the signal's name in the process that got one. In a run of several processes `agreed` is the same in all,
    whoever got a signal, and `stops` what it said last. Outside the main thread, which alone gets signals, nothing is
    asked.
    """

    def __init__(self, mesh):
        self.asked, self.stops = None, False
        self._pending = None
        if jax.process_count() > 1:
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._flags = NamedSharding(mesh, PartitionSpec(("data", "space")))
            self._any = jax.jit(lambda flags: flags.any(), out_shardings=everywhere)

    def __enter__(self):
        try:
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked = signal.Signals(number).name

    def agreed(self):
        """Whether to stop now; all processes call it after every step.

        Among several it is what they said one call ago: by then the devices have exchanged it, and nobody waits.
        """
        if jax.process_count() == 1:
            self.stops = self.asked is not None
            return self.stops
        mine = np.full(jax.local_device_count(), self.asked is not None)
        before, self._pending = self._pending, self._any(jax.make_array_from_process_local_data(self._flags, mine))
        self.stops = before is not None and bool(jax.device_get(before))
        return self.stops
