"""README.md and licences of an export: what it is, how and on what it was trained, whose it is.

Folders of the machine that trained it are left out: only the names of files stay.
"""

import json
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Any

from unijax.core.errors import UserError
from unijax.core.json_files import shown
from unijax.core.paths import assets_dir
from unijax.interop.interface import Format, Interop
from unijax.interop.opening import kind_of
from unijax.interop.sources import is_inside
from unijax.train import origin
from unijax.train.origin import Origin

_LICENCE_FILE = re.compile(
    r"(licen[cs]e|copying|notice|use_policy)[\w-]*(\.txt|\.md)?", re.IGNORECASE
)
_LICENCE_BYTES = 2**20
_FIELDS = ("license", "license_name", "license_link")
_FIELD = re.compile(rf"^({'|'.join(_FIELDS)}):[ \t]*[\"']?([\w./:+-]{{1,200}})[\"']?[ \t]*$", re.M)
_NO_LICENCE = """\
No licence is known for these weights: whoever trained them has not chosen one here. The terms of
the weights that they started from, and of the data, hold for them too; README.md names both.
"""
_UNKNOWN = "Not known: whoever publishes it has to say (`unijax export --license`)."


def licence_of(source: pathlib.Path) -> tuple[dict[str, str], tuple[pathlib.Path, ...]]:
    """What a foreign model directory says of its licence: fields of its card, and files."""
    fields = {}
    card = source / "README.md"
    if card.is_file() and is_inside(card):
        with card.open(encoding="utf-8", errors="replace") as f:
            text = f.read(2**16)
        if text.startswith("---"):
            fields = dict(_FIELD.findall(text.split("\n---")[0]))
    if fields.get("license") == "unknown":
        fields = {}
    files = [
        path
        for path in source.iterdir()
        if _LICENCE_FILE.fullmatch(path.name)
        and path.is_file()
        and is_inside(path)
        and path.stat().st_size <= _LICENCE_BYTES
        and path.read_bytes() != _NO_LICENCE.encode()
    ]
    return fields, tuple(sorted(files))


def name_of(source: pathlib.Path) -> str:
    """What a model directory is called: OWNER/NAME in the cache of Hugging Face's hub."""
    folder = source.resolve()
    repository = folder.parent.parent.name.split("--")
    if folder.parent.name == "snapshots" and repository[0] == "models" and len(repository) == 3:
        return "/".join(repository[1:])
    return folder.name


def write_model_card(
    directory: pathlib.Path,
    title: str,
    of: Interop,
    format: Format,
    sizes: dict[str, str],
    run: dict,
    before: Origin,
    licence: str | None,
) -> bool:
    """Writes README.md and the licences; returns whether a licence is known.

    Args:
      directory: of the export.
      title: of the card.
      of: the system.
      format: of the export.
      sizes: rows of the table of what it is.
      run: what the checkpoint records.
      before: where the run started.
      licence: a file, or a name as model cards have it; None for that of the origin.

    Raises:
      UserError: for a licence that is neither.
    """
    fields = _write_licence(directory, before, licence)
    known = bool(fields) or bool(before.files)
    front = {"license": "unknown", **fields} if not known or fields else {"license": "other"}
    if format.package:
        front["library_name"] = format.package
    front["pipeline_tag"] = of.task
    imported = [stage["imported"] for stage in before.history if "imported" in stage]
    if imported and "/" in imported[-1]:
        front["base_model"] = imported[-1]
    lines = ["---", *(f"{key}: {value}" for key, value in front.items())]
    lines += ["tags:", f"- {of.system}", "- unijax", "---", "", f"# {title}", ""]
    lines += [
        f"{of.about} Exported by unijax.", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in sizes.items()), "",
        "## Use", "", format.use, "",
        "## Training", "", *_training(run, before), "",
        "## Data", "", *_data(run), "",
        "## Licence", "", _licence_text(fields, before, known), "",
        "## Config", "", "<details><summary>As the checkpoint records it</summary>", "",
        "```json", json.dumps(_without_folders(run["config"]), ensure_ascii=False, indent=1),
        "```", "", "</details>", "",
    ]  # fmt: skip
    (directory / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return known


def _write_licence(directory: pathlib.Path, before: Origin, licence: str | None) -> dict[str, str]:
    """Puts the licences beside the weights; returns the fields of the card."""
    for file in before.files:
        shutil.copyfile(file, directory / file.name)
    fields = before.licence if licence is None else _given(directory, licence)
    if not before.files and not (directory / "LICENSE").exists():
        said = "".join(f"{name}: {value}\n" for name, value in fields.items())
        (directory / "LICENSE").write_text(said or _NO_LICENCE, encoding="utf-8")
    return fields


def _given(directory: pathlib.Path, licence: str) -> dict[str, str]:
    path = pathlib.Path(licence)
    if kind_of(path) == "a file":
        shutil.copyfile(path, directory / "LICENSE")
        return {"license": "other", "license_link": "LICENSE"}
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,40}", licence):
        raise UserError(
            "--license", repr(shown(licence)), "a file, or a name such as mit or apache-2.0",
            "Correct it.",
        )  # fmt: skip
    return {"license": licence}


