"""The four networks of the study, and what the instruments read off them."""

import dataclasses
from functools import cached_property

import numpy as np

from cropjax.config import build_model, defaults
from cropjax.instruments import gradient_noise
from cropjax.instruments.reach import trace
from cropjax.instruments.receptive_field import receptive_fields
from cropjax.instruments.subject import QUICK, Subject, drawn_weights, normalized
from cropjax.step import merge_model, split_model

CROPS = (512, 769)
TEST_SIZE = (1024, 2048)
BATCHES = 24  # of the statistics whose differences are small against their noise


class Network:
    """One of the study's four networks as it is built, and what the instruments read off it."""

    def __init__(self, name):
        self.config = defaults(name)
        self.graph, self.weights = split_model(build_model(self.config))

    def function(self, weights, images):
        output = merge_model(self.graph, weights)(images)
        return {f"stage {i + 1}": x for i, x in enumerate(output.maps)} | {"logits": output.logits}

    @cached_property
    def fields(self):
        """{map or convolution: Field}."""
        return {field.name: field for fields in receptive_fields(self.function, self.weights) for field in fields}

    @cached_property
    def _traced(self):
        return {}

    def traced(self, side):
        """What the maps and convolutions see of an image of `side` pixels, as spans."""
        if side not in self._traced:
            self._traced[side] = trace(self.function, self.weights, (side, side), spans=True)
        return self._traced[side]

    def map_side(self, name, side):
        """Rows of a map for an image of `side` rows."""
        return len(self.traced(side).maps[name].rows)

    def layer(self, name, side=512):
        (found,) = [layer for layer in self.traced(side).layers if layer.name == f"params.{name}.kernel"]
        return found

    @cached_property
    def subject(self):
        """The network with drawn weights on drawn streets, under a quick budget."""
        config = defaults(self.config.model.name)
        config.data.source = "streets"
        config.data.streets.size = TEST_SIZE
        sizes = tuple((crop, crop) for crop in CROPS)
        subject = Subject(config.model.name, config, None, {}, sizes, TEST_SIZE)
        images = normalized(np.stack([subject.crop(index, sizes[0])[2] for index in (0, 1)]))
        graph, drawn = drawn_weights(config, images)
        return dataclasses.replace(subject, graph=graph, weight_sets={"drawn": drawn})

    @cached_property
    def noise_scales(self):
        """One a crop, for batches of two."""
        return [one.parts[0] for one in self.measured(gradient_noise, "/2_images/", batches=BATCHES)]

    def measured(self, instrument, *words, batches=QUICK.batches):
        """The results of an instrument's steps whose names have one of `words`, or of all."""
        subject = dataclasses.replace(self.subject, budget=dataclasses.replace(QUICK, batches=batches))
        steps = [step for step in instrument.steps(subject) if not words or any(word in step.name for word in words)]
        return [step.measure() for step in steps]


class Networks(dict):
    """The four by name, built when they are asked for."""

    def __missing__(self, name):
        self[name] = Network(name)
        return self[name]
