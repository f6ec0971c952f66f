"""Which back end runs where; of CUDA devices only what they say of themselves is made up."""

import pytest
import torch

from sumzero.errors import ConfigError
from sumzero.kernels import attention_flash, packed_attention
from sumzero.kernels.packed_attention import choose_backends
from sumzero.kernels.segments import Backends

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def a_gpu(monkeypatch):
    """Answers for a CUDA device of a compute capability, with these packages."""

    def pretend(capability, *packages):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
        for module in (attention_flash, packed_attention):
            monkeypatch.setattr(module, "find_spec", lambda name: name in packages or None)

    return pretend


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_cpu_runs_sdpa(dtype):
    assert choose_backends(CPU, dtype, 128) == Backends("sdpa", "sdpa")
    assert choose_backends(CPU, dtype, 8, softcap=True) == Backends("sdpa", "sdpa")


@pytest.mark.parametrize(
    ("packages", "dtype", "head_size", "softcap", "want"),
    [
        (["flash_attn", "triton"], torch.bfloat16, 128, False, Backends("flash", "flex")),
        (["flash_attn_interface", "triton"], torch.bfloat16, 64, True, Backends("flash", "flex")),
        (["flash_attn"], torch.bfloat16, 128, False, Backends("flash", "flash")),
        (["triton"], torch.float16, 256, False, Backends("varlen", "flex")),
        ([], torch.bfloat16, 128, False, Backends("varlen", "varlen")),
        (["triton"], torch.bfloat16, 128, True, Backends("flex", "flex")),
        (["flash_attn", "triton"], torch.float32, 128, False, Backends("flex", "flex")),
        (["flash_attn", "triton"], torch.bfloat16, 512, False, Backends("sdpa", "sdpa")),
        (["flash_attn", "triton"], torch.bfloat16, 12, False, Backends("sdpa", "sdpa")),
    ],
)
def test_a_gpu_runs_the_fastest_that_fits(a_gpu, packages, dtype, head_size, softcap, want):
    a_gpu((9, 0), *packages)
    assert choose_backends(CUDA, dtype, head_size, softcap=softcap) == want


def test_flash_3_is_for_hopper(a_gpu):
    a_gpu((9, 0), "flash_attn", "flash_attn_interface")
    assert attention_flash.installed_version(CUDA) == 3
    a_gpu((8, 0), "flash_attn", "flash_attn_interface")
    assert attention_flash.installed_version(CUDA) == 2
    a_gpu((8, 0), "flash_attn_interface")
    assert attention_flash.installed_version(CUDA) is None


@pytest.mark.parametrize(
    ("device", "asked", "dtype", "head_size", "softcap", "problem"),
    [
        (CPU, "flash", torch.bfloat16, 64, False, r"runs on CUDA, .* is cpu; here work auto, sdpa"),
        (CPU, "varlen", torch.bfloat16, 64, False, "runs on CUDA, the device is cpu"),
        (CPU, "flex", torch.bfloat16, 64, False, "runs on CUDA, the device is cpu"),
        (CPU, "fast", torch.float32, 64, False, "none of auto, flash, varlen, flex, sdpa"),
        (CUDA, "flash", torch.float32, 64, False, r"float16 and bfloat16.*work auto, flex, sdpa"),
        (CUDA, "varlen", torch.bfloat16, 320, False, "multiples of 8 up to 256, not 320"),
        (CUDA, "flex", torch.bfloat16, 8, False, "16 to 256, not 8; .*auto, flash, varlen, sdpa"),
        (CUDA, "varlen", torch.bfloat16, 64, True, "no soft-capped scores"),
    ],
)
def test_one_that_cannot_run_is_refused_with_what_would(
    a_gpu, device, asked, dtype, head_size, softcap, problem
):
    a_gpu((9, 0), "flash_attn", "triton")
    with pytest.raises(ConfigError, match=problem):
        choose_backends(device, dtype, head_size, asked, softcap=softcap)


def test_flash_that_is_not_installed_is_refused_with_its_name(a_gpu):
    a_gpu((9, 0), "triton")
    with pytest.raises(ConfigError, match=r"pip install 'sumzero\[flash\]'"):
        choose_backends(CUDA, torch.bfloat16, 64, "flash")


def test_an_older_gpu_has_no_bfloat16_and_no_flash(a_gpu):
    a_gpu((7, 0), "flash_attn", "triton")
    with pytest.raises(ConfigError, match="Some GPU has no bfloat16; float32 would work"):
        choose_backends(CUDA, torch.bfloat16, 64)
    assert choose_backends(CUDA, torch.float16, 64) == Backends("flex", "flex")
    with pytest.raises(ConfigError, match="needs compute capability 8"):
        choose_backends(CUDA, torch.float16, 64, "varlen")
