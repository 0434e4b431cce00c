"""Street scenes drawn by us: a data set with the Cityscapes classes, no download, any size, any number.

A scene is a street in metres (x right, y up, z ahead; the camera stands at x = z = 0) seen through a pinhole with
one vanishing point. `draw_scene` goes from parameters (`Street`, `Side`) to layers (sky, ground, backdrop) to
objects, painted far to near; `street_drawing` knows how each looks. Several classes can be told by context only:
a rider is a person above a two-wheeler, a sidewalk is a road beyond a kerb, a wall is a building without windows,
and bus, truck and train wear the same paint.
"""

import operator
from dataclasses import dataclass
from functools import partial

import numpy as np

from cropjax.data.labels import CITYSCAPES
from cropjax.data.street_drawing import (
    BICYCLE,
    BUS,
    CAR,
    FAR,
    GRASS,
    LEAVES,
    MOTORCYCLE,
    NEAR,
    PERSON,
    ROAD,
    SIDEWALK,
    STEEL,
    STONES,
    TERRAIN,
    TRAIN,
    TRUCK,
    WHITE,
    Camera,
    Canvas,
    barrier,
    building,
    chance,
    expose,
    figure,
    hood,
    pick,
    pole,
    sky,
    thicket,
    tint,
    track,
    tree,
    two_wheeler,
    vehicle,
)
from cropjax.errors import UserError

SPLITS = ("train", "val", "test")

# Kind of street: its share, width in metres, layouts of a side (s sidewalk, t terrain), P(boundary), P(row).
BOUNDARIES, ROWS = ("none", "wall", "fence", "hedge"), ("buildings", "trees", "open")
KINDS = {
    "avenue": (0.30, (10, 16), ("s", "s", "s", "st", "ts"), (0.65, 0.15, 0.20, 0.00), (0.75, 0.15, 0.10)),
    "narrow": (0.25, (5, 7.5), ("s",), (0.20, 0.45, 0.25, 0.10), (0.75, 0.25, 0.00)),
    "tram": (0.22, (9, 14), ("s", "s", "s", "st", "ts"), (0.60, 0.20, 0.20, 0.00), (0.70, 0.20, 0.10)),
    "green": (0.23, (6, 12), ("st", "ts", "t"), (0.35, 0.15, 0.35, 0.15), (0.15, 0.50, 0.35)),
}
LENGTH = {CAR: (3.9, 4.9), TRUCK: (6.5, 10), BUS: (9, 13), TRAIN: (18, 36)}  # metres


class Streets:
    """`count` scenes of `size` (height, width); scene i depends on (seed, split, i) only, and is drawn at any size.

    The protocol of `sources`: `self[i] -> {"image": uint8 [h, w, 3] RGB, "label": uint8 [h, w], "name": str}`.
    The image shows the middle of a scene that is twice as wide as high. UserError names a field out of range.
    """

    labels = CITYSCAPES

    def __init__(self, split: str, count: int, size: tuple[int, int], seed: int = 0):
        if split not in SPLITS:
            raise UserError(
                f"data.train_split, data.eval_split: there is no split {split!r}; take one of {', '.join(SPLITS)}"
            )
        if count < 1:
            raise UserError(
                f"data.streets: there cannot be {count} scenes; set train_count and eval_count to 1 or more"
            )
        if len(size) != 2 or not (32 <= size[0] <= 1024 and 32 <= size[1] <= 2048):
            raise UserError(f"data.streets.size = {tuple(size)}: take (height 32..1024, width 32..2048)")
        if seed < 0:
            raise UserError(f"data.streets.seed = {seed}: take 0 or more")
        self.split, self.count, self.size, self.seed = split, count, tuple(size), seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        index = operator.index(index)
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        image, label = draw_scene(np.random.default_rng([self.seed, SPLITS.index(self.split), index]), self.size)
        return {"image": image, "label": label, "name": f"streets_{self.split}_{index:06d}"}


# ---- parameters of a scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What lies beyond one kerb, from the road outwards."""

    sign: int  # -1 left, 1 right
    kerb: float  # metres from the camera
    strips: tuple[tuple[int, float], ...]  # (class, width)
    boundary: str
    row: str

    @property
    def edge(self):
        return self.kerb + sum(width for _, width in self.strips)


@dataclass(frozen=True)
class Street:
    camera: Camera
    sides: tuple[Side, Side]
    lanes: np.ndarray  # x of each lane's middle
    lane_width: float
    rails: int | None  # the lane with a tram line
    crossing: tuple[float, float] | None  # z range of a side street
    end: float  # z of the backdrop


