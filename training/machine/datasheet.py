"""Peak FLOP/s and memory of GPUs, from their data sheets."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU as its data sheet has it."""

    half: float
    """Dense FLOP/s of bfloat16 or float16 matrix products."""
    single: float
    """FLOP/s in float32, without tensor cores: TF32 is not float32."""
    gigabytes: int
    """Memory, in units of 10^9 bytes; of several models, the most common."""

    bf16: bool = True
    """Whether it multiplies bfloat16 matrices in hardware."""

    def peak(self, half: bool) -> float:
        """FLOP/s of matrix products in 16 bits or in float32."""
        return self.half if half else self.single

    @property
    def memory(self) -> int:
        """Bytes of memory."""
        return self.gigabytes * 10**9


DEVICES = {
    "B200": Device(2.25e15, 7.5e13, 180),
    "H200": Device(9.89e14, 6.7e13, 141),
    "H100": Device(9.89e14, 6.7e13, 80),
    "A100": Device(3.12e14, 1.95e13, 80),
    "L40S": Device(3.62e14, 9.16e13, 48),
    "L4": Device(1.21e14, 3.03e13, 24),
    "RTX 4090": Device(1.65e14, 8.26e13, 24),
    "RTX 3090": Device(7.1e13, 3.56e13, 24),
    "V100": Device(1.25e14, 1.57e13, 16, bf16=False),
    "T4": Device(6.5e13, 8.1e12, 16, bf16=False),
}
"""By a part of the device's name."""


def find_device(name: str) -> Device | None:
    """The device whose name has one of `DEVICES` as a word, as in `NVIDIA H100 80GB HBM3`, in any case; or None."""
    name = name.upper()
    for part, device in DEVICES.items():
        if part in re.split(r"[\s-]", name) or (" " in part and part in name):
            return device
    return None
