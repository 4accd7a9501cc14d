"""The tables: Janus in transformers, and in deepseek-ai's release.

Names were read in transformers 5 (`modeling_janus.py`) and in deepseek-ai/Janus (`modeling_vlm.py`,
`siglip_vit.py`, `vq_model.py`, `projector.py`).
"""

from unijax.interop.parts import HF_VQ, LLAMAGEN_VQ, llama, siglip, timm_siglip, vq
from unijax.interop.table import Entry, Table, linear
from unijax.systems.janus import JanusConfig


def hf(config: JanusConfig) -> Table:
    """`JanusForConditionalGeneration` of transformers 5."""
    return Table(
        (
            *llama(config.text, "language_model", "model.language_model", "lm_head.weight"),
            *siglip(config.vision, "vision_model", "model.vision_model.", "projection_layer"),
            *vq(config.vq, "vqmodel", "model.vqmodel.", HF_VQ),
            *linear("aligner/fc1", "model.aligner.fc1"),
            *linear("aligner/hidden_layers_0", "model.aligner.hidden_layers.0"),
            Entry(("generation_embeddings/embedding",), "model.generation_embeddings.weight"),
            *linear("generation_aligner/fc1", "model.generation_aligner.fc1"),
            *linear(
                "generation_aligner/hidden_layers_0", "model.generation_aligner.hidden_layers.0"
            ),
            *linear("generation_head/proj_out", "model.generation_head.proj_out"),
            *linear("generation_head/vision_head", "model.generation_head.vision_head"),
        )
    )


def deepseek(config: JanusConfig) -> Table:
    """`MultiModalityCausalLM` of deepseek-ai/Janus. Its pooling head is built but never used."""
    return Table(
        (
            *llama(
                config.text,
                "language_model",
                "language_model.model",
                "language_model.lm_head.weight",
            ),
            *timm_siglip(config.vision, "vision_model", "vision_model.vision_tower"),
            *vq(config.vq, "vqmodel", "gen_vision_model.", LLAMAGEN_VQ),
            *linear("aligner/fc1", "aligner.layers.0"),
            *linear("aligner/hidden_layers_0", "aligner.layers.2"),
            Entry(("generation_embeddings/embedding",), "gen_embed.weight"),
            *linear("generation_aligner/fc1", "gen_aligner.layers.0"),
            *linear("generation_aligner/hidden_layers_0", "gen_aligner.layers.2"),
            *linear("generation_head/proj_out", "gen_head.output_mlp_projector"),
            *linear("generation_head/vision_head", "gen_head.vision_head"),
        ),
        dropped=(
            r"vision_model\.vision_tower\.attn_pool\..*",
            r"gen_vision_model\.quantize\.codebook_used",
            r"language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        ),
    )


FORMATS = {"hf": hf, "deepseek": deepseek}


TABLES = {"hf": hf, "deepseek": deepseek}
