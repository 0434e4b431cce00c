"""How fast tiles of photographs are decoded, and how many bytes they take, form by form.

    python tests/show/codecs.py FOLDER

FOLDER holds images *_leftImg8bit.png, such as `frames.py` makes; ten tiles of each of the first twelve are read nine
times in every form, in turns. Prints milliseconds for a million pixels (medians) and bytes against the form in use.
"""

import sys
import time
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np

from cropjax.data.files import read_image
from cropjax.data.store import TILE, encode_tile

SIZE = TILE * TILE * 3


def differences(tile, axis):
    return imagecodecs.delta_encode(tile, axis=axis).tobytes()


def blosc(compressor, axis):
    options = {"compressor": compressor, "level": 9, "shuffle": "bitshuffle", "typesize": 1, "numthreads": 1}
    decode = partial(imagecodecs.blosc_decode, numthreads=1, out=SIZE)
    return lambda tile: imagecodecs.blosc_encode(differences(tile, axis), **options), decode


def behind(encode, decode, **options):
    """A codec of bytes behind the differences from above."""
    return lambda tile: encode(differences(tile, 0), **options), partial(decode, out=SIZE)


FORMS = {
    "Blosc of LZ4, differences from above": (encode_tile, partial(imagecodecs.blosc_decode, numthreads=1, out=SIZE)),
    "LZ4 of the same, bits not in planes": behind(imagecodecs.lz4_encode, imagecodecs.lz4_decode, level=12),
    "Blosc of LZ4, differences from the left": blosc("lz4hc", 1),
    "Blosc of Zstandard": blosc("zstd", 0),
    "Zstandard, level 6": behind(imagecodecs.zstd_encode, imagecodecs.zstd_decode, level=6),
    "DEFLATE (libdeflate)": behind(imagecodecs.deflate_encode, imagecodecs.deflate_decode, level=9),
    "QOI": (imagecodecs.qoi_encode, imagecodecs.qoi_decode),
    "WebP, lossless": (partial(imagecodecs.webp_encode, lossless=True), imagecodecs.webp_decode),
    "PNG": (imagecodecs.png_encode, imagecodecs.png_decode),
}


def main(folder):
    rng = np.random.default_rng(0)
    tiles = []
    for path in sorted(Path(folder).rglob("*_leftImg8bit.png"))[:12]:
        image = read_image(path)
        for _ in range(10):
            y, x = (TILE * int(rng.integers(n // TILE)) for n in image.shape[:2])
            tiles.append(np.ascontiguousarray(image[y : y + TILE, x : x + TILE]))
    stored = {name: [encode(tile) for tile in tiles] for name, (encode, _) in FORMS.items()}
    seconds = {name: [] for name in FORMS}
    for _ in range(9):
        for name, (_, decode) in FORMS.items():
            began = time.perf_counter()
            for data in stored[name]:
                decode(data)
            seconds[name].append(time.perf_counter() - began)
    sizes = {name: sum(map(len, data)) for name, data in stored.items()}
    megapixels, used = len(tiles) * TILE * TILE / 1e6, next(iter(sizes.values()))
    for name in FORMS:
        print(f"{name:40} {1e3 * np.median(seconds[name]) / megapixels:5.1f} ms {sizes[name] / used:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
