"""Street scenes drawn by us: a data set with the Cityscapes classes, no download, any size, any number.

A scene is a street in metres (x right, y up, z ahead; the camera stands at x = z = 0) seen through a pinhole with
one vanishing point. `draw_scene` goes from parameters (`Street`, `Side`) to layers (sky, ground, backdrop) to
objects, painted far to near, image and label with the same polygons. Several classes can be told by context only:
a rider is a person above a two-wheeler, a sidewalk is a road beyond a kerb, a wall is a building without windows,
and bus, truck and train wear the same paint.
"""

import math
import operator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

import cv2
import numpy as np

from cropjax.data.labels import CITYSCAPES, IGNORE
from cropjax.errors import UserError

SPLITS = ("train", "val", "test")
(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY) = range(11)
(PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(11, 19)

# Kind of street: its share, width in metres, layouts of a side (s sidewalk, t terrain), P(boundary), P(row).
BOUNDARIES, ROWS = ("none", "wall", "fence", "hedge"), ("buildings", "trees", "open")
KINDS = {
    "avenue": (0.30, (10, 16), ("s", "s", "s", "st", "ts"), (0.65, 0.15, 0.20, 0.00), (0.75, 0.15, 0.10)),
    "narrow": (0.25, (5, 7.5), ("s",), (0.20, 0.45, 0.25, 0.10), (0.75, 0.25, 0.00)),
    "tram": (0.22, (9, 14), ("s", "s", "s", "st", "ts"), (0.60, 0.20, 0.20, 0.00), (0.70, 0.20, 0.10)),
    "green": (0.23, (6, 12), ("st", "ts", "t"), (0.35, 0.15, 0.35, 0.15), (0.15, 0.50, 0.35)),
}
LENGTH = {CAR: (3.9, 4.9), TRUCK: (6.5, 10), BUS: (9, 13), TRAIN: (18, 36)}  # metres
NEAR, FAR = 1.0, 400.0  # metres
DISC = np.stack([np.cos(np.arange(14) * np.pi / 7), np.sin(np.arange(14) * np.pi / 7)], -1)
TRIANGLE = np.array([(-1.1, -0.9), (1.1, -0.9), (0, 1)])
# A car from its rear to its front, (metres along, metres up); edges 2 and 4 are glass.
CAR_BODY = np.array([(0, 0.3), (0, 0.85), (0.2, 1), (0.7, 1.45), (2.3, 1.5), (3.1, 1), (4.1, 0.8), (4.3, 0.3)])
CAR_PANE = np.array([(0.55, 1.02), (0.85, 1.37), (2.25, 1.41), (2.8, 1.02)])
MOTOR_BODY = np.array([(-0.75, 0.7), (-0.6, 0.35), (0.3, 0.22), (0.5, 0.6), (0.45, 1.02), (-0.2, 0.78), (-0.75, 0.88)])
BIKE_FRAME = np.array([(-0.62, 0.38), (-0.2, 0.84), (0.36, 0.84), (0.36, 1), (0.5, 1), (0.64, 0.36), (0, 0.26)])
BIKE_HOLES = np.array([[(-0.12, 0.74), (0.36, 0.74), (0, 0.4)], [(-0.46, 0.4), (-0.2, 0.7), (-0.06, 0.36)]])
DARK, GLASS, WHITE, SKIN = np.array([(32.0, 32, 36), (62, 74, 88), (225, 225, 215), (205, 160, 130)])
RED, BLUE, YELLOW, GREEN, GREY = np.array(
    [(190, 32, 32), (35, 75, 165), (225, 185, 40), (60, 230, 130), (105, 106, 108)]
)
STONES = np.array([(176, 166, 150), (150, 150, 152), (168, 130, 108), (196, 186, 160), (122, 112, 108)])
PAINTS = np.array([(205, 205, 205), (60, 62, 68), (150, 30, 32), (40, 70, 135), (200, 160, 50), (120, 124, 128)])
SKIES = np.array([(120, 160, 215), (205, 210, 215), (165, 175, 190), (225, 200, 175), (140, 175, 220)])
LEAVES, GRASS, STEEL = np.array([[(66, 96, 44)], [(104, 116, 62)], [(110, 112, 112)]])
BARK = np.array([64, 52, 42])
# Strength of (grain, leaves, clouds) by class; equal rows are textures that do not tell classes apart.
TEXTURE = np.full((256, 3), (3, 0, 2), np.int16)
TEXTURE[[ROAD, SIDEWALK]], TEXTURE[[BUILDING, WALL]], TEXTURE[FENCE] = (9, 3, 5), (5, 0, 6), (7, 3, 4)
TEXTURE[VEGETATION], TEXTURE[TERRAIN], TEXTURE[SKY] = (12, 18, 6), (15, 8, 6), (2, 0, 18)


class Streets:
    """`count` scenes of `size` (height, width); scene i depends on (seed, split, i) only, and is drawn at any size.

    The protocol of `sources`: `self[i] -> {"image": uint8 [h, w, 3] RGB, "label": uint8 [h, w], "name": str}`.
    The image shows the middle of a scene that is twice as wide as high. UserError names a field out of range.
    """

    labels = CITYSCAPES

    def __init__(self, split: str, count: int, size: tuple[int, int], seed: int = 0):
        if split not in SPLITS:
            raise UserError(f"data.streets: there is no split {split!r}; take one of {', '.join(SPLITS)}")
        if count < 1:
            raise UserError(f"data.streets.count = {count}: take 1 or more")
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


# ---- parameters of a scene -----------------------------------------------------------------------------------


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
    height: float  # of the camera, metres
    focal: float  # in heights of the canvas
    vanishing: tuple[float, float]  # on the canvas
    sides: tuple[Side, Side]
    lanes: np.ndarray  # x of each lane's middle
    lane_width: float
    rails: int | None  # the lane with a tram line
    crossing: tuple[float, float] | None  # z range of a side street
    end: float  # z of the backdrop


def chance(rng, p):
    return rng.random() < p


def pick(rng, options, weights=None):
    return options[rng.choice(len(options), p=weights)]


def tint(rng, palette, spread=0.25):
    return pick(rng, palette) * rng.uniform(1 - spread, 1 + spread / 2) + rng.normal(0, 8, 3)


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
        height=rng.uniform(1.3, 2.3),
        focal=rng.uniform(1.1, 1.7),
        vanishing=(rng.uniform(-0.6, 0.6), rng.uniform(0.27, 0.6)),
        sides=(side(-1, left), side(1, width - left)),
        lanes=width * (np.arange(count) + 0.5) / count - left,
        lane_width=width / count,
        rails=int(rng.integers(count)) if kind == "tram" or chance(rng, 0.05) else None,
        crossing=crossing,
        end=crossing[1] + 5 if crossing and chance(rng, 0.4) else rng.uniform(60, 180),
    )


