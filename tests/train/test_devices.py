import pytest

from sumzero.errors import ConfigError
from sumzero.train.devices import DEVICES, device_called, find, peak_flops


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 366.5),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI300X OAM", 1307.4),
    ],
)
def test_names_that_torch_gives_have_their_dense_peak(name, teraflops):
    assert peak_flops(name, "bfloat16") == pytest.approx(teraflops * 1e12)


def test_nothing_is_guessed_of_other_devices():
    for name in ("Tesla V100-SXM2-32GB", "NVIDIA H100X", "cpu", "", "NVIDIA L4000"):
        assert peak_flops(name, "bfloat16") is None


def test_kinds_of_one_family_are_told_apart():
    assert find("NVIDIA H100 NVL").memory > find("NVIDIA H100 PCIe").memory
    assert find("NVIDIA L4").name != find("NVIDIA L40S").name
    assert find("NVIDIA H200 NVL").bfloat16 < find("NVIDIA H200").bfloat16
    assert len({device.name for device in DEVICES}) == len(DEVICES)


def test_short_names_are_known_and_others_are_told():
    assert device_called("h100").name == "NVIDIA H100 80GB HBM3"
    assert device_called("MI300X").name == "AMD Instinct MI300X"
    with pytest.raises(ConfigError, match=r"'H1000' is unknown; known: NVIDIA A100.*MI325X"):
        device_called("H1000")


def test_float32_is_slower_and_memory_faster_than_links():
    for device in DEVICES:
        assert device.float32 < device.bfloat16
        assert device.bandwidth > device.link >= 32e9
        assert device.memory >= 22 * 2**30


@pytest.mark.parametrize(
    ("name", "mebibytes"),
    [
        ("NVIDIA L40S", 46_068),
        ("NVIDIA L4", 23_034),
        ("NVIDIA A10", 23_028),
        ("NVIDIA H100 80GB HBM3", 81_559),
        ("NVIDIA A100-SXM4-80GB", 81_920),
        ("NVIDIA A100-SXM4-40GB", 40_960),
    ],
)
def test_memory_is_what_the_driver_reports(name, mebibytes):
    """By nvidia-smi (github.com/modal-labs/modal-client/pull/2797), within 1%."""
    assert find(name).memory == pytest.approx(mebibytes * 2**20, rel=0.01)
