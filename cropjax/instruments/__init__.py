"""Instruments: what a crop does inside a network, computed from its program and measured on images."""
