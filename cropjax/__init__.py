"""Semantic segmentation in JAX: what does the training crop do to a network, and why?

`cropjax.load(run folder)` gives a trained network; see `network`.
"""


def __getattr__(name):
    if name == "load":  # with it comes JAX: not before it is asked for
        from cropjax.network import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
