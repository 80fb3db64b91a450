"""A bank of linear maps for windows of an image, one for each component of the prior; the E step picks.

For each component k of the prior, one ridge regression from a window of some images (the noisy one, estimates of it) to
the clean patch in its middle. The choice is the E step's largest responsibility; overlapping answers are averaged.
Since the maps are fitted on clamped noise, they need no separate correction of the bias that clamping brings.

Sources: Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm", Neural Computation 1994;
Romano, Isidoro and Milanfar, RAISR, 2017 (a bank of filters chosen by hashing; here the posterior chooses).

Symbols: B images, H, W; p window side (the prior's patch), q = p - 2 side of the answer, N windows =
B (H - q + 1)(W - q + 1), K components, R directions of the prior, I inputs of a map: 3 p^2 for each image, and 1.
"""

import numpy as np

from lib.diffusion import em

FEW_ROWS = 2048  # windows of one step with a shortlist; what it makes stays in the cache
COARSE = 16  # leading directions of a window that make the shortlist
NEGLIGIBLE = 0.03  # of the noise variance: a direction with less hardly moves a likelihood


def windows_of(images, patch):
    """Windows (N, 3 p^2) of images (B, 3, H, W), mirrored by one pixel at the border."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric")
    return em.extract(padded, patch)


def choose(prior, images, sigma, shortlist=None):
    """The component with the largest responsibility for each window of images (B, 3, H, W): (N,) indices.

    With a `shortlist` of m, only the m components that are likeliest by the window's COARSE leading directions are
    compared in full: four times faster, and nearly always the same choice.
    """
    rank = prior.means.shape[1]
    windows = windows_of(images, prior.patch)
    chosen = np.empty(len(windows), np.int64)
    likely = _Likely(prior, sigma)
    rows = em.CHUNK if shortlist is None else FEW_ROWS
    for start in range(0, len(windows), rows):
        part = slice(start, start + rows)
        coordinates = (windows[part] - prior.mean) @ prior.basis[:, :rank]  # (N, R)
        if shortlist is None:
            chosen[part] = likely.scores(coordinates).argmax(axis=1)
        else:
            chosen[part] = likely.best_of_few(coordinates, shortlist)
    return chosen


class _Likely:
    """The sums of `choose`, prepared for one noise level.

    With W_k the directions of component k that hold more than NEGLIGIBLE of the noise, scaled by the root of
    1/sigma^2 - 1/(value + sigma^2), log p_k(y) = constant_k + y'mu_k / sigma^2 + |W_k'(y - mu_k)|^2 / 2 up to what all
    components share: the same as `em.log_joint` but for the directions that are left out.
    """

    def __init__(self, prior, sigma):
        values = prior.values.astype(np.float64)  # (K, R)
        variance = values + sigma**2
        gain = 1 / sigma**2 - 1 / variance
        self.directions, self.offsets = [], []
        for k, means in enumerate(prior.means):
            kept = values[k] > NEGLIGIBLE * sigma**2
            directions = prior.vectors[k][:, kept] * np.sqrt(gain[k][kept])
            self.directions.append(directions.astype(np.float32))  # (R, r), r directions kept
            self.offsets.append((means @ directions).astype(np.float32))
        self.linear = (prior.means.T / sigma**2).astype(np.float32)  # (R, K)
        logs = np.log(np.maximum(prior.weights, 1e-30)) - 0.5 * np.log(variance).sum(1)
        squares = (prior.means.astype(np.float64) ** 2).sum(1)
        self.constants = (logs - 0.5 * squares / sigma**2).astype(np.float32)
        self._prepare_coarse(prior, sigma)

    def _prepare_coarse(self, prior, sigma):
        """Every component as a Gaussian of the COARSE leading directions alone: whitening and constant."""
        whitened, offsets, constants = [], [], []
        coarse = min(COARSE, prior.means.shape[1])
        for k, means in enumerate(prior.means):
            vectors = prior.vectors[k][:coarse].astype(np.float64)
            covariance = (vectors * prior.values[k]) @ vectors.T + sigma**2 * np.eye(coarse)
            variance, axes = np.linalg.eigh(covariance)
            whiten = axes / np.sqrt(variance)  # (R', R')
            whitened.append(whiten)
            offsets.append(means[:coarse] @ whiten)
            log_weight = np.log(max(prior.weights[k], 1e-30))
            constants.append(log_weight - 0.5 * np.log(variance).sum())
        self.coarse = np.concatenate(whitened, axis=1).astype(np.float32)  # (R', K R')
        self.coarse_offsets = np.concatenate(offsets).astype(np.float32)
        self.coarse_constants = np.array(constants, np.float32)

    def scores(self, coordinates):
        """(N, R) -> (N, K), up to one number for each row."""
        out = coordinates @ self.linear + self.constants
        for k in range(len(self.directions)):
            out[:, k] += self.square(k, coordinates)
        return out

    def square(self, k, coordinates):
        """|W_k'(y - mu_k)|^2 / 2: (N, R) -> (N,)."""
        z = coordinates @ self.directions[k] - self.offsets[k]
        return np.float32(0.5) * np.einsum("nr,nr->n", z, z)

    def best_of_few(self, coordinates, few):
        """The best component of each row among its `few` likeliest by the coarse directions: (N, R) -> (N,)."""
        count = len(self.directions)
        few = min(few, count)
        z = coordinates[:, : len(self.coarse)] @ self.coarse - self.coarse_offsets
        z = z.reshape(len(z), count, -1)
        rough = self.coarse_constants - np.float32(0.5) * np.einsum("nkr,nkr->nk", z, z)
        bar = np.partition(rough, count - few, axis=1)[:, count - few]
        rows, components = np.nonzero(rough >= bar[:, None])
        linear = coordinates @ self.linear + self.constants
        scores = np.full((len(coordinates), count), -np.inf, np.float32)
        order = np.argsort(components, kind="stable")
        begins = np.searchsorted(components[order], np.arange(count + 1))
        for k in range(count):
            own = rows[order[begins[k] : begins[k + 1]]]
            scores[own, k] = linear[own, k] + self.square(k, coordinates[own])
        return scores.argmax(axis=1)


