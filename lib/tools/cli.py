"""The command line: `python -m lib COMMAND`.

Each command calls one function of the library and imports it only then, so that help, and a mistyped argument, need
no TensorFlow and no torch. An expected error is one line on standard error and exit code 2; `--debug` shows its
traceback.

To add a command: write a function like the others, with an example. Its docstring is the help.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lib.common import gpu, params
from lib.common.params import UserError

PROGRAM = "python -m lib"
FAILED = 1  # exit code: the command ran, and its answer is no
MISTAKE = 2  # exit code: an expected error

LONGEST_TEXT = 20_000_000  # characters to write or to go on from; minutes and gigabytes lie beyond

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)


class Command(click.Command):
    """A command with an example in its help, and with `--debug`."""

    def __init__(self, *args, example: str, **settings):
        super().__init__(*args, **settings)
        self.example = example
        debug = click.Option(
            ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."
        )
        self.params.append(debug)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, as it is typed."""
        with formatter.section("Example"):
            formatter.write(f"  {PROGRAM} {self.example}\n")


class Group(click.Group):
    """A group of commands, with the example of each one below its help."""

    command_class = Command
    group_class = type  # groups inside are of this class too

    def list_commands(self, context: click.Context) -> list[str]:
        """The commands in the order of this file."""
        return list(self.commands)

    def examples(self) -> list[str]:
        """The examples of all commands below this one."""
        found = []
        for command in self.commands.values():
            found += command.examples() if isinstance(command, Group) else [command.example]
        return found

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """All examples, a line each."""
        with formatter.section("Examples"):
            formatter.write("".join(f"  {PROGRAM} {example}\n" for example in self.examples()))


def profile_option(help_text: str = "Which profile of params.yaml; without it, the one it names."):
    """`--profile sample | full`."""
    return click.option("--profile", type=click.Choice(params.PROFILES), help=help_text)


