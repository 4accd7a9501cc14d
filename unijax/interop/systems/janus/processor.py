"""What the processor of a foreign checkpoint does with conversations and pictures.

Import records it, so that a run answers as its source does: the template of conversations, the
system prompt before them, the rounding of a picture's short side. What this project does not do
with a picture is refused by name.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from unijax.core.errors import UserError
from unijax.core.json_files import quoted, read_object
from unijax.data.images import MIN_SIDE
from unijax.data.templates import JANUS
from unijax.data.tokenizer import Tokenizer
from unijax.interop.interface import Import
from unijax.interop.sections import Section
from unijax.interop.systems.janus.chat_template import recognize
from unijax.systems.janus import JanusConfig

# Of both processors (`processing_vlm.py` of deepseek-ai/Janus, `processing_janus.py`).
SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
# deepseek-ai's names of templates. Its first release called `deepseek` what is `deepseek_old` now:
# the roles that are tokens tell which is meant.
SFT_FORMATS = {"deepseek": "janus_pro", "deepseek_old": "janus"}

# Tokens of a row in the training of Janus and Janus-Pro (arXiv 2410.13848, 2501.17811), which no
# file of theirs says: `max_position_embeddings` is 16384.
TRAINED_LENGTH = 4096
# Of the short side of a picture, in the code that each format is for.
ROUNDING = {"hf": "round", "deepseek": "floor"}

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]  # the defaults of both image processors
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_HALF = [0.5, 0.5, 0.5]
_IMAGES = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": True,
    "do_center_crop": False, "resample": 3, "rescale_factor": 1 / 255, "min_size": MIN_SIDE,
    "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD,
}  # fmt: skip
_CLASSES = {
    "hf": ("JanusImageProcessor", "JanusImageProcessorFast", "JanusImageProcessorPil"),
    "deepseek": ("VLMImageProcessor",),
}
# The padding's colour follows from the mean in both classes; pictures become RGB here in any case.
_HARMLESS = (
    "background_color", "crop_size", "data_format", "default_to_square", "device",
    "disable_grouping", "do_convert_rgb", "feature_extractor_type", "image_seq_length",
    "input_data_format", "pad_size", "processor_class", "return_tensors", "size_divisor",
)  # fmt: skip
_PROCESSOR_HARMLESS = (
    "auto_map", "chat_template", "ignore_id", "image_end_tag", "image_processor",
    "image_start_tag", "image_tag", "image_token", "mask_prompt", "pad_tag", "processor_class",
    "tokenizer_class", "use_default_system_prompt",
)  # fmt: skip
_FILES = {"images": "preprocessor_config.json", "processor": "processor_config.json"}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Of conversations and pictures.

    Attributes:
      template: a key of `JANUS`.
      und_rounding: of the short side, see `data.images.for_understanding`.
      system_prompt: put before a conversation; empty for none.
      row_length: tokens of a row in training; 0 where it is not known.
    """

    template: str
    und_rounding: str
    system_prompt: str
    row_length: int


def read_processor(
    source: pathlib.Path,
    format: str,
    config: JanusConfig,
    tokenizer: Tokenizer,
    template: str | None,
    notes: list[str],
) -> Preparation:
    """What the files of a model directory say.

    Args:
      source: the directory.
      format: "hf" or "deepseek".
      config: sizes of the model.
      tokenizer: of it.
      template: as the user says it; None for what the files say.
      notes: what is to be told is added to it.

    Raises:
      UserError: for what this project does not do.
    """
    path = source / _FILES["processor"]
    processor = Section(str(path), read_object(path) if path.exists() else None)
    _check_size(processor, "num_image_tokens", config.vision.num_tokens, notes)
    if "add_special_token" in processor:
        processor.require("add_special_token", False)
    if template is None:
        read = _hf_template if format == "hf" else _deepseek_template
        template, why = read(source, processor, tokenizer)
        notes.append(f"conversations as in {template}: {why}")
    _check_images(source, format, config, processor, notes)
    if format == "hf":
        _check_ids(source, tokenizer, notes)
    said = ("sft_format",) if format == "deepseek" else ()  # the user's word may stand for it
    notes += processor.unknown((*_PROCESSOR_HARMLESS, *said))
    prompted = True  # `VLChatProcessor` has no switch for it
    if format == "hf":
        prompted = "use_default_system_prompt" in processor
        if prompted:
            processor.require("use_default_system_prompt", True, False)
            prompted = processor.get("use_default_system_prompt")
    system = SYSTEM_PROMPT if prompted else ""
    length = min(TRAINED_LENGTH, config.text.max_position_embeddings)
    return Preparation(template, ROUNDING[format], system, length)


def record(source: Import, format: str) -> dict:
    """What an import records under `data`."""
    done = read_processor(
        source.directory, format, source.config, source.tokenizer, source.template, source.notes
    )
    return dataclasses.asdict(done)


def preparation(run: Mapping) -> Preparation:
    """What a checkpoint records."""
    data = run["config"].get("data") or {}
    return Preparation(
        data.get("template", "janus_pro"),
        data.get("und_rounding", "floor"),
        data.get("system_prompt", ""),
        data.get("row_length", 0),
    )


def sft_format(template: str) -> str:
    """deepseek-ai's name of a template. Raises UserError where its code has none."""
    names = {ours: theirs for theirs, ours in SFT_FORMATS.items()}
    if template not in names:
        raise UserError(
            "template", repr(template), f"one of {sorted(names)}",
            "deepseek-ai's code has no such conversations: export with --format hf.",
        )  # fmt: skip
    return names[template]