# ---- painting ------------------------------------------------------------------------------------------------


class Canvas:
    """Image and label under one brush. Canvas coordinates: u in -1..1, v in 0..1 downwards, whatever the size."""

    def __init__(self, size, street, haze, sun):
        self.street, self.haze, self.sun = street, haze, sun  # sun: light on faces to the right, left, camera
        self.image, self.label = np.zeros((*size, 3), np.uint8), np.full(size, SKY, np.uint8)
        self.scale = max(size[0], -(-size[1] // 2))  # pixels of v = 1; the picture is the canvas' middle
        self.origin = np.array([size[1] / 2 - 0.5, (size[0] - self.scale) / 2 - 0.5])

    def flat(self, points, color, label=None):
        """Polygons [k, 2] or [n, k, 2] on the canvas in one colour [3]; without a label, the label below stays."""
        points = np.rint((points * self.scale + self.origin) * 16).astype(np.int32)
        polygons = [points] if points.ndim == 2 else list(points)
        cv2.fillPoly(self.image, polygons, color.tolist(), cv2.LINE_8, 4)
        if label is not None:
            cv2.fillPoly(self.label, polygons, label, cv2.LINE_8, 4)

    def hazed(self, color, z):
        return self.haze + (color - self.haze) * math.exp(-z / 250)

    def solid(self, points, color, label=None):
        """Polygons [k, 3] or [n, k, 3] in metres, hazier with distance."""
        z = np.maximum(points[..., 2:], NEAR)
        offset = (points[..., :2] - (0, self.street.height)) * (1, -1)
        self.flat(offset * (self.street.focal / z) + self.street.vanishing, self.hazed(color, z.min()), label)

    def card(self, x, y, z, parts, label, turn=1.0):
        """Polygons [k, 2] in metres with colours, on an upright card at (x, y, z); turn < 1 shows it askew."""
        scale = self.street.focal / max(z, NEAR)
        corner = self.street.vanishing + scale * np.array([x, self.street.height - y])
        for points, color in parts:
            self.flat(points * np.array([scale * turn, -scale]) + corner, self.hazed(color, z), label)

    def floor(self, x0, x1, z0, z1, color, label=None):
        self.solid(np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)]), color, label)

    def box(self, x0, x1, z0, z1, height, color, label):
        """An upright box; returns its visible faces, each ((xa, za), (xb, zb), height)."""
        faces = [((x0, z0), (x1, z0), height)]
        if x1 < 0 or x0 > 0:
            faces.insert(0, ((x1, z0), (x1, z1), height) if x1 < 0 else ((x0, z0), (x0, z1), height))
        if height < self.street.height:
            top = np.array([(x0, height, z0), (x1, height, z0), (x1, height, z1), (x0, height, z1)])
            self.solid(top, color * 1.1, label)
        for face in faces:
            side = 2 if face is faces[-1] else int(x0 > 0)
            self.solid(on_face(face, 0, 1, 0, 1), color * self.sun[side], label)
        return faces


