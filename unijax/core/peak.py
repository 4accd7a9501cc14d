"""Peak speed of accelerators, by what JAX calls them: what a share of FLOPs is a share of."""

import re

# bfloat16 products, dense, per second and device as JAX counts them. Sources: Google Cloud's pages
# of each TPU generation (v2 and v3 count cores); NVIDIA's data sheets.
_PEAKS = (
    (r"TPU v2", 22.5e12),
    (r"TPU v3", 61.5e12),
    (r"TPU v4 lite|TPU v4i", 138e12),
    (r"TPU v4", 275e12),
    (r"TPU v5 ?lite|TPU v5e", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v6", 918e12),
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"H100|H200", 989.4e12),
    (r"A100", 312e12),
)


def peak_flops(kind: str) -> float | None:
    """Of one device of this `device_kind`; None for a CPU, or one that is not known."""
    return next((peak for name, peak in _PEAKS if re.search(name, kind)), None)