def make_street(rng):
    kind = pick(rng, tuple(KINDS), [share for share, *_ in KINDS.values()])
    _, widths, layouts, boundaries, rows = KINDS[kind]
    width = rng.uniform(*widths)
    left = rng.uniform(1.2, width - 1.2)  # the camera may stand anywhere on the road

    def side(sign, kerb):
        widest = {"s": 2 if kind == "narrow" else 5, "t": 6}
        strips = ((SIDEWALK if c == "s" else TERRAIN, rng.uniform(1, widest[c])) for c in pick(rng, layouts))
        return Side(sign, kerb, tuple(strips), pick(rng, BOUNDARIES, boundaries), pick(rng, ROWS, rows))

    count = max(2, round(width / 3.2))
    crossing = (start := rng.uniform(10, 35), start + rng.uniform(7, 12)) if chance(rng, 0.5) else None
    return Street(
        camera=Camera(
            height=rng.uniform(1.3, 2.3),
            focal=rng.uniform(1.1, 1.7),
            vanishing=(rng.uniform(-0.6, 0.6), rng.uniform(0.27, 0.6)),
        ),
        sides=(side(-1, left), side(1, width - left)),
        lanes=width * (np.arange(count) + 0.5) / count - left,
        lane_width=width / count,
        rails=int(rng.integers(count)) if kind == "tram" or chance(rng, 0.05) else None,
        crossing=crossing,
        end=crossing[1] + 5 if crossing and chance(rng, 0.4) else rng.uniform(60, 180),
    )


# ---- layers ---------------------------------------------------------------------------------------------------


def ground(canvas, rng, street):
    asphalt, *stones = (rng.uniform(85, 140) + rng.normal(0, 4, 3) for _ in range(3))  # one range for road and sidewalk
    grass, white = tint(rng, GRASS), WHITE * rng.uniform(0.75, 1.05)
    left, right = (side.sign * side.kerb for side in street.sides)
    canvas.floor(left, right, NEAR, FAR, asphalt, ROAD)
    for side, stone in zip(street.sides, stones, strict=True):
        inner, paved = side.kerb, side.row == "buildings" and side.boundary == "none"
        for label, width in (*side.strips, (SIDEWALK if paved else TERRAIN, FAR)):
            color = grass if label == TERRAIN else stone
            canvas.floor(side.sign * inner, side.sign * (inner + width), NEAR, FAR, color, label)
            inner += width
        canvas.floor(side.sign * side.kerb, side.sign * (side.kerb + 0.18), NEAR, FAR, stone * 1.3)
        if street.crossing:
            for corner, kerb in ((street.crossing[0] - 2.5, 2.3), (street.crossing[1], 0)):
                xs = side.sign * side.kerb, side.sign * FAR
                canvas.floor(*xs, corner, corner + 2.5, stone, SIDEWALK)
                canvas.floor(*xs, corner + kerb, corner + kerb + 0.2, stone * 1.3)
    if street.crossing:
        canvas.floor(-FAR, FAR, *street.crossing, asphalt, ROAD)
        for x in np.arange(left + 0.5, right - 0.5, 1.0) if chance(rng, 0.7) else ():
            canvas.floor(x, x + 0.5, street.crossing[0] - 3.5, street.crossing[0] - 0.5, white)
    dash, gap = rng.uniform(2, 4), rng.uniform(3, 6)
    for x in street.lanes[:-1] + street.lane_width / 2:
        for z in np.arange(NEAR + rng.uniform(0, 4), 90, dash + gap):
            canvas.floor(x - 0.07, x + 0.07, z, z + dash, white)
    for x in (left + 0.4, right - 0.4) if chance(rng, 0.5) else ():
        canvas.floor(x - 0.07, x + 0.07, NEAR, 150, white)
    if street.rails is not None:
        track(canvas, rng, x=street.lanes[street.rails])


def backdrop(canvas, rng, street):
    """What closes the street at its end."""
    built, x, z = rng.choice([0.0, 0.5, 1.0]), -2 * street.end, street.end
    while x < 2 * street.end:
        width = rng.uniform(0.1, 0.3) * street.end
        if chance(rng, built):
            building(canvas, rng, x, x + width, z, z + 5, rng.uniform(6, 20))
        else:
            thicket(canvas, rng, x + width / 2, z, width)
        x += width


# ---- what stands and moves where ------------------------------------------------------------------------------


def spans(rng, street, z, shortest, longest):
    """Successive z ranges along the street that leave the side street free."""
    while z < street.end:
        length = rng.uniform(shortest, longest)
        if not street.crossing or z + length < street.crossing[0] - 2 or z > street.crossing[1] + 2:
            yield z, z + length
        z += length


