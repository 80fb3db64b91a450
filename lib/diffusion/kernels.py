"""The loops over pixels, compiled by Numba; nothing else stands here.

Every output row is computed by one fixed job (image, or strip of STRIP rows), and no two jobs write to the same place,
so the number of threads never changes a bit. Callers check their arguments; these functions trust them.

Symbols: B images, C channels, H, W; M features, S offsets of the stencil, K heads; float32 throughout.
"""

import numpy as np
from numba import njit, prange

STRIP = 32  # rows of one parallel job; fixed, so results do not depend on the thread count
BLOCK = 256  # pixels of one parallel job of `dense_layer`


@njit(cache=True, parallel=True)
def convolve(padded, bank, out):
    """Responses of filters (M, C, k, k) on padded images (B, C, H + k - 1, W + k - 1), added to out (B, M, H, W)."""
    for job in prange(out.shape[0] * out.shape[1]):
        b, m = job // out.shape[1], job % out.shape[1]
        width = out.shape[3]
        for y in range(out.shape[2]):
            row = out[b, m, y]
            for c in range(bank.shape[1]):
                for dy in range(bank.shape[2]):
                    for dx in range(bank.shape[3]):
                        tap = bank[m, c, dy, dx]
                        source = padded[b, c, y + dy]
                        for x in range(width):
                            row[x] += tap * source[x + dx]


@njit(cache=True)
def weigh(feat, noise, offsets, inv_h2, inv_s2, first, weights):
    """Weights (S, R, W) of the rows first..first+R-1 of one image; offset 0 gets the largest of the others."""
    rows, width = weights.shape[1], weights.shape[2]
    height = feat.shape[1]
    line = np.empty(width, np.float32)
    one, top, zero = np.float32(1), np.float32(1 / 16), np.float32(0)
    weights[:] = zero
    for s in range(1, offsets.shape[0]):
        dy, dx = offsets[s, 0], offsets[s, 1]
        if dy < 0 or (dy == 0 and dx < 0):
            continue  # an edge weighs the same from both ends: made with its mirror image
        mirror = s - 1  # it stands before its image: see `stencil`
        while offsets[mirror, 0] != -dy or offsets[mirror, 1] != -dx:
            mirror -= 1
        far = np.float32((dy * dy + dx * dx) * inv_s2)
        x0, x1 = max(0, -dx), min(width, width - dx)
        for r in range(max(-dy, -first), min(rows, height - first - dy)):
            y = first + r
            line[:] = zero
            for m in range(feat.shape[0]):
                here, there = feat[m, y], feat[m, y + dy]
                for x in range(x0, x1):
                    d = here[x] - there[x + dx]
                    line[x] += d * d
            here, there = noise[y], noise[y + dy]
            for x in range(x0, x1):
                v = here[x] + there[x + dx]
                z = max(zero, line[x] - v) * inv_h2 / v + far
                line[x] = max(zero, one - z * top) ** 16
            if r >= 0:
                out, own = weights[s, r], weights[0, r]
                for x in range(x0, x1):
                    out[x] = line[x]
                    own[x] = max(own[x], line[x])
            if r + dy < rows:
                out, own = weights[mirror, r + dy], weights[0, r + dy]
                for x in range(x0, x1):
                    out[x + dx] = line[x]
                    own[x + dx] = max(own[x + dx], line[x])


@njit(cache=True)
def normalise(weights):
    """Divide weights (S, R, W) by their sum over S; a node without any neighbour keeps its own value."""
    for r in range(weights.shape[1]):
        total = np.full(weights.shape[2], np.float32(1e-30), np.float32)
        for s in range(weights.shape[0]):
            row = weights[s, r]
            for x in range(len(total)):
                total[x] += row[x]
        lone = total < 1e-20  # no neighbour at all: the node keeps its own value
        weights[0, r][lone] = 1
        total[lone] = 1
        for s in range(weights.shape[0]):
            row = weights[s, r]
            for x in range(len(total)):
                row[x] /= total[x]


@njit(cache=True)
def box(weights, offsets, first, skip, half, height, out):
    """Average weights (S, R', W) over the patches of 2 half + 1 pixels that cover a pixel: rows of P (S, R, W)."""
    width = weights.shape[2]
    column = np.zeros(width + 2 * half, np.float32)
    inner = column[half : half + width]
    out[:] = 0
    for r in range(out.shape[1]):
        low, high = max(0, skip + r - half), min(weights.shape[1], skip + r + half + 1)
        for s in range(offsets.shape[0]):
            dy, dx = offsets[s, 0], offsets[s, 1]
            x0, x1 = max(0, -dx), min(width, width - dx)
            if first + r + dy < 0 or first + r + dy >= height or x1 <= x0:
                continue
            inner[:] = 0
            for q in range(low, high):
                row = weights[s, q]
                for x in range(width):
                    inner[x] += row[x]
            boxed = out[s, r]
            for q in range(2 * half + 1):
                for x in range(x0, x1):
                    boxed[x] += column[x + q]
    normalise(out)


