"""A sweep of three runs that train in seconds: two lengths on one trunk, and another size."""

from ml_collections import ConfigDict

from tests.main import tiny


def get_config(arg: str = "") -> ConfigDict:
    """Takes no argument."""
    config = tiny.get_config().unlock()
    config.validation.samples = 0
    config.loop.eval_every = 0
    config.loop.log_every = 2
    config.stage.ema_decay = 0.0
    config.stage.optimizers.main.schedule = "constant_decay"
    config.stage.optimizers.main.warmup_steps = 2
    return config.lock()


def get_sweep() -> ConfigDict:
    """Tokens of a step are about 240. The shorter run of the larger size is left out."""
    return ConfigDict(
        {
            "kind": "tokens",
            "widths": (32, 48),
            "tokens": (1900.0, 2900.0),
            "tokens_per_parameter": (0.04, 1.0),
            "share_trunk": True,
        }
    )