def rectangle(x0, x1, y0, y1):
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def on_face(face, s0, s1, t0, t1):
    """Rectangles on a face, in shares of its length (s) and height (t) -> metres [..., 4, 3]."""
    (xa, za), (xb, zb), height = face
    s0, s1, t0, t1 = np.broadcast_arrays(s0, s1, t0, t1)
    s, t = np.stack([s0, s1, s1, s0], -1), np.stack([t0, t0, t1, t1], -1)
    return np.stack([xa + (xb - xa) * s, height * t, za + (zb - za) * s], -1)


def panes(face, pitch, rows, low, high, gap):
    """Rows of windows about `pitch` metres apart, between two shares of a face's height -> metres [n, 4, 3]."""
    columns = max(1, round(np.hypot(face[1][0] - face[0][0], face[1][1] - face[0][1]) / pitch))
    s, t = (a.ravel() for a in np.meshgrid(np.arange(columns), np.arange(rows)))
    step, (a, b) = (high - low) / rows, (gap / 2, 1 - gap / 2)
    return on_face(face, (s + a) / columns, (s + b) / columns, low + (t + a) * step, low + (t + b) * step)


# ---- objects: one function each, standing at (x, z) metres -----------------------------------------------------


def building(canvas, rng, x0, x1, z0, z1, height):
    color, glass, pitch, gap = tint(rng, STONES), tint(rng, [GLASS], 0.4), rng.uniform(2, 3.5), rng.uniform(0.4, 0.75)
    floors, shop = max(2, round(height / 3.3)), chance(rng, 0.35)
    for face in canvas.box(x0, x1, z0, z1, height, color, BUILDING):
        canvas.solid(panes(face, pitch, floors - shop, shop / floors + 0.03, 0.95, gap), glass)
        canvas.solid(on_face(face, 0, 1, 0.97, 1), color * 0.6)
        if shop:
            canvas.solid(panes(face, 4, 1, 0, 0.9 / floors, 0.2), glass * 0.8)


def barrier(canvas, rng, style, x0, x1, z0, z1, height, color):
    """A piece of a wall, a fence or a hedge."""
    if style == "hedge":
        for z in np.linspace(z1, z0, 5):
            bush = (DISC * 0.6 + (0, 0.6)) * height
            canvas.card((x0 + x1) / 2, 0, z, [(bush, color * rng.uniform(0.8, 1.1))], VEGETATION)
    faces = canvas.box(x0, x1, z0, z1, height, color, {"wall": WALL, "fence": FENCE, "hedge": VEGETATION}[style])
    for face in faces[:-1]:
        if style == "wall":
            canvas.solid(on_face(face, 0, 1, 0.93, 1), color * 1.12)
        if style == "fence":
            canvas.solid(panes(face, 0.45, 1, 0.06, 0.92, 0.45), color * 0.45)


def tree(canvas, rng, x, z, height):
    color, crown, trunk = tint(rng, LEAVES), height * rng.uniform(0.28, 0.42), 0.1 + height * 0.018
    canvas.card(x, 0, z, [(rectangle(-trunk, trunk, 0, height * 0.6), BARK)], VEGETATION)
    tufts = rng.uniform((-0.7, -0.6, 0.35, 0.7), (0.7, 0.6, 0.65, 1.35), (13, 4))
    parts = [((DISC * r + (dx, dy - 1)) * crown, color * shade) for dx, dy, r, shade in tufts]
    canvas.card(x, height, z, parts, VEGETATION)


