"""What a foreign config may say without changing what a plain network computes.

A key of these tables is refused unless it has one of the values beside it; without a value, unless
it is null or empty. They are the keys by which transformers' decoders and towers of other families
differ from Llama and SigLIP, so that a look-alike whose `model_type` was changed is refused too.
"""

OFF, ONE = (False,), (1, 1.0)

# Of any network, wherever they stand.
ANYWHERE: dict[str, tuple] = {
    "quantization_config": (), "compression_config": (), "per_layer_config": (),
    "pruned_heads": (), "adapters": (), "auto_map": (),  # code of its own computes anything
}  # fmt: skip

# Cohere, DBRX, Doge, Exaone, Falcon, Gemma, GLM, GPT-NeoX, Granite, Helium, InternLM, Llama 4,
# MiniCPM, Mistral, Mixtral, Nemotron, OLMo, Persimmon, Phi, Qwen, SmolLM, StableLM, Starcoder, ...
TEXT: dict[str, tuple] = {
    # attention
    "sliding_window": (), "use_sliding_window": OFF, "sliding_window_pattern": (),
    "_sliding_window_pattern": (), "attention_window": (), "attention_chunk_size": (),
    "keep_window_size": (), "window_size": (), "clip_qkv": (), "attn_logit_softcapping": (),
    "attention_multiplier": (), "query_pre_attn_scalar": (), "attention_scale": (),
    "attn_temperature_tuning": (False, 0), "use_qk_norm": OFF, "qk_norm": OFF, "qk_layernorm": OFF,
    "use_bidirectional_attention": OFF, "is_causal": (True,), "attention_output_gate": OFF,
    "attn_output_gate": OFF, "num_kv_shared_layers": (0,), "kv_lora_rank": (), "q_lora_rank": (),
    "qk_nope_head_dim": (), "qk_rope_head_dim": (), "v_head_dim": (), "alibi": OFF,
    "multi_query": OFF, "attention_sinks": OFF, "layer_norm_qk": OFF,
    # biases
    "qkv_bias": OFF, "use_qkv_bias": OFF, "attention_qkv_bias": OFF, "attention_out_bias": OFF,
    "use_bias": OFF, "bias": OFF, "add_qkv_bias": OFF, "add_bias_linear": OFF,
    "lm_head_bias": OFF, "o_proj_bias": OFF,
    # rotary positions
    "partial_rotary_factor": ONE, "rotary_pct": ONE, "rotary_emb_fraction": ONE, "rotary_dim": (),
    "rope_ratio": ONE, "rope_interleave": OFF, "rope_interleaved": OFF, "use_rope": (True,),
    "no_rope_layer_interval": (0,), "rope_local_base_freq": (), "local_rope_theta": (),
    "global_rope_theta": (), "mrope_section": (), "position_embedding_type": ("rope", "rotary"),
    # activations and norms
    "hidden_activation": ("silu", "swish"), "activation_function": ("silu", "swish"),
    "activation": ("silu", "swish"), "mlp_hidden_act": ("silu", "swish"),
    "rms_norm_add_unit_offset": OFF, "add_unit_offset": OFF, "zero_centered_gamma": OFF,
    "norm_type": ("rmsnorm", "rms_norm"), "normalization_type": ("rmsnorm", "RMSNorm"),
    "layernorm_type": ("rmsnorm", "rms"), "use_post_norm": OFF, "sandwich_norm": OFF,
    "use_parallel_residual": OFF, "parallel_residual": OFF, "parallel_attn": OFF,
    "new_decoder_architecture": OFF,
    # scales
    "embedding_multiplier": ONE, "residual_multiplier": ONE, "logits_scaling": ONE,
    "logit_scale": ONE, "final_logit_softcapping": (), "scale_emb": ONE, "scale_depth": (),
    "dim_model_base": (), "embedding_scale": ONE, "scale_embedding": OFF,
    "normalize_embeddings": OFF, "lm_head_multiplier": ONE, "key_multiplier": ONE,
    "attention_in_multiplier": ONE, "attention_out_multiplier": ONE, "mlp_multipliers": (),
    "mup_width_multiplier": ONE, "mup_embeddings_scale": ONE, "mup_output_alpha": ONE,
    "use_mup": OFF, "width_scale": ONE,
    # experts, layers of other kinds
    "num_experts": (0,), "num_local_experts": (0,), "moe_num_experts": (0,),
    "n_routed_experts": (0,), "n_shared_experts": (0,), "num_experts_per_tok": (0,),
    "moe_layers": (), "is_moe": OFF, "hybrid_override_pattern": (), "attn_layer_indices": (),
    "num_nextn_predict_layers": (0,), "skip_layers": (), "block_configs": (),
    "attn_config": (), "ffn_config": (), "lambda_std_dev": (), "conv_L_cache": (), "conv_bias": (),
    "rescale_every": (), "attention_hidden_size": (), "attn_type": (), "mem_len": (),
    "bi_data": (), "apply_residual_connection_post_layernorm": (),
    # sizes under other names, which classes of Llama would not read
    "n_embd": (), "n_head": (), "n_heads": (), "n_layer": (), "n_layers": (), "d_model": (),
    "norm_eps": (), "layer_norm_eps": (), "layer_norm_epsilon": (), "rotary_emb_base": (),
}  # fmt: skip

# Of towers: DINOv2, Gemma, InternViT, Qwen-VL, SAM, SigLIP 2, ViT.
VISION: dict[str, tuple] = {
    "qkv_bias": (True,), "use_qk_norm": OFF, "qk_norm": OFF, "qk_normalization": OFF,
    "norm_type": ("layer_norm", "layernorm"), "layerscale_value": (),
    "layer_scale_init_value": (0,),
    "use_absolute_position_embeddings": (True,), "use_abs_pos": (True,), "use_rel_pos": OFF,
    "use_mean_pooling": OFF, "window_size": (0,), "global_attn_indexes": (), "sliding_window": (),
    "num_register_tokens": (0,), "rope_theta": (), "rope_parameters": (), "use_swiglu_ffn": OFF,
    "use_class_token": OFF, "class_token": OFF, "num_patches": (), "spatial_merge_size": ONE,
    "temporal_patch_size": ONE, "pixel_mean": (), "pixel_std": (), "pixel_shuffle_ratio": (),
}  # fmt: skip

# Of image tokenizers: Chameleon, Emu3, taming-transformers.
VQ: dict[str, tuple] = {
    "attn_type": ("vanilla",), "attn_resolutions": (), "resolution": (), "norm_type": ("group",),
    "codebook_l2_norm": (True,), "resamp_with_conv": (True,), "temporal_downsample_factor": ONE,
    "encoder_ch_mult": (), "decoder_ch_mult": (), "z_channels": (), "use_mid_attention": (True,),
}  # fmt: skip
