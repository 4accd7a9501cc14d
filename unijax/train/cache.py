"""Features and codes of frozen encoders, computed once ahead of training."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Collection, Iterable

import jax
import numpy as np
from tqdm import tqdm

from unijax.core import sums, tree
from unijax.core.errors import UserError
from unijax.core.files import atomic_directory
from unijax.core.processes import is_lead, to_host, wait_for_all
from unijax.core.system import Encoded, EncodedSystem, Params, RowSystem, System
from unijax.data.batch import Cached
from unijax.data.config import DataConfig, SourceConfig, preparation
from unijax.data.document import ImageRef, ImageSpan
from unijax.data.pictures import PictureConfig, all_pictures
from unijax.data.pictures import preparation as picture_preparation
from unijax.data.prepare import Preparation
from unijax.data.render import BLACK
from unijax.data.sources import DocumentSource
from unijax.data.tasks import may_show
from unijax.ops.image import to_signed

_BATCH = 64
ENDLESS = 10_000_000  # documents: more is a source that composes them for ever


class ImageTable:
    """One array per picture, found by the picture's key; memory-mapped from disk."""

    def __init__(self, folder: pathlib.Path):
        self._rows = json.loads((folder / "keys.json").read_text())
        self._values = np.load(folder / "values.npy", mmap_mode="r")

    def __call__(self, key: str) -> np.ndarray:
        return np.asarray(self._values[self._rows[key]])

    def __contains__(self, key: str) -> bool:
        return key in self._rows


def tables(
    system: RowSystem,
    params: Params,
    data: DataConfig,
    sources: Iterable[DocumentSource],
    folder: pathlib.Path,
    frozen: Callable[[str], bool] = lambda group: True,
) -> dict[str, Cached]:
    """What the encoders of a recipe make of every picture of the sources, kept in `folder`.

    Args:
      frozen: whether a group of parameters is not trained; others are not kept.
      params: of the system; its encoders' are used.

    Returns:
      By array of slots, of those that the config has.
    """
    found = {}
    for name, how in system.encoded.items():
        if not data.slots.get(name) or not frozen(how.group):
            continue
        streams = [stream for stream in system.layout.streams if stream.slots == name]
        if len({stream.resize for stream in streams}) > 1:
            raise UserError(
                "cache_frozen", f"the slots {name!r}, whose pictures are prepared in two ways",
                "one way for each array of slots", "Set cache_frozen=false.",
            )  # fmt: skip
        roles = {stream.role for stream in streams}
        # A source of 40,000 texts is not rendered to find that it has no picture.
        showing = [s for s in sources if any(may_show(s.config.task, role) for role in roles)]
        read = preparation(data, streams[0])
        refs = pictures(showing, roles)
        if data.p_drop_images and "gen" not in roles:
            black = ImageRef("a black picture", BLACK)
            refs[black.key] = black
        if not refs:
            continue  # no source shows one
        found[name] = _cached(system, params, name, how, read, refs, folder)
    return found


def _cached(
    system: System,
    params: Params,
    name: str,
    how: Encoded,
    read: Preparation,
    refs: dict[str, ImageRef],
    folder: pathlib.Path,
) -> Cached:
    """What an encoder makes of the pictures, under its name in `folder`."""

    def forward(part, pixels):
        return getattr(system, how.method)({how.group: part}, to_signed(pixels, system.dtype))

    seen = f"{read} in {np.dtype(system.dtype)}"
    kept = table(folder / "cache", name, params[how.group], forward, read, refs, seen)
    return Cached(how.field, kept, how.shape, np.dtype(how.dtype))


