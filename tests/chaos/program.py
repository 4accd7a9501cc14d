"""`unijax train` on the small Janus, which notes the documents of every step beside its log."""

import json
import pathlib
import sys

from tests.slurm.runs import TINY
from unijax.main import cli
from unijax.main import train as train_lib


def noting(loader: type, path: pathlib.Path) -> type:
    """The loader, which writes step and documents of every batch that it hands out."""

    class Noting(loader):
        def __next__(self):
            batch = super().__next__()
            step = self.get_state()["given"] // self.config.rows
            line = {"step": step, "documents": list(self.documents.values())}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            return batch

    return Noting


def main() -> int:
    """Arguments: --run-dir RUN_DIR and overrides of the config."""
    _, run_dir, *overrides = sys.argv[1:]
    place = pathlib.Path(run_dir)
    place.mkdir(parents=True, exist_ok=True)
    train_lib.Loader = noting(train_lib.Loader, place / "documents.jsonl")
    return cli.main(["train", "--config", str(TINY), "--run-dir", run_dir, *overrides])


if __name__ == "__main__":
    sys.exit(main())
