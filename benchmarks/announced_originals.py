"""Sizes of the announced files, and what the published weights are worth: cited, not measured by this repository.

The three announced systems are public, and nothing of them is part of this repository. What was counted in their
files and measured on their weights stands here with its place, is compared with the announcements, and is written as
a record like any benchmark: `python benchmarks/announced_originals.py`.

To count again, clone the three repositories and name the folders:

    python benchmarks/announced_originals.py --mixture CLONE --em CLONE --language CLONE
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from lib.common import files, params, record

REPOSITORIES = {
    "mixture": "https://github.com/Deveraux-Parker/Adaptive_Sparse_Attention_MoE",
    "em": "https://github.com/wwebtvmedia/enhancedlibcem",
    "language": "https://github.com/BernardUriza/Robo-Poet",
}
KB = 1024  # bytes; by it 8,783 bytes are the announced 8.6 KB
WEIGHTS = "CLEAN_RELEASE/best_denoising_model_proper.pt loaded into a rebuilt network, noise deviation 0.2"


class File(NamedTuple):
    """A published file and what was announced of it; `counted` is in lines or bytes, as `unit` says."""

    system: str
    path: str
    unit: str
    announced: str
    counted: int


FILES = [
    File("mixture", "CLEAN_RELEASE/adaptive_attention_moe.py", "lines", "about 250", 252),
    File("mixture", "CLEAN_RELEASE/adaptive_attention_moe.py", "bytes", "8.6 KB", 8_783),
    File("mixture", "CLEAN_RELEASE/train.py", "bytes", "11 KB", 10_878),
    File("mixture", "CLEAN_RELEASE/README.md", "bytes", "13 KB", 13_046),
    File("mixture", "CLEAN_RELEASE/ARCHITECTURE.md", "bytes", "14 KB", 14_156),
    File("mixture", "CLEAN_RELEASE/FINAL_REPORT.md", "bytes", "14 KB", 14_136),
    File(
        "language", "src/attention/scaled_dot_product_attention.py", "lines", "more than 625", 474
    ),
    File("language", "src/attention/attention_validator.py", "lines", "more than 450", 522),
    File("language", "demos/demo_attention_concept.py", "lines", "more than 400", 377),
    File("language", "demos/attention_architecture_doc.py", "lines", "more than 320", 323),
    File("em", "enhancedlibcem.py", "lines", "2,114", 2_174),
    File("em", "enhancedlibcem.py", "lines", "2,180", 2_174),
]


def holds(file: File) -> bool:
    """Is the counted size the announced one, rounded to the digits in which it was announced?"""
    if file.announced.startswith("more than "):
        return file.counted > int(file.announced.removeprefix("more than "))
    if file.announced.endswith(" KB"):
        number = file.announced.removesuffix(" KB")
        decimals = len(number.partition(".")[2])
        return f"{file.counted / KB:.{decimals}f}" == number
    if file.announced.startswith("about "):
        return round(file.counted, -1) == int(file.announced.removeprefix("about "))
    return file.counted == int(file.announced.replace(",", ""))


def count_again(file: File, clone: Path) -> File:
    """The same file, counted in a clone of its repository. Raises UserError: it is not there."""
    path = clone / file.path
    if not path.is_file():
        raise params.UserError(f"{path}: not found; clone {REPOSITORIES[file.system]}")
    content = path.read_bytes()
    counted = len(content.splitlines()) if file.unit == "lines" else len(content)
    return file._replace(counted=counted)


def measure(counted: list[File]) -> dict[str, dict]:
    """The metrics: how many announced sizes hold in each system, and what was measured on the weights."""
    metrics = {}
    for system in REPOSITORIES:
        chosen = [file for file in counted if file.system == system]
        metrics[f"announced_{system}_sizes_true"] = record.metric(
            sum(map(holds, chosen)),
            n=len(chosen),
            what=f"{system}: announced sizes of files that are those of the published files",
        )
    metrics["published_mixture_psnr_db"] = record.metric(
        25.124, sd=1.461, n=10_000, unit="dB", what="published weights, PSNR, all test images"
    )
    metrics["published_mixture_first_1000_psnr_db"] = record.metric(
        25.092, n=1_000, unit="dB", what="published weights, PSNR, 1,000 test images"
    )
    metrics["published_mixture_router_uniform_cost_db"] = record.metric(
        0.095, n=1_000, unit="dB", what="published weights, lost with uniform gates"
    )
    metrics["published_mixture_router_shuffled_cost_db"] = record.metric(
        0.132, n=1_000, unit="dB", what="published weights, lost with gates shuffled over tokens"
    )
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for system in REPOSITORIES:
        parser.add_argument(f"--{system}", type=Path, metavar="CLONE", help="count again in it")
    clones = vars(parser.parse_args())
    counted = []
    for file in FILES:
        clone = clones[file.system]
        counted.append(file if clone is None else count_again(file, clone))
    for file in counted:
        answer = "yes" if holds(file) else "no"
        print(f"{file.path:55} {file.announced:>14}  {file.counted:>7,} {file.unit}  {answer}")
    run = {"device": "none", "source": REPOSITORIES, "weights": WEIGHTS}
    files.write_json(
        params.root() / "benchmarks" / "announced_originals.json",
        {"study": "announced_originals", "metrics": measure(counted), "run": run},
    )


if __name__ == "__main__":
    main()