def picture_tables(
    system: System,
    params: Params,
    data: PictureConfig,
    sources: tuple[SourceConfig, ...],
    folder: pathlib.Path,
) -> dict[str, Cached]:
    """What the encoders of a recipe of pictures make of every one of the sources, by name.

    Raises:
      UserError: if the recipe has none, or pictures are seen otherwise each time.
    """
    if not isinstance(system, EncodedSystem) or data.crop == "random":
        raise UserError(
            "cache_frozen", f"data.crop={data.crop!r}",
            "a frozen encoder, and pictures that are seen alike each time they come",
            "Set cache_frozen=false, so that it sees them in the step.",
        )  # fmt: skip
    for source in sources:
        if source.kind == "scenes" and not source.limit:
            raise _endless(source.name, "endlessly many")
    refs, read = all_pictures(sources, data.seed), picture_preparation(data)
    return {
        name: _cached(system, params, name, how, read, refs, folder)
        for name, how in system.encoded.items()
    }


def _endless(source: str, count: object) -> UserError:
    return UserError(
        f"source {source}",
        f"{count} pictures made on the fly",
        f"at most {ENDLESS}, as features of all of them are cached",
        "Give the source a limit, or set cache_frozen=false.",
    )


def pictures(sources: Iterable[DocumentSource], roles: Collection[str]) -> dict[str, ImageRef]:
    """Every picture that the sources show in some roles, by key.

    Raises:
      UserError: for a source that makes pictures without end.
    """
    found = {}
    for source in sources:
        if source.epoch_length > ENDLESS:
            raise _endless(source.name, source.epoch_length)
        for draw in range(source.epoch_length):
            for s in source.document(draw).spans:
                if isinstance(s, ImageSpan) and s.role in roles:
                    found.setdefault(s.image.key, s.image)
    return found


def table(
    folder: pathlib.Path,
    name: str,
    params: Params,
    encode: Callable[[Params, jax.Array], jax.Array],
    read: Callable[[ImageRef], np.ndarray],
    refs: dict[str, ImageRef],
    seen: str,
) -> ImageTable:
    """Encodes pictures that are not yet in the folder's table; atomic, with a progress bar.

    The table's name holds a digest of the encoder's parameters, of how it sees pictures and of the
    set of them, so that a table is never used for another encoder, or for pictures that are
    prepared otherwise. One whose checksums do not hold is made anew.

    Args:
      seen: how pictures are prepared, and the dtype they are encoded in.
      params: of the encoder alone.
      encode: (params, uint8 [n, S, S, 3]) -> [n, ...]; jitted here.
      read: a reference to uint8 [S, S, 3].
    """
    digest = hashlib.sha1()
    params = jax.tree.map(to_host, params)
    for path, value in tree.flatten(params).items():
        digest.update(path.encode() + np.ascontiguousarray(value).tobytes())
    keys = sorted(refs)
    first = read(refs[keys[0]])
    digest.update(repr((first.shape, keys, seen)).encode())
    place = folder / f"{name}-{digest.hexdigest()[:12]}"
    if is_lead():
        fill = lambda: _fill(place, name, params, encode, read, refs)  # noqa: E731
        sums.make_once(place, sums.hold, fill)
    wait_for_all(f"table {name}")
    return ImageTable(place)


def _fill(
    place: pathlib.Path,
    name: str,
    params: Params,
    encode: Callable[[Params, jax.Array], jax.Array],
    read: Callable[[ImageRef], np.ndarray],
    refs: dict[str, ImageRef],
) -> None:
    keys = sorted(refs)
    compiled, params = jax.jit(encode), jax.device_put(params)
    with atomic_directory(place) as temporary:
        values = None
        for start in tqdm(range(0, len(keys), _BATCH), desc=f"encoding {name}", unit="batch"):
            part = keys[start : start + _BATCH]
            pixels = [read(refs[k]) for k in part]
            pixels += [np.zeros_like(pixels[0])] * (_BATCH - len(part))
            out = np.asarray(jax.device_get(compiled(params, np.stack(pixels))))
            if out.dtype not in (np.int32, np.float32):
                out = out.astype(np.float32)  # .npy knows no bfloat16
            if values is None:
                values = np.lib.format.open_memmap(
                    temporary / "values.npy", "w+", out.dtype, (len(keys), *out.shape[1:])
                )
            values[start : start + len(part)] = out[: len(part)]
        values.flush()
        (temporary / "keys.json").write_text(json.dumps({k: i for i, k in enumerate(keys)}))
        del values
        sums.write(temporary)