def inputs_of(images, patch):
    """What a map sees (N, I): the windows of each of `images`, a list of (B, 3, H, W), less one half; and 1."""
    columns = [windows_of(image, patch) - np.float32(0.5) for image in images]
    ones = np.ones((len(columns[0]), 1), np.float32)
    return np.concatenate([*columns, ones], axis=1)


def by_component(chosen, count):
    """An order of the windows (N,) in which those of one component stand together, and where each begins (K + 1,)."""
    order = np.argsort(chosen, kind="stable")
    return order, np.searchsorted(chosen[order], np.arange(count + 1))


def answer(prior, maps, seen, chosen):
    """Images in [0, 1] by maps (K, I, 3 q^2) from what they see, a list of (B, 3, H, W), and the chosen components."""
    inputs = inputs_of(seen, prior.patch)
    order, begins = by_component(chosen, len(maps))
    answers = np.empty((len(inputs), maps.shape[2]), np.float32)
    for k, linear in enumerate(maps):
        own = order[begins[k] : begins[k + 1]]
        answers[own] = inputs[own] @ linear
    out = em.overlap(answers, seen[0].shape, prior.patch - 2) + np.float32(0.5)
    return np.clip(out, 0, 1)


def collect(prior, clean, seen, judged, sigma):
    """The sums of every component's least squares: gram (K, I, I) and cross (K, I, 3 q^2), float64.

    `seen` is a list of image stacks like `clean` (B, 3, H, W); the component is chosen on `judged` with noise sigma.
    """
    count, size = len(prior.weights), 3 * prior.patch**2 * len(seen) + 1
    side = prior.patch - 2
    gram = np.zeros((count, size, size))
    cross = np.zeros((count, size, 3 * side**2))
    for start in range(0, len(clean), em.BATCH):
        part = slice(start, start + em.BATCH)
        inputs = inputs_of([image[part] for image in seen], prior.patch)
        target = em.extract(clean[part], side) - np.float32(0.5)
        order, begins = by_component(choose(prior, judged[part], sigma), count)
        for k in range(count):
            own = order[begins[k] : begins[k + 1]]
            gram[k] += inputs[own].T @ inputs[own]
            cross[k] += inputs[own].T @ target[own]
    return gram, cross


def solve(gram, cross, ridge):
    """Maps (K, I, 3 q^2) float32: each component's ridge regression, drawn towards the one map of all windows."""
    unit = ridge * np.eye(gram.shape[1])
    shared = np.linalg.solve(gram.sum(0) + unit, cross.sum(0))
    maps = [np.linalg.solve(g + unit, c + ridge * shared) for g, c in zip(gram, cross, strict=True)]
    return np.stack(maps).astype(np.float32)
