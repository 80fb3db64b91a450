"""Every network of the mixture on a stand-in for a GPU: a tensor that was left on the CPU fails.

PyTorch's fake tensors know shape, type and device and compute nothing. Without a build for CUDA they can live on the device
`meta`, and any operation that mixes it with the CPU is refused, as it would be on a real GPU.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lib.common.params import UserError
from lib.mixture import denoiser, training
from lib.mixture.run import Run, TrainConfig

ELSEWHERE = "meta"
SIDE = 32


def moved(network: nn.Module) -> nn.Module:
    """The network with stand-ins on the other device in place of its parameters and buffers."""
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(stand_in(value))
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = stand_in(value)
    return network


def stand_in(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=ELSEWHERE)


@pytest.mark.parametrize("arm", denoiser.ARMS)
def test_forward_and_backward_stay_on_the_device(arm):
    network = denoiser.build(arm, 0)
    with FakeTensorMode():
        moved(network).train()
        noisy = torch.empty(2, 3, SIDE, SIDE, device=ELSEWHERE)
        level = torch.full((2,), 0.2, device=ELSEWHERE)
        image, _ = network(noisy, level)
        assert image.device.type == ELSEWHERE
        image.square().mean().backward()
        places = {p.grad.device.type for p in network.parameters() if p.grad is not None}
    assert places == {ELSEWHERE}


@pytest.mark.parametrize("arm", ["attentive", "residual", "unet"])
def test_a_level_that_was_left_on_the_cpu_is_found(arm):
    network = denoiser.build(arm, 0)
    with FakeTensorMode(), pytest.raises(RuntimeError, match="same device"):
        moved(network)(torch.empty(2, 3, SIDE, SIDE, device=ELSEWHERE), torch.full((2,), 0.2))


@pytest.mark.parametrize("arm", ["announced", "attentive"])
def test_a_batch_of_a_training_is_made_on_the_device(arm, monkeypatch):
    """Images, levels and noise of a step; the order of the images is drawn on the CPU, and only its numbers travel."""
    config = TrainConfig(arm=arm, images=8, batch=4, steps=2, balance=0.0, varied=0.5)
    images = np.zeros((8, 3, SIDE, SIDE), np.uint8)
    run = Run(config, images, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        run.images = torch.empty(run.images.shape, dtype=torch.uint8, device=ELSEWHERE)
        run.device = torch.device(ELSEWHERE)
        moved(run.model).train()
        clean, sigma = run._batch(), run._sigmas()
        assert {clean.device.type, sigma.device.type} == {ELSEWHERE}
        noise = torch.randn(clean.shape, generator=run.noise, device=run.device)
        noisy = (clean + sigma[:, None, None, None] * noise).clamp(0, 1)
        image, _ = run.model(noisy, sigma, run.routing)
        (image - clean).square().mean().backward()
    assert next(run.model.parameters()).grad.device.type == ELSEWHERE


@pytest.mark.parametrize(
    "asked, there, wanted",
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, asked, there, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert training.pick_device(asked).type == wanted


def test_asking_for_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU") as caught:
        training.pick_device("cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("arm", denoiser.ARMS)
def test_on_a_real_gpu_a_step_is_that_of_the_cpu(arm):
    config = TrainConfig(arm=arm, images=8, batch=4, steps=2, balance=0.0)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, SIDE, SIDE), dtype=np.uint8)
    noisy, level = torch.rand(4, 3, SIDE, SIDE), torch.full((4,), 0.2)
    found = []
    for device in ("cpu", "cuda"):
        run = Run(config, images, torch.device(device))
        assert np.isfinite(run.advance()["loss"])
        network = denoiser.build(arm, 0).to(device).eval()
        with torch.no_grad():
            found.append(network(noisy.to(device), level.to(device))[0].cpu())
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=0)
