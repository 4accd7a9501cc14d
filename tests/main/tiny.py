"""A Janus that trains in a second a step, on shipped data, through the config system."""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    emoji = {"kind": "shipped", "path": "emoji", "limit": 16}

    def groups(split):
        return [
            {"name": "und", "ratio": 2.0, "sources": [
                {"name": "names", "task": "name", "split": split, **emoji}]},
            {"name": "text", "ratio": 1.0, "sources": [
                {"name": "words", "task": "text", "path": "text", "split": split, "limit": 16}]},
            {"name": "gen", "ratio": 2.0, "sources": [
                {"name": "pictures", "task": "generate", "split": split, **emoji}]},
        ]  # fmt: skip

    return ConfigDict(
        {
            "reproduces": "nothing: a test",
            "system": "janus",
            "model": {
                "text": {
                    "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                    "head_dim": 8,
                },
                "vision": {
                    "image_size": 16, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32,
                    "num_hidden_layers": 1, "num_attention_heads": 2,
                },
                "vq": {
                    "image_size": 16, "base_channels": 32, "channel_multiplier": (1, 1, 1),
                    "num_res_blocks": 1, "latent_channels": 16, "num_embeddings": 64,
                },
            },
            "tokenizer": "assets/tokenizer",
            "stage": {
                "name": "tiny",
                "steps": 30,
                "ema_decay": 0.9,
                "rules": [
                    {"pattern": "vision_model/", "frozen": True},
                    {"pattern": "vqmodel/", "frozen": True},
                    {"pattern": ""},
                ],
                "optimizers": {"main": {"learning_rate": 3e-3, "warmup_steps": 5}},
            },
            "data": {
                "row_length": 128, "rows": 2, "prefetch": 1,
                "slots": {"und": 3, "gen": 3},
                "groups": groups("train"),
            },
            "validation": {"batches": 2, "samples": 2, "groups": groups("validation")},
            "loop": {"log_every": 1, "eval_every": 10, "writers": ("jsonl",)},
        }
    ).lock()  # fmt: skip