def pole(canvas, rng, x, z, top):
    """A post, with a lamp, traffic lights or a sign if `top` says so."""
    color, r = tint(rng, STEEL, 0.4), rng.uniform(0.06, 0.13)
    height = rng.uniform(*{"lamp": (5.5, 9), "light": (2.8, 4.6), "sign": (2.2, 3.4), "post": (2, 8)}[top])
    arm = rng.uniform(*((0.8, 2) if top == "lamp" else (1.5, 4))) * (-1 if x > 0 else 1)  # towards the road
    hung = top == "light" and chance(rng, 0.35)
    canvas.card(x, 0, z, [(rectangle(-r, r, 0, height), color)], POLE)
    if top == "lamp" or hung:
        canvas.card(x, height, z, [(rectangle(0, arm, -0.15, 0), color)], POLE)
    if top == "light":
        on = rng.integers(3)
        for dx, y in ((0, height - 1), (arm, height - 1.1))[: 1 + hung]:
            lamps = enumerate((GREEN, YELLOW, RED))
            lamps = [(DISC * 0.15 + (0, 0.3 + 0.38 * i), lamp * (1.2 if i == on else 0.3)) for i, lamp in lamps]
            canvas.card(x + dx, y, z, [(rectangle(-0.27, 0.27, 0, 1.35), DARK), *lamps], LIGHT)
    if top == "sign":
        size, wide, light = rng.uniform((0.38, 1, 0.7), (0.6, 2.4, 1.1))
        plate, lines = (
            rectangle(-wide, wide, -1, 1),
            [rectangle(-wide * 0.7, wide * 0.7, y, y + 0.25) for y in (-0.5, 0.2)],
        )
        parts = (
            [(DISC, RED), (DISC * 0.7, WHITE)],
            [(TRIANGLE, RED), (TRIANGLE * 0.6 - (0, 0.1), WHITE)],
            [(DISC, BLUE), (rectangle(-0.2, 0.2, -0.6, 0.6), WHITE)],
            [(plate, pick(rng, (BLUE, YELLOW, WHITE))), *((line, WHITE * 0.8) for line in lines)],
        )[rng.integers(4)]
        canvas.card(x, height, z, [(points * size, color * light) for points, color in parts], SIGN)


def figure(canvas, rng, x, y, z, label):
    """A person or, above a two-wheeler, a rider: the same drawing."""
    coat, legs = rng.uniform(25, 190) + rng.normal(0, 28, 3), rng.uniform(25, 100) + rng.normal(0, 12, 3)
    skin, parts = SKIN * rng.uniform(0.45, 1.1), []
    step, hand = rng.uniform((0.02, 0.25), (0.28, 0.4))
    for way in (-1, 1):
        parts.append((np.array([(step - 0.09, 0), (step + 0.09, 0), (0.16, 0.85), (-0.16, 0.85)]) * (way, 1), legs))
        arm = np.array([(hand - 0.07, 0.75), (hand + 0.07, 0.75), (0.24, 1.42), (0.1, 1.42)])
        parts.append((arm * (way, 1), coat * 0.85))
    torso = [(-0.19, 0.78), (0.19, 0.78), (0.25, 1.4), (0.1, 1.5), (-0.1, 1.5), (-0.25, 1.4)]
    head, hair = DISC * (0.12, 0.15) + (0, 1.62), DISC * (0.13, 0.09) + (0, 1.71)
    parts += [(np.array(torso), coat), (head, skin), (hair, legs * 0.7)]
    size = rng.uniform(0.88, 1.08)
    canvas.card(x, y, z, [(points * size, color) for points, color in parts], label)


