"""One training loop for every denoiser of the mixture wing; arms differ by configuration.

Images stay on the device as bytes and noise is made there from a generator. All randomness comes from three seeds
(initial weights, order of the images, noise). A checkpoint holds weights, optimiser and generator states, so a
resumed run on the CPU equals an uninterrupted one bit for bit. Nothing written holds a time.

    python -m lib train mixture --arm announced --seed 0 --profile sample --out runs/sample/mixture/announced-0
    torchrun --standalone --nproc_per_node=2 -m lib train mixture ...  # the same run on two processes

Shapes: M training images, V validation images, B batch.
"""

import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.common import data, files, gpu, quality, weights
from lib.common.params import Params, UserError, root
from lib.mixture import announced, denoiser
from lib.mixture.announced import Routing
from lib.mixture.bank import NETWORKS
from lib.mixture.ranks import ALONE, Ranks, joined
from lib.mixture.run import (
    BankConfig,
    Diverged,
    Run,
    TrainConfig,
    load_checkpoint,
    save_checkpoint,
)
from lib.mixture.settings import Announced, Bank, Mixture

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h


def fit(
    config: TrainConfig, images: np.ndarray, clean: np.ndarray, noisy: np.ndarray, *, device: str = "cpu",
    threads: int = 1, log: Path | None = None, checkpoint: Path | None = None, resume: bool = False,
    ranks: Ranks = ALONE
) -> tuple[torch.nn.Module, dict]:  # fmt: skip
    """Train one arm; the trained network in evaluation mode, and its record.

    Args:
        images: (M, 3, H, W) uint8; clean, noisy: (V, 3, H, W) float32 in [0, 1], the validation pairs.
        log: gets one JSON line per log step.
        checkpoint: written every `save_every` steps, removed at the end; with `resume` the run goes on from it.
        ranks: this process among those that share every batch; the first one validates and writes.

    Diverged (a UserError) names the step and the checkpoint of the last good state, which stays; a checkpoint of
    another configuration is a UserError.
    """
    _prepare(threads)
    run, first = Run(config, images, pick_device(device), ranks), ranks.rank == 0
    if resume and checkpoint and checkpoint.exists():
        load_checkpoint(run, checkpoint)
    try:
        for _ in tqdm(
            range(run.step, config.steps), desc=config.arm, disable=None if first else True
        ):
            _advance_and_log(run, torch.from_numpy(noisy), clean, log)
            if checkpoint and first and run.step % config.save_every == 0:
                save_checkpoint(run, checkpoint)
    except Diverged as fault:
        kept = (
            f"; the last good state is {checkpoint.name}"
            if checkpoint and checkpoint.exists()
            else ""
        )
        raise Diverged(f"{config.arm}: {fault}{kept}") from None
    if checkpoint and first:
        checkpoint.unlink(missing_ok=True)
    return run.result.eval(), _record(run, torch.from_numpy(noisy), threads)


def _advance_and_log(run: Run, noisy: Tensor, clean: np.ndarray, log: Path | None) -> None:
    line, config = run.advance(), run.config
    if run.ranks.rank:
        return
    last = run.step == config.steps
    validate = run.step % config.val_every == 0 or last
    if validate:
        routing = Routing(denoiser.ARMS[config.arm].routing)
        image = denoiser.denoise(run.result, noisy, config.sigma, routing=routing)
        line["val_psnr"] = float(quality.psnr(clean, image.numpy()).mean())
    if validate or run.step % config.log_every == 0:
        run.lines.append(line)
        if log:
            files.write_text(
                log, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in run.lines)
            )


def _record(run: Run, noisy: Tensor, threads: int) -> dict:
    curve = [[line["step"], line["val_psnr"]] for line in run.lines if "val_psnr" in line]
    record = {"config": weights.plain(run.config), "parameters": denoiser.parameters(run.model)}
    record |= {"steps": run.step, "device": run.device.type, "threads": threads, "val_psnr": curve}
    if isinstance(run.model, announced.Announced):
        record["dead_outputs"] = announced.dead_outputs(run.model, noisy.to(run.device))
    return record


