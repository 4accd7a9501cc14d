"""Ladders of Transfusion: the published sizes (table 2 of arXiv 2408.11039), and micro ones."""

from unijax.core.ladder import Ladder, Rung
from unijax.models import autoencoder, llama
from unijax.models.autoencoder import AutoencoderConfig
from unijax.models.latent_patches import LatentPatchesConfig
from unijax.systems import micro
from unijax.systems.transfusion import TransfusionConfig

SIZES = {768: "0.16B", 1024: "0.37B", 1536: "0.76B", 2048: "1.4B", 4096: "7B"}


def _published(width: int) -> Rung:
    """With linear image layers."""
    name = SIZES[width]
    text = llama.SIZES[f"transfusion_{name.lower()}"]
    words = (
        f"layers {text.num_hidden_layers}, heads {text.num_attention_heads} (table 2); "
        f"MLP 8/3 x {width} = {8 * width / 3:.0f}, up to a multiple of 256: "
        f"{text.intermediate_size}"
    )
    ae = autoencoder.SIZES["transfusion_vae"]
    return Rung(name, "transfusion", TransfusionConfig(text, ae, LatentPatchesConfig()), words)


def _micro(width: int) -> Rung:
    text, name, words = micro.decoder(width)
    config = TransfusionConfig(text, KL, LatentPatchesConfig(KL.grid, KL.latent_channels, 2))
    return Rung(name, "transfusion", config, words)


# The autoencoder of configs/kl_demo.py.
KL = AutoencoderConfig(64, 4, (32, 32, 64), 1, scaling_factor=1.0)
LADDERS = {
    "transfusion": Ladder(_published, tuple(SIZES)),
    "transfusion_micro": Ladder(_micro, micro.WIDTHS, micro.MULTIPLE),
}