def _training(run: dict, before: Origin) -> list[str]:
    stages = list(before.history)
    if run["stage"] != "import":
        stages.append(origin.describe(run))
    lines = []
    for number, stage in enumerate(stages, 1):
        if "imported" in stage:
            lines.append(
                f"{number}. Imported: `{stage['imported']}`, in the format {stage['format']}."
            )
        else:
            what = f" ({stage['reproduces']})" if stage.get("reproduces") else ""
            lines.append(f"{number}. Stage `{stage['stage']}`{what}, {stage['step']:,} steps.")
    config = run["config"]
    data, stage = config.get("data") or {}, config.get("stage")
    if stage is None:
        return lines or ["Nothing is recorded."]
    lines += ["", "The last stage:", ""]
    if "rows" in data:
        lines.append(f"- {data['rows']} rows of {data['row_length']} tokens a step")
    for name, o in (stage.get("optimizers") or {}).items():
        said = ", ".join(f"{key} {value}" for key, value in o.items())
        lines.append(f"- optimizer `{name}`: {said}")
    frozen = [r["pattern"] or "all" for r in stage.get("rules") or () if r.get("frozen")]
    lines.append(f"- frozen: {', '.join(f'`{p}`' for p in frozen) or 'nothing'}")
    if stage.get("ema_decay"):
        lines.append(f"- the weights are their moving average, decay {stage['ema_decay']}")
    lines.append(f"- seed {config.get('seed', 0)}, computed in {config.get('dtype', 'float32')}")
    return lines


def _data(run: dict) -> list[str]:
    groups = (run["config"].get("data") or {}).get("groups") or []
    if not groups:
        return ["Nothing was trained here: see what it was imported from."]
    head = ("group", "share", "source", "task", "kind", "weight", "licence")
    lines = [_row(head), _row(["---"] * len(head))]
    for group in groups:
        for source in group["sources"]:
            name = pathlib.PurePath(source.get("path") or source["name"]).name
            kind = source.get("kind", "shipped")
            licence = _shipped_licences(name) if kind == "shipped" else ""
            share, weight = f"{group['ratio']:g}", f"{source.get('weight', 1.0):g}"
            cells = (group["name"], share, shown(name), source["task"], kind, weight, licence)
            lines.append(_row(cells))
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shipped_licences(name: str) -> str:
    """Of a dataset of this project, whose folder has them; those of others are not known."""
    try:
        files = sorted((assets_dir() / name).glob("LICENSE-*.txt"))
    except UserError:
        return ""  # the data was elsewhere when it was trained
    return ", ".join(file.stem.removeprefix("LICENSE-") for file in files)


def _licence_text(fields: dict[str, str], before: Origin, known: bool) -> str:
    if not known:
        return _UNKNOWN
    said = ", ".join(f"{name.removeprefix('license_')} {value}" for name, value in fields.items())
    files = ", ".join(f"`{file.name}`" for file in before.files)
    carried = f"Carried from what it was imported from: {files}." if files else ""
    return " ".join(part for part in (said and f"{said}.", carried) if part)


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _without_folders(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_folders(v, key) for v in value]
    is_path = isinstance(value, str) and key != "reproduces" and ("/" in value or "\\" in value)
    # Patterns of parameters are no paths, though they have slashes.
    return pathlib.PurePath(value).name if is_path and key != "pattern" else value
