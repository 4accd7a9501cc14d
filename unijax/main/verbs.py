"""What each verb of the command line does with its arguments."""

import argparse
import logging
import pathlib

from unijax.main import config as config_lib
from unijax.main.run import resolve

# Orbax and absl narrate every save; what a user must know is said by this project.
logging.getLogger("absl").setLevel(logging.ERROR)


def train_(args: argparse.Namespace) -> None:
    """`unijax train`."""
    from unijax.main.train import train

    run = resolve(config_lib.load(args.config, args.overrides))
    train(run, pathlib.Path(args.run_dir), args.init_from, args.stop_at)
