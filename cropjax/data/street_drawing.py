"""How the street scenes are drawn: a canvas with a camera, one function per kind of object, texture and light.

Metres are x right, y up, z ahead; the camera stands at x = z = 0. Whatever is drawn later hides what is there, and
image and label get the same polygons. What stands where is decided in `streets`.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import cv2
import numpy as np

from cropjax.data.labels import IGNORE

(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY) = range(11)
(PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(11, 19)

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


def chance(rng, p):
    return rng.random() < p


def pick(rng, options, weights=None):
    return options[rng.choice(len(options), p=weights)]


def tint(rng, palette, spread=0.25):
    return pick(rng, palette) * rng.uniform(1 - spread, 1 + spread / 2) + rng.normal(0, 8, 3)


# ---- painting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks along the street."""

    height: float  # metres
    focal: float  # in heights of the canvas
    vanishing: tuple[float, float]  # on the canvas


class Canvas:
    """Image and label under one brush. Canvas coordinates: u in -1..1, v in 0..1 downwards, whatever the size."""

    def __init__(self, size, camera, haze, sun):
        self.camera, self.haze, self.sun = camera, haze, sun  # sun: light on faces to the right, left, camera
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
        offset = (points[..., :2] - (0, self.camera.height)) * (1, -1)
        self.flat(offset * (self.camera.focal / z) + self.camera.vanishing, self.hazed(color, z.min()), label)

    def card(self, x, y, z, parts, label, turn=1.0):
        """Polygons [k, 2] in metres with colours, on an upright card at (x, y, z); turn < 1 shows it askew."""
        scale = self.camera.focal / max(z, NEAR)
        corner = self.camera.vanishing + scale * np.array([x, self.camera.height - y])
        for points, color in parts:
            self.flat(points * np.array([scale * turn, -scale]) + corner, self.hazed(color, z), label)

    def floor(self, x0, x1, z0, z1, color, label=None):
        self.solid(np.array([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)]), color, label)

    def box(self, x0, x1, z0, z1, height, color, label):
        """An upright box; returns its visible faces, each ((xa, za), (xb, zb), height)."""
        faces = [((x0, z0), (x1, z0), height)]
        if x1 < 0 or x0 > 0:
            faces.insert(0, ((x1, z0), (x1, z1), height) if x1 < 0 else ((x0, z0), (x0, z1), height))
        if height < self.camera.height:
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


# ---- objects: one function each, standing at (x, z) metres ----------------------------------------------------


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


def thicket(canvas, rng, x, z, width):
    """Leaves from the ground up, about `width` metres wide."""
    bush = DISC.clip((-1, 0), 1) * (width * 0.7, rng.uniform(4, 12))
    canvas.card(x, 0, z, [(bush, tint(rng, LEAVES))], VEGETATION)


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


def track(canvas, rng, x=None, z=None):
    """Rails along the street at x, or across it at z; the ground keeps its label."""
    for offset in (-0.75, 0.75):
        for half, color in ((0.12, DARK * 2), (0.04, WHITE * 0.8)):
            if z is None:
                canvas.floor(x + offset - half, x + offset + half, NEAR, FAR, color)
            else:
                canvas.floor(-FAR, FAR, z + offset - half, z + offset + half, color)


# ---- the whole picture ----------------------------------------------------------------------------------------


def sky(canvas, rng):
    v = np.linspace(0, 1, len(canvas.image))[:, None, None]
    canvas.image[:] = np.clip(pick(rng, SKIES) * (1 - v) + canvas.haze * v, 0, 255)


def hood(canvas, rng):
    u, top = np.linspace(-1.05, 1.05, 15), rng.uniform(0.9, 0.97)
    edge = np.stack([u, top + 0.06 * u**2], -1)
    canvas.flat(np.concatenate([edge, [(1.1, 1.1), (-1.1, 1.1)]]), rng.uniform(20, 110) + rng.normal(0, 5, 3), IGNORE)


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