def two_wheeler(canvas, rng, x, z, label, ridden, turn):
    """A bicycle or a motorcycle, from its side (turn 1) to its end (turn near 0)."""
    color, parts = tint(rng, PAINTS), []
    radius, hub = (0.32, 0.6) if label == MOTORCYCLE else (0.36, 0.8)
    for way in (-0.58, 0.58):
        for r, paint in ((radius, DARK), (radius * hub, GREY)):
            parts.append((DISC * (max(r, 0.1 / turn), r) + (way, radius), paint))
    if label == MOTORCYCLE:
        engine, seat = rectangle(-0.3, 0.2, 0.25, 0.55), rectangle(-0.65, 0, 0.78, 0.9)
        parts += [(MOTOR_BODY, color), (engine, DARK * 1.5), (seat, DARK)]
    else:
        parts += [(BIKE_FRAME, color), *((hole, GREY) for hole in BIKE_HOLES)]
    canvas.floor(x - 0.9 * turn, x + 0.9 * turn, z - 0.1, z + 0.2, DARK * 1.5)
    canvas.card(x, 0, z, parts, label, turn)
    canvas.card(x + 0.4 * turn, 0, z, [(rectangle(-0.25, 0.25, 0.98, 1.05), DARK)], label)
    if ridden:
        figure(canvas, rng, x - 0.1 * turn, 0.4, z, RIDER)


def vehicle(canvas, rng, x, z, label, length, across, oncoming):
    """A car, or one of three heavy bodies that differ in windows, wheels, cargo and length."""
    width, top = (1.8, rng.uniform(0.95, 1.2)) if label == CAR else (2.5, rng.uniform(3, 3.6))
    color, wheels, radius = tint(rng, PAINTS), (0.18, 0.8), 0.34 if label == CAR else 0.48
    bottom = 0.12 if label == TRAIN else 0.3

    def place(s, y, t):
        """Metres from the tail, metres up, share of the width -> [..., 3]."""
        s, t = length - s if oncoming else s, np.asarray(t)
        ground = (x + s - length / 2, z + t * width) if across else (x + (t - 0.5) * width, z + s)
        return np.stack(np.broadcast_arrays(ground[0], y, ground[1]), -1)

    def slab(s0, s1, y0, y1):
        return np.array([(s0, y0), (s0, y1), (s1, y1), (s1, y0)])

    if label == CAR:
        scale = (length / 4.3, top)
        bodies, glass = [(CAR_BODY * scale, color)], [CAR_PANE * scale]
    elif label == TRUCK:
        cab = slab(length - 2, length, 0.55, top * 0.8)
        bodies = [(slab(0, length - 2.1, 0.55, top), color), (cab, tint(rng, PAINTS))]
        glass, wheels = [slab(length - 1.3, length - 0.3, top * 0.45, top * 0.7)], (0.12, 0.24, 0.88)
    else:
        floor, count, wheels = (0.25, round(length / 9), ()) if label == TRAIN else (0.55, 1, wheels)
        joints = pairwise(np.linspace(0, length, count + 1))
        bodies = [(slab(a + 0.2, b - 0.2, floor, top), color) for a, b in joints]
        glass = [slab(s, s + 1.25, top * 0.5, top * 0.85) for s in np.arange(0.6, length - 1.6, 1.6)]

    far_to_near = slice(None, None, 1 if oncoming else -1)
    chassis = slab(0.3, length - 0.3, bottom, 0.5 if label == CAR else top * 0.75), DARK
    face, light = (0 if across or x > 0 else 1), canvas.sun[2 if across else int(x > 0)]
    beside = across or abs(x) > width / 2  # else the camera looks along the vehicle and sees its end only
    canvas.solid(place(np.array([-0.1, length, length, -0.1]), 0, [-0.03, -0.03, 1.03, 1.03]), DARK * 1.5)
    for body, paint in (chassis, *bodies[far_to_near]):
        for i, ((sa, ya), (sb, yb)) in list(enumerate(pairwise(body)))[far_to_near]:
            quad = place(np.array([sa, sb, sb, sa]), [ya, yb, yb, ya], [0, 0, 1, 1])
            window = len(body) == len(CAR_BODY) and i in (2, 4)
            canvas.solid(quad, GLASS if window else paint * canvas.sun[2], label)
        if beside:
            canvas.solid(place(*body.T, face), paint * light, label)
    if beside:
        for pane in glass:
            canvas.solid(place(*pane.T, face), GLASS, label)
        for share in wheels:
            for r, rubber in ((radius, DARK), (radius / 2, DARK * 3.5)):
                s, y = (DISC * r + (share * length, radius)).T
                canvas.solid(place(s, y, face), rubber, label)
    if not across:
        lamp, high = WHITE if oncoming else RED, top * (0.72 if label == TRUCK else 0.85)
        details = [(t, t + 0.16, 0.66, 0.82, lamp) for t in (0.04, 0.8)]
        details += [(t, t + 0.17, 0.02, 0.4, DARK) for t in (0.05, 0.78) if wheels]
        if label == CAR:
            details.append((0.38, 0.62, 0.42, 0.54, WHITE))
        elif label == TRUCK and not oncoming:
            details.append((0.485, 0.515, 0.6, top * 0.97, color * 0.6))  # cargo doors
        else:
            details.append((0.1, 0.9, top * 0.45, high, GLASS))
        for t0, t1, y0, y1, paint in details:
            canvas.solid(place(length if oncoming else 0, [y0, y0, y1, y1], [t0, t1, t1, t0]), paint, label)


