"""Semantic segmentation in JAX: what does the training crop do to a network, and why?"""
