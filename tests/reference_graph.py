"""The operators of lib/diffusion/graph.py as plain matrices, slowly."""

import numpy as np

from lib.diffusion import graph


def dense(weights, radius):
    """The matrix (N, N) of weights (1, S, H, W)."""
    offsets, (_, _, height, width) = graph.stencil(radius), weights.shape
    matrix = np.zeros((height * width, height * width))
    for s, (dy, dx) in enumerate(offsets):
        for y, x in np.ndindex(height, width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                matrix[y * width + x, (y + dy) * width + x + dx] = weights[0, s, y, x]
    return matrix
