"""Verbs of scaling studies: ladder, sweep, gather, fit, report. Imported light; work is lazy."""

import argparse
import dataclasses
import pathlib

from unijax.core.errors import UserError


def add_parsers(verbs) -> None:
    """Adds the verbs to the command line."""
    p = verbs.add_parser("ladder", help="print a ladder of sizes with its arithmetic")
    p.add_argument("name", nargs="?", default="micro", help="micro, janus_pro, transfusion, ...")
    p.add_argument("--context", type=int, default=0, help="tokens of a document, for attention")
    p.add_argument("--width", type=int, action="append", help="only these sizes")

    p = verbs.add_parser("sweep", help="train all runs of a study, or go on with it")
    p.add_argument("--config", required=True, metavar="FILE", help="has get_config and get_sweep")
    p.add_argument("--dir", required=True, help="runs, their table and the plan go here")
    p.add_argument("--list", action="store_true", help="print the runs and do nothing")
    p.add_argument("--only", metavar="RUN_ID", help="train one run, as a job of an array does")
    p.add_argument("overrides", nargs="*", metavar="key=value")

    p = verbs.add_parser("gather", help="put what a sweep's runs gave into one table")
    p.add_argument("dir")

    p = verbs.add_parser("fit", help="fit scaling laws to a table of runs")
    p.add_argument("table", help="Parquet or CSV; columns are listed in docs/scaling.md")
    p.add_argument("--out", required=True, help="folder for fit.json, then for the report")
    p.add_argument("--loss", action="append", default=[], help="only these losses")
    p.add_argument(
        "--parameters", default="", metavar="COLUMN",
        help="that is N: non_embedding_parameters, or parameters where there is no such column",
    )  # fmt: skip
    p.add_argument("--delta", type=float, default=1e-3, help="of Huber's loss")
    p.add_argument("--residual", choices=("log", "linear"), default="log", help="of the loss")
    p.add_argument("--tied", action="store_true", help="one exponent for parameters and tokens")
    p.add_argument("--repeated", action="store_true", help="fit the worth of repeated data too")
    p.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    p.add_argument("--level", type=float, default=0.95, help="of confidence")
    p.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    p.add_argument("--hold-out", type=int, default=2, help="largest settings to hide and predict")
    p.add_argument("--budget", type=float, action="append", default=[], help="FLOPs to spend best")
    p.add_argument("--drop-failed", action="store_true", help="leave out runs that failed")
    p.add_argument("--best-learning-rate", action="store_true", help="the best of each setting")

    p.add_argument("--bimodal", nargs=2, default=[], metavar="LOSS", help="what two do together")
    p.add_argument("--reference", default="", metavar="SYSTEM", help="for parity FLOP ratios")

    p = verbs.add_parser("report", help="a page and figures of a fit")
    p.add_argument("dir", help="folder that unijax fit wrote")
    p.add_argument("--title", default="Scaling laws", help="of the page")


def ladder_(args: argparse.Namespace) -> None:
    """`unijax ladder`: with the context of each ladder's own training by default."""
    from unijax.scaling.accounting import describe
    from unijax.scaling.ladder import ladder, rung

    rungs = [rung(args.name, w) for w in args.width] if args.width else ladder(args.name)
    context = args.context or (512 if args.name.endswith("micro") else 4096)
    if context < 1:
        raise UserError("--context", f"{context}", "1 or more", "Correct it.")
    print(describe(rungs, context))


def sweep_(args: argparse.Namespace) -> None:
    """`unijax sweep`."""
    from unijax.main import sweep

    if not args.list:
        sweep.sweep(args.config, args.dir, args.overrides, args.only)
        return
    for one in sweep.plan(args.config, args.overrides)[0]:
        rate = one.run.stage.optimizers["main"].learning_rate
        print(f"{one.id}  {one.cell.tokens:.3g} tokens, rate {rate:g}, seed {one.cell.seed}")


def gather_(args: argparse.Namespace) -> None:
    """`unijax gather`."""
    from unijax.main.gather import gather

    gather(args.dir)


def fit_(args: argparse.Namespace) -> None:
    """`unijax fit`."""
    from unijax.main.fit import fit
    from unijax.scaling.study import FitConfig

    lists = {"losses": args.loss, "budgets": args.budget, "bimodal": args.bimodal}
    given = vars(args) | {name: tuple(values) for name, values in lists.items()}
    names = [f.name for f in dataclasses.fields(FitConfig)]
    fit(pathlib.Path(args.table), pathlib.Path(args.out), FitConfig(**{n: given[n] for n in names}))


def report_(args: argparse.Namespace) -> None:
    """`unijax report`."""
    from unijax.main.scaling_report import report

    report(pathlib.Path(args.dir), args.title)