def side_objects(rng, street, side):
    """Yields (distance of its lane from the camera, z, draw) for all that stands beyond a kerb."""
    sign, kerb, edge = side.sign, side.kerb, side.edge
    height, inner = rng.uniform(5, 20), edge + rng.uniform(0.5, 6) * (side.boundary != "none") + 0.4
    x0, x1 = sorted((sign * inner, sign * (inner + 12)))
    for z0, z1 in spans(rng, street, NEAR, 6, 20):
        if side.row == "buildings":
            z1, floors = z1 - rng.choice([0, 0, 1.5]), height * rng.uniform(0.7, 1.3)
            yield inner, z0, partial(building, x0=x0, x1=x1, z0=z0, z1=z1, height=floors)
        elif side.row == "trees" or chance(rng, 0.25):
            for z in rng.uniform(z0, z1, 3) + 3:
                x = sign * (inner + rng.uniform(1, 9))
                yield inner, z, partial(tree, x=x, z=z, height=rng.uniform(5, 13))
    if side.boundary != "none":
        palette = {"wall": STONES, "fence": STEEL, "hedge": LEAVES}[side.boundary]
        x0, x1 = sorted((sign * edge, sign * (edge + 0.35)))
        look = {"style": side.boundary, "color": tint(rng, palette), "height": rng.uniform(1.1, 3)}
        for z0, z1 in spans(rng, street, NEAR, 4, 8):
            yield edge, z0, partial(barrier, x0=x0, x1=x1, z0=z0, z1=z1, **look)
    if chance(rng, 0.4):
        for z, _ in spans(rng, street, rng.uniform(6, 15), 6, 14):
            yield kerb + 0.6, z, partial(tree, x=sign * (kerb + 0.8), z=z, height=rng.uniform(5, 9))
    for top, most in (("lamp", 3), ("sign", 3), ("post", 2), ("light", 1)):
        for z in rng.uniform(5, 22, rng.integers(most + 1)):
            z = street.crossing[0] - 3 if top == "light" and street.crossing else z
            yield kerb + 0.5, z, partial(pole, x=sign * (kerb + rng.uniform(0.3, 0.8)), z=z, top=top)
    for z in rng.uniform(5, 26, rng.poisson(2.2)):
        yield kerb + 0.7, z, partial(figure, x=sign * rng.uniform(kerb + 0.6, edge), y=0, z=z, label=PERSON)
    for z in rng.uniform(4.5, 13, rng.choice([0, 0, 1, 3])):
        bike = {"label": pick(rng, (BICYCLE, MOTORCYCLE)), "ridden": False, "turn": rng.uniform(0.3, 1)}
        yield kerb + 0.65, z, partial(two_wheeler, x=sign * (kerb + rng.uniform(0.4, 1.2)), z=z, **bike)


def lane_objects(rng, street, lane):
    """Yields (distance of the lane from the camera, z, draw) for the traffic in one lane."""
    x = street.lanes[lane]
    distance, z = max(0, abs(x) - street.lane_width / 2), rng.uniform(5, 14) + (4 if abs(x) < 1.5 else 0)
    oncoming, busy = chance(rng, 0.5), rng.uniform(0.2, 0.9)
    for _ in range(4):
        label = pick(rng, (CAR, BUS, TRUCK, BICYCLE, MOTORCYCLE), (0.5, 0.11, 0.11, 0.14, 0.14))
        if lane == street.rails and chance(rng, 0.65):
            label = TRAIN
        length = rng.uniform(*LENGTH.get(label, (2, 3)))
        at = {"x": x + rng.uniform(-0.3, 0.3) * (label != TRAIN), "z": z, "label": label}
        if label in LENGTH and (label == TRAIN or chance(rng, busy)):
            yield distance, z, partial(vehicle, length=length, across=False, oncoming=oncoming, **at)
        elif label not in LENGTH:
            yield distance, z, partial(two_wheeler, ridden=True, turn=rng.uniform(0.25, 0.7), **at)
        z += length + rng.uniform(1.5, 9)


def crossers(rng, street):
    """What moves across the street at one depth: (that z, list of draw)."""
    z, x, draws = street.crossing[0] + 1 if street.crossing else rng.uniform(7, 16), rng.uniform(-5, 5), []
    label = pick(rng, (CAR, BUS, TRUCK, TRAIN, BICYCLE, MOTORCYCLE))
    if label not in LENGTH and chance(rng, 0.6):
        draws.append(partial(two_wheeler, x=x, z=z, label=label, ridden=True, turn=rng.uniform(0.8, 1)))
    elif label in LENGTH and street.crossing and chance(rng, 0.8):
        look = {"label": label, "length": rng.uniform(*LENGTH[label]), "oncoming": chance(rng, 0.5)}
        draws += [partial(track, z=z + 2.25)] * (label == TRAIN)
        draws.append(partial(vehicle, x=x, z=z + 1, across=True, **look))
    for dx in rng.uniform(-4, 4, rng.choice([0, 0, 1, 2])):
        draws.append(partial(figure, x=x + dx, y=0, z=z - 0.5, label=PERSON))
    return z, draws


def draw_scene(rng, size):
    """One street of `size` (height, width) -> image uint8 [h, w, 3] RGB, label uint8 [h, w]."""
    street = make_street(rng)
    canvas = Canvas(size, street.camera, haze=rng.uniform(175, 225) + np.array([0, 3, 6]), sun=rng.uniform(0.6, 1.1, 3))
    sky(canvas, rng)
    ground(canvas, rng, street)
    backdrop(canvas, rng, street)
    items = [item for side in street.sides for item in side_objects(rng, street, side)]
    items += [item for lane in range(len(street.lanes)) for item in lane_objects(rng, street, lane)]
    items.sort(key=lambda item: (-item[0], -item[1]))  # of two lanes the inner one hides the outer one
    depth, across = crossers(rng, street)
    behind, before = ([draw for _, z, draw in items if (z < depth) == near] for near in (False, True))
    for draw in behind + across + before:
        draw(canvas, rng)
    if chance(rng, 0.35):
        hood(canvas, rng)
    return expose(canvas, rng), canvas.label
