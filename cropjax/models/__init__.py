"""The networks: backbones, heads and the segmentor that joins them. Inputs are normalised NHWC images."""
