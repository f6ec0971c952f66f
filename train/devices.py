"""Published figures of devices, by the names that `torch.cuda.get_device_name` gives.

Peaks are dense, without sparsity. The data sheets print bfloat16 with sparsity from Ampere on: half
of it is taken. `float32` is that of plain float32, which torch uses unless TF32 is asked for.
Links are in one direction; data sheets print both together. A device that is not here has no
figures: nothing is guessed.

Memory is in GiB, the printed number of GB, but for data-centre cards with GDDR6 (L40S, L4, A10):
they keep their error-correcting codes, which are on by default, in a sixteenth of it (NVIDIA's vGPU
guide, reservation of frame buffer), so 45 of 48 and 22.5 of 24 are left. What nvidia-smi reports
is within 1% of this: 46,068 MiB of an L40S, 23,034 of an L4, 23,028 of an A10, 81,559 of an H100,
81,920 of an A100 (github.com/modal-labs/modal-client/pull/2797).
"""

from dataclasses import dataclass

from sumzero.errors import ConfigError

_GIB = 2**30
_ECC = 15 / 16  # of GDDR6, beside its error-correcting codes
_GB = 10**9
_TERA = 10**12
PCIE_4, PCIE_5 = 32 * _GB, 64 * _GB  # 16 lanes, one direction; PCI-SIG