def by_tokens(tokenizer: Tokenizer) -> tuple[str, str]:
    """The template whose roles are tokens, and what tells."""
    pro = JANUS["janus_pro"]
    if {pro.user, pro.assistant} <= set(tokenizer.tokens):
        return "janus_pro", f"{pro.user} is a token"
    return "janus", f"{pro.user} is no token"


def _deepseek_template(
    source: pathlib.Path, processor: Section, tokenizer: Tokenizer
) -> tuple[str, str]:
    """By sft_format, whose default is "deepseek"."""
    said = processor.get("sft_format")
    said = "deepseek" if said is None else said
    if not isinstance(said, str) or said not in SFT_FORMATS:
        raise _other_format(processor.where, quoted(said))
    name, why = by_tokens(tokenizer)
    if SFT_FORMATS[said] == "janus":
        return "janus", f"sft_format is {said!r}"
    return name, f"sft_format is {said!r}, and {why}"


def _other_format(where: str, found: str) -> UserError:
    names = " or ".join(f"--template {name}" for name in JANUS)
    return UserError(
        f"{where}.sft_format", found, f"one of {sorted(SFT_FORMATS)}",
        f"Say which template the model was trained with: {names}.",
    )  # fmt: skip


def _hf_template(source: pathlib.Path, processor: Section, tokenizer: Tokenizer) -> tuple[str, str]:
    """By the chat template, which is looked for where transformers does, in its order."""
    eos = tokenizer.piece(tokenizer.special.eos)
    files = ("chat_template.json", "chat_template.jinja", "tokenizer_config.json")
    found = [(processor.where, processor.get("chat_template"))]
    for path in (source / name for name in files):
        if not path.exists():
            continue
        if path.suffix == ".jinja":
            found.append((str(path), _text(path)))
        else:
            found.append((str(path), read_object(path).get("chat_template")))
    for where, text in found:
        if isinstance(text, list):  # several, by name
            text = {t.get("name"): t.get("template") for t in text if isinstance(t, dict)}
        if isinstance(text, dict):
            text = text.get("default")
        if text is not None and not isinstance(text, str):
            raise UserError(where, f"chat_template {quoted(text)}", "a text", "Correct the file.")
        if text:
            return recognize(text, where, eos), f"the chat template of {where}"
    name, why = by_tokens(tokenizer)
    return name, f"there is no chat template, and {why}"


def _text(path: pathlib.Path) -> str:
    if not path.is_file() or path.stat().st_size > 2**20:
        raise UserError(str(path), "no file of a template's size", "a chat template", "Replace it.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UserError(str(path), f"{e}", "UTF-8", "Fetch it again.") from None


def _check_ids(source: pathlib.Path, tokenizer: Tokenizer, notes: list[str]) -> None:
    """Tells ids by which transformers would place a picture or draw one, and this run will not."""
    special = tokenizer.special
    said = [("config.json", "image_token_id", special.image_placeholder)]
    path = source / "generation_config.json"
    generation = Section(str(path), read_object(path) if path.exists() else None)
    contents = {"config.json": Section("config.json", read_object(source / "config.json"))}
    contents |= {path.name: generation, "generation_kwargs": generation.group("generation_kwargs")}
    said += [
        (path.name, f"{name}_token_id", getattr(special, name)) for name in ("bos", "eos", "pad")
    ]
    said.append(("generation_kwargs", "boi_token_id", special.boi))
    for name, key, ours in said:
        value = contents[name].get(key)
        if key in contents[name] and value not in (ours, [ours]):  # several may end a text
            found = quoted(value)
            notes.append(f"{key} in {name} is {found}; the tokenizer says {ours}, which is taken")


def _check_size(section: Section, key: str, ours: object, notes: list[str]) -> None:
    """Tells a size that is not the model's, whose own is taken."""
    if key in section and section.get(key) != ours:
        said = quoted(section.get(key))
        notes.append(f"{section.where}.{key} is {said}; the model says {ours}, which is taken")


def _check_images(
    source: pathlib.Path,
    format: str,
    config: JanusConfig,
    processor: Section,
    notes: list[str],
) -> None:
    """Refuses an image processor that prepares pictures otherwise than `data.images` does."""
    path = source / _FILES["images"]
    if "image_processor" in processor:  # transformers 5 writes it into one file
        images = processor.group("image_processor", _IMAGES)
    elif path.exists():
        images = Section(str(path), read_object(path), _IMAGES)
    else:
        notes.append(f"no {path.name} in {source}: pictures are prepared as the released one says")
        return
    if "image_processor_type" in images:
        images.require("image_processor_type", *_CLASSES[format])
    size = config.vision.image_size
    if format == "deepseek":
        _check_size(images, "image_size", size, notes)
    else:
        _check_size(images, "size", {"height": size, "width": size}, notes)
    for key in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        images.require(key, True)  # null is no default there: the step is left out
    if images.get("do_center_crop") is not None:
        images.require("do_center_crop", False)
    images.require("resample", 3)
    images.require("image_mean", _HALF)
    images.require("image_std", _HALF)
    if abs(images.real("rescale_factor", 1) - 1 / 255) > 1e-9:
        images.require("rescale_factor", 1 / 255)
    images.require("min_size", MIN_SIDE)
    notes += images.unknown((*_HARMLESS, "image_size", "size"))
