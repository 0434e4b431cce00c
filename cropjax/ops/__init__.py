"""Array operations: array in, array out; no Flax, no config. Images are NHWC, kernels HWIO."""
