"""A small artificial book for the tests of lib/language."""

import numpy as np

WORDS = "the cat sat on a mat and saw another rat that ran away from it all".split()


def story(seed=0, lines=300):
    rng = np.random.default_rng(seed)
    rows = [" ".join(rng.choice(WORDS, 8)).capitalize() + "." for _ in range(lines)]
    return "".join(row + ("\n\n" if i % 5 == 4 else "\n") for i, row in enumerate(rows))