# ---- layers --------------------------------------------------------------------------------------------------


def sky(canvas, rng):
    v = np.linspace(0, 1, len(canvas.image))[:, None, None]
    canvas.image[:] = np.clip(pick(rng, SKIES) * (1 - v) + canvas.haze * v, 0, 255)


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


def track(canvas, rng, x=None, z=None):
    """Rails along the street at x, or across it at z; the ground keeps its label."""
    for offset in (-0.75, 0.75):
        for half, color in ((0.12, DARK * 2), (0.04, WHITE * 0.8)):
            if z is None:
                canvas.floor(x + offset - half, x + offset + half, NEAR, FAR, color)
            else:
                canvas.floor(-FAR, FAR, z + offset - half, z + offset + half, color)


def backdrop(canvas, rng, street):
    """What closes the street at its end."""
    built, x, z = rng.choice([0.0, 0.5, 1.0]), -2 * street.end, street.end
    while x < 2 * street.end:
        width = rng.uniform(0.1, 0.3) * street.end
        if chance(rng, built):
            building(canvas, rng, x, x + width, z, z + 5, rng.uniform(6, 20))
        else:
            bush = DISC.clip((-1, 0), 1) * (width * 0.7, rng.uniform(4, 12))
            canvas.card(x + width / 2, 0, z, [(bush, tint(rng, LEAVES))], VEGETATION)
        x += width


def hood(canvas, rng):
    u, top = np.linspace(-1.05, 1.05, 15), rng.uniform(0.9, 0.97)
    edge = np.stack([u, top + 0.06 * u**2], -1)
    canvas.flat(np.concatenate([edge, [(1.1, 1.1), (-1.1, 1.1)]]), rng.uniform(20, 110) + rng.normal(0, 5, 3), IGNORE)


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


@cache
def noise():
    """Grain, leaves and clouds, the same for every scene: three int16 [768, 1536] in -64..64."""
    rng, tiles = np.random.default_rng(0), []
    for octaves in ((1, 2), (3, 6, 12), (48, 96, 192)):
        tile = sum(cv2.resize(rng.standard_normal((768 // k, 1536 // k), np.float32), (1536, 768)) for k in octaves)
        tiles.append(np.clip(tile * 30 / tile.std(), -64, 64).astype(np.int16))
    return tuple(tiles)


def expose(canvas, rng):
    """The picture with each class's texture, then the scene's light: uint8 [h, w, 3]."""
    (h, w), cover, total = canvas.label.shape, canvas.scale, np.zeros(canvas.label.shape, np.int16)
    for tile, strength in zip(noise(), TEXTURE.T, strict=True):
        y, x = rng.integers(256), rng.integers(512)
        tile = cv2.resize(tile[y : y + 512, x : x + 1024], (2 * cover, cover))
        tile = tile[(cover - h) // 2 :, (2 * cover - w) // 2 :][:h, :w]
        total += tile * strength[canvas.label] >> 5
    image = cv2.blur(canvas.image, (2, 2)) + total[..., None]
    gain, gamma = rng.uniform(0.75, 1.15) * rng.uniform(0.93, 1.07, 3), rng.uniform(0.75, 1.2)
    curve = 255 * (np.arange(256)[:, None] / 255) ** gamma * gain
    return cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), np.clip(curve, 0, 255).astype(np.uint8)[None])


def draw_scene(rng, size):
    """One street of `size` (height, width) -> image uint8 [h, w, 3] RGB, label uint8 [h, w]."""
    street = make_street(rng)
    canvas = Canvas(size, street, haze=rng.uniform(175, 225) + np.array([0, 3, 6]), sun=rng.uniform(0.6, 1.1, 3))
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