@click.group(cls=Group, context_settings={"terminal_width": 100})
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Attention on Trial, from the command line."""


# --- data ------------------------------------------------------------------------------------------------------------


@cli.group()
def data() -> None:
    """Check the shipped data, or get all of CIFAR-10."""


@data.command(example="data fetch --cache ~/cifar10")
@click.option("--cache", type=FOLDER, help="Where to (default: CIFAR10_CACHE, else your cache).")
def fetch(cache: Path | None) -> None:
    """Get all of CIFAR-10 (184 MB) into a cache folder."""
    from lib.tools.fetch import fetch

    folder = fetch(cache)
    click.echo(f"CIFAR-10 is complete in {folder}")
    if cache:
        click.echo(f"everything else finds it there when CIFAR10_CACHE={folder.resolve()} is set")


@data.command(example="data verify")
@profile_option("sample: the shipped files (default); full: all of CIFAR-10.")
def verify(profile: str | None) -> None:
    """Check size, labels and sha256 of every file."""
    from lib.common.data import verify

    params.load()  # a broken params.yaml is told here too
    for row in verify(profile or "sample"):
        click.echo(f"{row['sha256']}  {row['bytes']:>10,}  {row['name']}")


@data.command(example="data sample --out elsewhere")
@click.option("--cache", type=FOLDER, help="Folder of the full set.")
@click.option("--out", type=FOLDER, help="Where to write (default: data/).")
def sample(cache: Path | None, out: Path | None) -> None:
    """Draw the shipped sample from the full set again."""
    from lib.tools.fetch import make_sample

    click.echo(f"the sample is written under {make_sample(cache, out)}")


# --- use what was trained --------------------------------------------------------------------------------------------


@cli.command(example="denoise noisy.png clean.png --sigma 0.1")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@click.option("--sigma", type=float, help="Noise level for pixel values from 0 to 1 (estimated).")
@click.option(
    "--budget",
    type=float,
    help="Colour by the adaptive mixture: share of its largest network's operations, up to 1.",
)
def denoise(source: Path, target: Path, sigma: float | None, budget: float | None) -> None:
    """Remove noise from a picture, PNG or JPEG, of any size."""
    from lib.tools.photo import denoise_file

    outcome = denoise_file(source, target, sigma, budget=budget)
    if outcome.warning:
        click.echo(f"warning: {outcome.warning}", err=True)
    click.echo(f"{target}: {outcome}")


@cli.command(example='generate --prompt "To be, or not to be" --length 200 --temperature 0.9')
@click.option("--prompt", required=True, help="Text to go on from.")
@click.option(
    "--length",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Characters to write.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.9,
    show_default=True,
    help="0 takes the likeliest character.",
)
@click.option(
    "--top-k", type=click.IntRange(min=0), default=0, help="Draw among the k likeliest (0: all)."
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    help="Draw among those that make up this mass.",
)
@click.option("--seed", type=int, default=0, help="Of the drawing.")
@click.option("--model", type=FILE, help="One that train-text made (the shipped one).")
def generate(
    prompt: str,
    length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    model: Path | None,
) -> None:
    """Write text with the shipped attention model, or with one of your own."""
    if not prompt:
        raise UserError("--prompt: a text of one character or more is needed")
    if max(len(prompt), length) > LONGEST_TEXT:
        raise UserError(
            f"a prompt or a length of {max(len(prompt), length):,} characters; "
            f"allowed are {LONGEST_TEXT:,}"
        )
    from lib.language.training import write_text

    click.echo(write_text(prompt, length, temperature, top_k, top_p, seed, model))


@cli.command("train-text", example="train-text plays.txt --minutes 10 --out plays.safetensors")
@click.argument("source", metavar="FILE", type=FILE)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.5, max=600),
    default=10,
    show_default=True,
    help="CPU minutes for training and pricing.",
)
@click.option("--out", type=FILE, help="Gets the model (default: FILE's name, in this folder).")
def train_text(source: Path, minutes: float, out: Path | None) -> None:
    """Train attention on a text of your own, and price its last tenth."""
    chosen = params.load("full")
    gpu.hide_from_tensorflow()
    from lib.language import own_text

    target = out or Path(f"{source.stem}.safetensors")
    outcome = own_text.train_text(
        chosen, source, minutes, target, report=lambda line: click.echo(line, err=True)
    )
    click.echo(own_text.summary(outcome))


# --- verdicts --------------------------------------------------------------------------------------------------------


@cli.command(example="claims --profile sample")
@profile_option("Of this profile only; without it, the full one's where it was run.")
@click.option(
    "--pedigree",
    is_flag=True,
    help="Read from git when each rule and its first result came, into claims.yaml.",
)
def claims(profile: str | None, pedigree: bool) -> None:
    """Print every announced claim, what was measured, the verdict."""
    from lib.common import claims

    params.load()  # a broken params.yaml is told here too
    if pedigree:
        click.echo(register_rules())
        return
    metrics = claims.read_metrics(profile) if profile else claims.read_best()
    verdicts = claims.judge_all(metrics, complete=profile != "full")
    click.echo(claims.verdict_page(verdicts))


def register_rules() -> str:
    """Bring the pedigrees in claims.yaml up to date; a table of them and whether anything changed."""
    from lib.common import claims
    from lib.tools import pedigree

    found = pedigree.compute(params.root())
    changed = pedigree.write(params.root() / "claims.yaml", found)
    table = claims.order_table(claims.judge_all(claims.read_best()))
    return f"{table}\nclaims.yaml {'was brought' if changed else 'is'} up to date"


# --- what the pipeline calls -----------------------------------------------------------------------------------------


@cli.group()
def train() -> None:
    """Train one network, as the stages of dvc.yaml do."""


@train.command(
    "mixture", example="train mixture --arm ours --seed 0 --out runs/sample/mixture/ours-0"
)
@click.option("--arm", required=True, help="announced, announced_unclamped, ours, unet, ...")
@click.option("--seed", type=int, default=0)
@profile_option()
@click.option("--out", type=FOLDER, required=True, help="Gets the weights, the record and the log.")
def train_mixture(arm: str, seed: int, profile: str | None, out: Path) -> None:
    """Train one denoiser of the mixture's study; an interrupted run goes on from its checkpoint."""
    chosen = params.load(profile)
    from lib.mixture.training import train

    train(chosen, arm, seed, out)


@train.command("language", example="train language --arm attention --out runs/sample/language")
@click.option(
    "--arm",
    "arms",
    required=True,
    multiple=True,
    help="Its name, or `ablations`: all but the two large ones.",
)
@click.option("--seed", type=int, default=0)
@profile_option()
@click.option("--text", type=FILE, help="A text of your own (UTF-8) in place of the two books.")
@click.option("--out", type=FOLDER, required=True, help="Gets a folder for each arm and seed.")
def train_language(
    arms: Sequence[str], seed: int, profile: str | None, text: Path | None, out: Path
) -> None:
    """Train networks of the language study and price the held-out text."""
    chosen = params.load(profile)
    gpu.hide_from_tensorflow()
    from lib.language.training import train

    train(chosen, arms, seed, out, text)