@njit(cache=True, parallel=True)
def transition(feat, noise, offsets, inv_h2, inv_s2, half, out):
    """Edge weights (B, S, H, W) of all images, strip by strip: `weigh`, and for half > 0 `box` over it."""
    height, width = feat.shape[2], feat.shape[3]
    strips = (height + STRIP - 1) // STRIP
    for job in prange(feat.shape[0] * strips):
        b, first = job // strips, job % strips * STRIP
        last = min(height, first + STRIP)
        low, high = max(0, first - half), min(height, last + half)
        weights = np.empty((offsets.shape[0], high - low, width), np.float32)
        weigh(feat[b], noise[b], offsets, inv_h2, inv_s2, low, weights)
        if half:
            normalise(weights)
            box(weights, offsets, first, first - low, half, height, out[b, :, first:last])
        else:
            out[b, :, first:last] = weights


@njit(cache=True, parallel=True)
def walk(weights, images, offsets, out):
    """Weighted sums over the neighbourhood, W x: (B, S, H, W), (B, C, H, W) -> added to out (B, C, H, W)."""
    channels, height, width = images.shape[1:]
    for job in prange(images.shape[0] * height):
        b, y = job // height, job % height
        for s in range(offsets.shape[0]):
            dy, dx = offsets[s, 0], offsets[s, 1]
            if y + dy < 0 or y + dy >= height:
                continue
            part = weights[b, s, y]
            for c in range(channels):
                row, source = out[b, c, y], images[b, c, y + dy]
                for x in range(max(0, -dx), min(width, width - dx)):
                    row[x] += part[x] * source[x + dx]


@njit(cache=True, parallel=True)
def walk_back(weights, images, offsets, out):
    """The transpose of `walk`, W' x added to out: what a gradient needs. Shapes as there."""
    channels, height, width = images.shape[1:]
    for b in prange(images.shape[0]):
        for y in range(height):
            for s in range(offsets.shape[0]):
                dy, dx = offsets[s, 0], offsets[s, 1]
                if y + dy < 0 or y + dy >= height:
                    continue
                part = weights[b, s, y]
                for c in range(channels):
                    row, target = images[b, c, y], out[b, c, y + dy]
                    for x in range(max(0, -dx), min(width, width - dx)):
                        target[x + dx] += part[x] * row[x]


@njit(cache=True, parallel=True)
def dense_layer(inputs, weight, bias, rectify, out):
    """One layer of a network that looks at each pixel alone: (B, N, P), (N, O), (O,) -> out (B, O, P), P pixels."""
    pixels = inputs.shape[2]
    blocks = (pixels + BLOCK - 1) // BLOCK
    for job in prange(inputs.shape[0] * blocks):
        b, first = job // blocks, job % blocks * BLOCK
        last = min(pixels, first + BLOCK)
        for o in range(weight.shape[1]):
            row = out[b, o, first:last]
            row[:] = bias[o]
            for n in range(weight.shape[0]):
                factor, source = weight[n, o], inputs[b, n, first:last]
                for x in range(len(row)):
                    row[x] += factor * source[x]
            if rectify:
                for x in range(len(row)):
                    row[x] = max(row[x], np.float32(0))


@njit(cache=True, parallel=True)
def softmax_mix(scores, outputs, shares, mixed):
    """Softmax of scores (B, K, H, W) over K -> shares, and the heads (K, B, C, H, W) mixed by it -> (B, C, H, W)."""
    batch, heads, height, width = scores.shape
    for job in prange(batch * height):
        b, y = job // height, job % height
        for x in range(width):
            top = scores[b, 0, y, x]
            for k in range(1, heads):
                top = max(top, scores[b, k, y, x])
            total = np.float32(0)
            for k in range(heads):
                shares[b, k, y, x] = np.exp(scores[b, k, y, x] - top)
                total += shares[b, k, y, x]
            for k in range(heads):
                shares[b, k, y, x] /= total
        for c in range(mixed.shape[1]):
            row = mixed[b, c, y]
            row[:] = np.float32(0)
            for k in range(heads):
                part, source = shares[b, k, y], outputs[k, b, c, y]
                for x in range(width):
                    row[x] += part[x] * source[x]
