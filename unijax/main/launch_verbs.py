"""Verbs of launching: launch, status. Imported light: a table of runs does not wait for JAX."""

import argparse


def add_parsers(verbs) -> None:
    """Adds the verbs to the command line."""
    p = verbs.add_parser("launch", help="start a run or a sweep on a cluster, or show how")
    p.add_argument("file", help="what to run, as YAML or Python")
    p.add_argument("changes", nargs="*", metavar="key=value", help="changes to the file")
    p.add_argument("--engine", required=True, choices=("local", "slurm", "gke", "tpu", "sky"))
    p.add_argument("--dry-run", action="store_true", help="show the rendered files alone")
    p.add_argument("--out", help="folder of the rendered files; DIRECTORY/launch by default")

    p = verbs.add_parser("status", help="table the runs of a sweep")
    p.add_argument("dir", help="a directory of runs, or one run")


def launch_(args: argparse.Namespace) -> int:
    """`unijax launch`."""
    from unijax.main.launching import start

    return start(args.file, args.changes, args.engine, args.out, args.dry_run)


def status_(args: argparse.Namespace) -> None:
    """`unijax status`."""
    from unijax.core import storage
    from unijax.launch.table import FILES, table

    with storage.some_of(args.dir, FILES) as folder:
        print(table(folder))
