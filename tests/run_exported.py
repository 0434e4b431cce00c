"""Runs exported files without cropjax, which it forbids itself to import: needs jax, numpy and onnxruntime.

    python tests/run_exported.py images_and_logits.npz model.stablehlo model.onnx

prints the largest difference from the logits in the file; `python -m cropjax.export` wrote the others.
"""

import sys

import numpy as np


def run(path, images):
    import jax
    import onnxruntime

    if path.endswith(".stablehlo"):
        with open(path, "rb") as file:
            return jax.export.deserialize(file.read()).call(images)
    return onnxruntime.InferenceSession(path).run(None, {"images": images})[0]


if __name__ == "__main__":
    sys.modules |= dict.fromkeys(("cropjax", "flax", "jax2onnx"))  # importing them is an error from here on
    expected = np.load(sys.argv[1])
    for path in sys.argv[2:]:
        found = np.asarray(run(path, expected["images"]))
        print(path, found.dtype, found.shape, np.abs(found - expected["logits"]).max())
        np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=1e-5 * np.abs(found).max())
