"""Trainings of the full profile that do not ship: where they lie, and how to make one that is missing."""

from pathlib import Path

from recording import ROOT

from lib.common.params import UserError

TREES = (ROOT, ROOT / ".full" / "tree")  # the second is where `make full` works
MINUTES = {"ours": 16, "unet": 21, "ours_committed": 22}  # of one core, as they took; others one


def weights_of(arm: str, seed: int) -> Path:
    """The weights of a full training of the mixture.

    Raises:
        UserError: they are not there; it says how to make them, and in how many minutes.
    """
    folder = Path("runs") / "full" / "mixture" / f"{arm}-{seed}"
    for tree in TREES:
        path = tree / folder / "weights.safetensors"
        if path.is_file():
            return path
    command = f"python -m lib train mixture --arm {arm} --seed {seed} --profile full"
    raise UserError(
        f"{folder}/weights.safetensors: not found; make it with `{command} --out {folder}`, "
        f"about {MINUTES.get(arm, 1)} CPU minute(s)"
    )