@train.command("em", example="train em --profile sample --out models/em_denoiser.safetensors")
@profile_option()
@click.option("--out", type=FILE, default="models/em_denoiser.safetensors", show_default=True)
@click.option("--checkpoints", type=FOLDER, default="checkpoints/em", help="Keeps finished parts.")
@click.option("--sigma", type=float, help="Make the parts of this noise level only.")
@click.option("--kind", "kinds", multiple=True, help="Make these gates only: clean, sure, ...")
@click.option("--passes/--no-passes", default=True, help="Make the maps of both passes, too.")
def train_em(
    profile: str | None,
    out: Path,
    checkpoints: Path,
    sigma: float | None,
    kinds: Sequence[str],
    passes: bool,
) -> None:
    """Fit the denoiser of EM graph diffusion, under an hour of one core; finished parts are not made again."""
    chosen = params.load(profile)
    from lib.diffusion.fit import train

    train(chosen, out, checkpoints, sigma=sigma, kinds=kinds, passes=passes)


@cli.command(example="execute 01_data_verification data --profile sample")
@click.argument("notebook")
@click.argument("sections", nargs=-1)
@profile_option()
@click.option("--output", help="Folder for what it makes (default: results/PROFILE/NOTEBOOK).")
def execute(
    notebook: str, sections: Sequence[str], profile: str | None, output: str | None
) -> None:
    """Run a notebook by papermill, with parameters from SECTIONS of params.yaml."""
    from lib.tools.execute import execute

    target = execute(notebook, list(sections), profile, output)
    click.echo(target.relative_to(params.root()))


@cli.command(example="gather sample")
@click.argument("profile", type=click.Choice(params.PROFILES))
def gather(profile: str) -> None:
    """Collect the records of all studies and benchmarks, and judge every claim."""
    from lib.tools.gather import gather

    click.echo(f"{len(gather(profile))} metrics")


@cli.command(example="curves sample")
@click.argument("profile", type=click.Choice(params.PROFILES))
def curves(profile: str) -> None:
    """Write the series that `dvc plots show` draws: dB and bits against steps and seconds."""
    from lib.tools.curves import write_curves

    click.echo(write_curves(params.root(), profile).relative_to(params.root()))


# --- the whole -------------------------------------------------------------------------------------------------------


@cli.command(example="check 01_data_verification")
@click.argument("notebooks", nargs=-1)
def check(notebooks: Sequence[str]) -> None:
    """Execute committed notebooks again and compare: a part of `make test`."""
    from lib.tools.check import check

    finish(check(notebooks))


@cli.command(example="reproduce")
@click.option("--started", type=float, help="When the user's command began, seconds since 1970.")
@click.option("--record", is_flag=True, help="Write the seconds to benchmarks/reproduce.json.")
def reproduce(started: float | None, record: bool) -> None:
    """Run the pipeline in a copy of the last commit and compare: `make reproduce`."""
    from lib.tools.reproduce import reproduce

    finish(reproduce(params.root(), started=started, record=record))


@cli.command(example="retry language-held-out")
@click.argument("claim")
@profile_option("Measure it in this profile; without it the sample, if that measures the claim.")
@click.option("--trainings", is_flag=True, help="Train again what its notebook reads, too.")
def retry(claim: str, profile: str | None, trainings: bool) -> None:
    """Measure one claim again in a copy; exit code 0 when the verdict is the recorded one."""
    from lib.tools.retry import retry

    finish(retry(params.root(), claim, profile, trainings))


@cli.command(example="full --only em_diffusion")
@click.option("--only", multiple=True, metavar="STAGE", help="This study of it; may be repeated.")
def full(only: Sequence[str]) -> None:
    """Run the full profile in a copy that stays: `make full`."""
    from lib.tools.reproduce import full

    full(params.root(), only)


@cli.command(example="tidy")
def tidy() -> None:
    """Drop lock entries and objects of datastore/ that no stage of either profile names."""
    from lib.tools.store import tidy

    stages, objects = tidy(params.root())
    click.echo(f"dropped {len(stages)} lock entries ({', '.join(stages) or 'none'})")
    click.echo(f"dropped {len(objects)} objects of datastore/")


@cli.command(example="readme")
def readme() -> None:
    """Bring the generated parts of README.md and docs up to date."""
    from lib.tools.readme import PAGES, update

    for name in PAGES:
        click.echo(f"{name}: " + ("brought up to date" if update(name) else "is up to date"))


# --- running it ------------------------------------------------------------------------------------------------------


def finish(good: bool) -> None:
    """End the command with an exit code that says yes or no."""
    click.get_current_context().exit(0 if good else FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with cli.make_context(PROGRAM, list(arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except BrokenPipeError:  # who reads, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the last flush goes there
        return 0
    except (KeyboardInterrupt, click.Abort):
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return MISTAKE
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else PROGRAM
        return tell(f"{error.format_message()} See `{command} --help`.")
    except (UserError, OSError) as error:
        if "--debug" in arguments:
            raise
        return tell(str(error))
    return 0


def tell(error: str) -> int:
    """One line on standard error."""
    click.echo(f"error: {' '.join(error.split())}", err=True)
    return MISTAKE