@dataclass(frozen=True)
class Device:
    """FLOP/s by dtype, bytes of memory, bytes/s of memory and, a device, of links.

    `link` joins all devices of a node: NVLink or Infinity Fabric, else PCIe, since bridges join two
    or four. `host` joins device and host memory. `network` is a device's share of a node's adapters
    in the vendor's own system, or 25 GB/s (200 Gbit/s a device) where there is none.
    """

    name: str
    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    link: float
    host: float
    network: float

    def peak(self, dtype: str) -> float:
        """FLOP/s in "bfloat16" or "float32"."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _device(
    name: str,
    bfloat16: float,
    float32: float,
    memory: float,
    bandwidth: float,
    link: float,
    host: float,
    network: float = 25,
) -> Device:
    """Of TFLOP/s, GiB, GB/s, GB/s and, but for `host`, GB/s."""
    return Device(
        name,
        bfloat16 * _TERA,
        float32 * _TERA,
        round(memory * _GIB),
        bandwidth * _GB,
        link * _GB,
        host,
        network * _GB,
    )


# name, bfloat16, float32, memory, bandwidth, link, host, network. The shorter of two names that
# begin alike stands behind the longer one.
DEVICES = (
    # NVIDIA A100 data sheet (nvidia-a100-datasheet-us, 2021): 312 TFLOP/s, NVLink 600 GB/s.
    # DGX A100: eight adapters of 200 Gbit/s for eight devices.
    _device("NVIDIA A100-SXM4-40GB", 312, 19.5, 40, 1555, 300, PCIE_4),
    _device("NVIDIA A100-SXM4-80GB", 312, 19.5, 80, 2039, 300, PCIE_4),
    _device("NVIDIA A100-PCIE-40GB", 312, 19.5, 40, 1555, 32, PCIE_4),
    _device("NVIDIA A100 80GB PCIe", 312, 19.5, 80, 1935, 32, PCIE_4),
    # NVIDIA H100 data sheet (2023): 1,979, 1,671 and 1,513 TFLOP/s with sparsity; NVLink 900 GB/s.
    # DGX H100 and H200: eight adapters of 400 Gbit/s.
    _device("NVIDIA H100 80GB HBM3", 989.5, 67, 80, 3350, 450, PCIE_5, 50),
    _device("NVIDIA H100 NVL", 835.5, 60, 94, 3900, 64, PCIE_5),
    _device("NVIDIA H100 PCIe", 756.5, 51, 80, 2000, 64, PCIE_5),
    # NVIDIA H200 data sheet (2024): 1,979 and 1,671 TFLOP/s with sparsity.
    _device("NVIDIA H200 NVL", 835.5, 60, 141, 4800, 64, PCIE_5),
    _device("NVIDIA H200", 989.5, 67, 141, 4800, 450, PCIE_5, 50),
    # NVIDIA HGX B200 data sheet (2024), an eighth of the board: 36 PFLOP/s with sparsity, 600
    # TFLOP/s in float32, 1.4 TB, 62 TB/s, NVLink 14.4 TB/s.
    _device("NVIDIA B200", 2250, 75, 180, 7700, 900, PCIE_5, 50),
    # NVIDIA GB200 NVL72 data sheet (2024), a 72nd: 360 PFLOP/s with sparsity, 13.4 TB, 576 TB/s.
    _device("NVIDIA GB200", 2500, 80, 186, 8000, 900, 450 * _GB, 50),
    # NVIDIA L40S data sheet (2023): 733 TFLOP/s with sparsity.
    _device("NVIDIA L40S", 366.5, 91.6, 48 * _ECC, 864, 32, PCIE_4),
    # NVIDIA L4 data sheet (2023): 242 TFLOP/s with sparsity.
    _device("NVIDIA L4", 121, 30.3, 24 * _ECC, 300, 32, PCIE_4),
    # NVIDIA A10 data sheet (2021): 125 TFLOP/s.
    _device("NVIDIA A10", 125, 31.2, 24 * _ECC, 600, 32, PCIE_4),
    # NVIDIA Ada GPU architecture (2023), appendix A: 165.2 TFLOP/s with float32 accumulation.
    _device("NVIDIA GeForce RTX 4090", 165.2, 82.6, 24, 1008, 32, PCIE_4),
    # NVIDIA Ampere GA102 GPU architecture (2021), appendix A: the same.
    _device("NVIDIA GeForce RTX 3090", 71, 35.6, 24, 936, 32, PCIE_4),
    _device("NVIDIA RTX A6000", 154.8, 38.7, 48, 768, 32, PCIE_4),
    # AMD Instinct MI300X data sheet (2023): 1,307.4 TFLOP/s, Infinity Fabric 896 GB/s; MI325X
    # data sheet (2024).
    _device("AMD Instinct MI300X", 1307.4, 163.4, 192, 5300, 448, PCIE_5, 50),
    _device("AMD Instinct MI325X", 1307.4, 163.4, 256, 6000, 448, PCIE_5, 50),
)
# What people call them -> the device that is meant.
_SHORT = {
    "A100": "NVIDIA A100-SXM4-80GB",
    "A100-40GB": "NVIDIA A100-SXM4-40GB",
    "A100-80GB": "NVIDIA A100-SXM4-80GB",
    "H100": "NVIDIA H100 80GB HBM3",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "RTX 3090": "NVIDIA GeForce RTX 3090",
}


def find(name: str) -> Device | None:
    """The device of a name that torch gives, or of a short one such as "H100"; None: unknown.

    Longer names that begin with a known one count as it, where a word ends there: drivers add to
    names ("AMD Instinct MI300X OAM").
    """
    wanted = _SHORT.get(name.upper(), name).casefold()
    for device in DEVICES:
        known = device.name.casefold()
        short = known.removeprefix("nvidia ").removeprefix("amd instinct ")
        if wanted in (known, short) or wanted.startswith(f"{known} "):
            return device
    return None


def device_called(name: str) -> Device:
    """The same; raises ConfigError, with the names there are, where it is unknown."""
    found = find(name)
    if found is None:
        names = ", ".join(device.name for device in DEVICES)
        raise ConfigError(f"--device: {name!r} is unknown; known: {names}")
    return found


def peak_flops(name: str, dtype: str) -> float | None:
    """FLOP/s of a device in "bfloat16" or "float32", dense; None where nothing is published."""
    found = find(name)
    return None if found is None else found.peak(dtype)
