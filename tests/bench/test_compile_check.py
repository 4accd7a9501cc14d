"""What goes through the compilers of devices that are not there."""

from bench import compile_check
from unijax.models.sana import SanaConfig
from unijax.models.unet import UNetConfig


def test_every_head_dim_that_is_published_or_configured_has_a_case():
    assert compile_check.missing_sizes() == []


def test_attention_of_every_kind_of_network_is_known():
    assert compile_check.kinds(UNetConfig()) == {(1, 40), (1, 80), (1, 160)}
    assert compile_check.kinds(SanaConfig()) == {(1, 112)}
    sizes = compile_check.sizes()
    assert compile_check.kinds(sizes["chameleon_34b"]) == {(8, 128)}
    assert compile_check.kinds(sizes["eva_giant_patch14_224"]) == {(1, 88)}