def _prepare(threads: int) -> None:
    _keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA when it starts
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # every new tensor would be filled once more
    )


def _keep_memory() -> None:
    """Let glibc keep freed memory: fresh pages for every large tensor cost about a quarter of a training step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU when there is one; "cuda" without one is a UserError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda: this torch sees no GPU; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def configure(params: Params, arm: str, seed: int) -> TrainConfig:
    """The configuration of an arm in a profile, from its section of `params.yaml`."""
    section = section_of(params, arm)
    kind = BankConfig if arm in NETWORKS else TrainConfig
    epoch = section.train_images // section.batch
    names = {field.name for field in dataclasses.fields(kind)}
    recipe = {name: value for name, value in section.model_dump().items() if name in names}
    if arm in NETWORKS:
        recipe |= {"lowest": NETWORKS[arm].lowest, "highest": NETWORKS[arm].highest}
    return kind(arm, seed, seed, seed, images=section.train_images,
                steps=round(denoiser.ARMS[arm].pace * section.epochs * epoch),
                val_every=epoch, save_every=min(epoch, 250), **recipe)  # fmt: skip


def section_of(params: Params, arm: str) -> Announced | Bank | Mixture:
    """The section of `params.yaml` that an arm reads."""
    if arm in NETWORKS:
        return params.bank
    return params.announced if arm.startswith("announced") else params.mixture


def training_data(
    params: Params, section: Announced | Bank | Mixture
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images (M, 3, 32, 32) uint8; validation images clean and noisy, (V, 3, 32, 32) float32 in [0, 1]."""
    images, _ = data.load_cifar("train", params.profile)
    train, val = data.split(len(images), params.seed)
    chosen = val[: section.val_images]
    clean = images[chosen].astype(np.float32) / 255
    # the test images have the noise of `noise_seed` itself; another set needs another seed
    noisy = data.add_noise(clean, section.sigma, params.noise_seed + 1, indices=chosen)
    return images[train[: section.train_images]], clean, noisy


def train(params: Params, arm: str, seed: int, out: Path) -> None:
    """Train an arm into the folder `out`: weights.safetensors, record.json, log.jsonl.

    An interrupted run goes on from its checkpoint, which lies outside `out` because DVC empties that first.
    UserError: no such arm.
    """
    if arm not in denoiser.ARMS:
        raise UserError(f"no arm {arm}; there are {', '.join(denoiser.ARMS)}")
    config = configure(params, arm, seed)
    checkpoint = root() / "checkpoints" / f"{'-'.join(out.parts[-3:])}.safetensors"
    section = section_of(params, arm)
    threads = getattr(section, "threads", params.threads)
    hardware = pick_device(params.device)
    with gpu.alone(hardware.type), joined(hardware) as ranks:
        model, record = fit(config, *training_data(params, section), device=params.device, threads=threads,
                            log=out / "log.jsonl", checkpoint=checkpoint, resume=True, ranks=ranks)  # fmt: skip
    if ranks.rank == 0:
        denoiser.save_tensors(
            out / "weights.safetensors",
            model.state_dict(),
            {"arm": arm, "config": record["config"]},
        )
        files.write_json(out / "record.json", record)


def load_or_train(
    params: Params, arm: str, seed: int, out: Path
) -> tuple[torch.nn.Module, dict, list[dict]]:
    """The trained network of an arm, its record and its log: from `out` when it is there, else trained now.

    UserError: what lies in `out` was made with other settings than `params` asks for; both are named.
    """
    if not (out / "record.json").is_file():
        train(params, arm, seed, out)
    record = json.loads((out / "record.json").read_text())
    weights.check_same(
        out / "record.json", record["config"], weights.plain(configure(params, arm, seed))
    )
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return denoiser.load_weights(out / "weights.safetensors", arm), record, log
