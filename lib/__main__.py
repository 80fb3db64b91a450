"""The command line: `python -m lib COMMAND`. Each command calls one function and imports what it needs inside it.

To add a command: write `add_NAME(commands)` like `add_data`, with an example, and put it into COMMANDS.
A UserError is one line on stderr and exit code 2; --debug shows the traceback.
"""

import argparse
import os
import sys
from pathlib import Path

from lib.common.params import UserError


def data_fetch(options: argparse.Namespace) -> None:
    """Get all of CIFAR-10."""
    from lib.tools.fetch import fetch

    folder = fetch(options.cache)
    print(f"CIFAR-10 is complete in {folder}")
    if options.cache:
        print(f"everything else finds it there when CIFAR10_CACHE={folder.resolve()} is set")


def data_verify(options: argparse.Namespace) -> None:
    """Check every file and print its sha256 and size."""
    from lib.common.data import verify

    for row in verify(options.profile):
        print(f"{row['sha256']}  {row['bytes']:>10,}  {row['name']}")


def data_sample(options: argparse.Namespace) -> None:
    """Draw the shipped sample again."""
    from lib.tools.fetch import make_sample

    print(f"the sample is written under {make_sample(options.cache, options.out)}")


def claims_show(options: argparse.Namespace) -> None:
    """Print the verdict table."""
    from lib.common import claims

    metrics = claims.read_metrics(options.profile) if options.profile else claims.read_best()
    verdicts = claims.judge_all(metrics, complete=options.profile != "full")
    print(claims.verdict_page(verdicts))


def denoise(options: argparse.Namespace) -> None:
    """Denoise an image file."""
    from lib.tools.photo import denoise_file

    sigma = denoise_file(options.source, options.target, options.sigma)
    print(
        f"{options.target}: denoised at sigma {sigma:.3f}{'' if options.sigma else ' (estimated)'}"
    )


def _leaf(actions, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback"
    )
    parser.set_defaults(run=run)
    return parser


def add_data(commands) -> list[str]:
    """Add `data fetch | verify | sample` to the subparsers; returns examples for the help."""
    parser = _leaf(commands, "data", None, "check the shipped data, or get all of CIFAR-10")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    where = "folder of the full set (default: CIFAR10_CACHE, else the user's cache)"
    cache = {"type": Path, "metavar": "DIR", "help": where}
    fetch = _leaf(actions, "fetch", data_fetch, "get all of CIFAR-10 (184 MB) into a cache folder")
    fetch.add_argument("--cache", **cache)
    verify = _leaf(actions, "verify", data_verify, "check size, labels and sha256 of every file")
    verify.add_argument("--profile", choices=("sample", "full"), default="sample")
    sample = _leaf(
        actions, "sample", data_sample, "draw the shipped sample from the full set again"
    )
    sample.add_argument("--cache", **cache)
    sample.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: data/)")
    return ["python -m lib data verify", "python -m lib data fetch --cache ~/cifar10"]


def add_claims(commands) -> list[str]:
    """Add `claims` to the subparsers; returns examples for the help."""
    claims = _leaf(
        commands,
        "claims",
        claims_show,
        "the announced claims and what the committed results say of them",
    )
    claims.add_argument(
        "--profile", choices=("sample", "full"), help="default: full where it was run"
    )
    return ["python -m lib claims"]


def add_denoise(commands) -> list[str]:
    """`denoise`."""
    parser = _leaf(
        commands, "denoise", denoise, "remove noise from a PNG or JPEG with the trained mixture"
    )
    parser.add_argument(
        "source", type=Path, metavar="IN", help="PNG or JPEG of any size; grey, RGB or RGBA"
    )
    parser.add_argument("target", type=Path, metavar="OUT", help="PNG or JPEG to write")
    parser.add_argument(
        "--sigma", type=float, help="noise level for pixel values in [0, 1] (default: estimated)"
    )
    return ["python -m lib denoise noisy.png clean.png --sigma 0.1"]


def generate(options: argparse.Namespace) -> None:
    """`generate`: write text with the shipped attention model."""
    from lib.language.training import write_text

    print(
        write_text(
            options.prompt,
            options.length,
            options.temperature,
            options.top_k,
            options.top_p,
            options.seed,
        )
    )


def add_generate(commands) -> list[str]:
    """Parser of `generate`; returns its example."""
    parser = _leaf(commands, "generate", generate, "write text with the shipped attention model")
    parser.add_argument("--prompt", required=True, help="text to go on from")
    parser.add_argument("--length", type=int, default=200, help="characters to write (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.9, help="0 takes the likeliest character"
    )
    parser.add_argument("--top-k", type=int, default=0, help="draw among the k likeliest (0: all)")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="draw among those that make up this mass"
    )
    parser.add_argument("--seed", type=int, default=0)
    return ['python -m lib generate --prompt "To be, or not to be" --length 200 --temperature 0.9']


COMMANDS = (add_data, add_denoise, add_generate, add_claims)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, from COMMANDS."""
    parser = argparse.ArgumentParser(
        prog="python -m lib",
        description="Attention on Trial, from the command line.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.epilog = "examples:\n" + "\n".join(
        f"  {example}" for add in COMMANDS for example in add(commands)
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # who reads, `head` for example, has seen enough; nothing may be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
