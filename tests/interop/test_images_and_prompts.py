"""What a processor does with pictures and conversations is recorded, and exports do the same."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration, JanusProcessor

from tests.interop.conftest import SPECIAL
from unijax.core.errors import UserError
from unijax.data import images
from unijax.data import tokenizer as tokenizer_lib
from unijax.data.templates import JANUS
from unijax.interop.exporting import export_checkpoint
from unijax.interop.importing import import_checkpoint
from unijax.interop.systems.janus.chat_template import chat_template
from unijax.interop.systems.janus.processor import SYSTEM_PROMPT, read_processor
from unijax.interop.systems.janus.sizes import read_sizes
from unijax.main.cli import main
from unijax.main.use import open_sampler, system_prompt
from unijax.sample.prompts import question
from unijax.train import checkpoint


def picture(mode, size=(61, 37)):
    """Of a mode, with all that it can hold: colours, transparency, a palette."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
    if mode == "P with transparency":
        image = colours.convert("RGB").quantize(16)
        image.info["transparency"] = 3
        return image
    if mode == "RGB with transparency":
        image = colours.convert("RGB")
        image.info["transparency"] = image.getpixel((2, 2))
        return image
    return (
        colours.quantize(16)
        if mode == "P"
        else colours.convert("RGB" if mode == "1" else mode).convert(mode)
    )


@pytest.fixture(scope="module")
def processor(export_dir):
    return JanusProcessor.from_pretrained(export_dir)


@pytest.mark.parametrize(
    "mode",
    ["RGB", "RGBA", "L", "LA", "P", "P with transparency", "RGB with transparency", "1", "CMYK"],
)
def test_pictures_of_every_mode_become_the_same_pixels_in_transformers(processor, mode):
    image = picture(mode)
    stored = io.BytesIO()
    image.save(stored, "TIFF" if mode == "CMYK" else "PNG")
    opened = Image.open(io.BytesIO(stored.getvalue()))
    theirs = processor(text="<image_placeholder>", images=[opened], return_tensors="pt")
    ours = images.decode(stored.getvalue(), "here", 10**6)
    ours = images.for_understanding(ours, 64, "round")
    difference = theirs.pixel_values[0].permute(1, 2, 0).numpy() - (ours / 127.5 - 1)
    assert np.abs(difference).max() < 1e-5


def with_processor(hf_dir, export_dir, folder, **changes):
    """The small model of transformers, with the files of a processor beside it."""
    shutil.copytree(hf_dir, folder)
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.jinja",
                 "tokenizer_config.json", "tokenizer.json"):  # fmt: skip
        shutil.copyfile(export_dir / name, folder / name)
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("prompted", [False, True])
def test_asking_an_imported_run_equals_transformers_where_the_sides_round_otherwise(
    hf_dir, export_dir, tmp_path, prompted, capsys
):
    source = with_processor(
        hf_dir, export_dir, tmp_path / "source", use_default_system_prompt=prompted
    )
    import_checkpoint(source, tmp_path / "run")
    assert system_prompt(tmp_path / "run") == (SYSTEM_PROMPT if prompted else "")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (37, 100, 3), np.uint8)  # 37 * 64 / 100 = 23.68
    Image.fromarray(pixels).save(tmp_path / "wide.png")

    model = JanusForConditionalGeneration.from_pretrained(source)
    theirs = JanusProcessor.from_pretrained(source)
    shown = {"type": "image", "image": Image.fromarray(pixels)}
    turns = [{"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}]
    inputs = theirs.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    tokenizer = tokenizer_lib.load(tmp_path / "run" / "tokenizer")
    ends = new.index(tokenizer.special.eos) if tokenizer.special.eos in new else len(new)
    expected = tokenizer.decode(new[:ends]).strip()

    capsys.readouterr()
    asked = ["What is it?", "--image", str(tmp_path / "wide.png"), "--max-tokens", "8"]
    assert main(["ask", str(tmp_path / "run"), *asked]) == 0
    assert capsys.readouterr().out.strip("\n") == expected

    sampler = open_sampler(tmp_path / "run")
    before = [{"role": "system", "content": SYSTEM_PROMPT}] if prompted else []
    other = sampler.answer([[*before, question("What is it?", [pixels])]], 8)
    assert other == [expected]
    assert sampler.prompting.rounding == "round"
    # The other rounding is another picture.
    down, nearest = (images.for_understanding(pixels, 64, r) for r in ("floor", "round"))
    assert not np.array_equal(down, nearest)


def test_the_export_says_whether_a_system_prompt_is_put_before(hf_dir, export_dir, tmp_path):
    source = with_processor(hf_dir, export_dir, tmp_path / "m", use_default_system_prompt=True)
    import_checkpoint(source, tmp_path / "run")
    done = export_checkpoint(tmp_path / "run", tmp_path / "out")
    said = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert said["use_default_system_prompt"] is True
    assert not any("short side" in note for note in done.notes)
    done = export_checkpoint(tmp_path / "run", tmp_path / "deepseek", format="deepseek")
    assert any("short side" in note for note in done.notes)


@pytest.fixture
def read(hf_dir, run_dir):
    """Reads the files of a processor; the tokenizer is that of the small model."""
    config = read_sizes(hf_dir, "hf")
    tokenizer = tokenizer_lib.load(run_dir / "tokenizer")

    def read(folder, format, template=None):
        notes = []
        shutil.copyfile(hf_dir / "config.json", folder / "config.json")
        return read_processor(folder, format, config, tokenizer, template, notes), notes

    return read


IMAGES = {
    "image_processor_type": "JanusImageProcessor", "do_resize": True, "do_rescale": True,
    "do_normalize": True, "do_pad": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "resample": 3, "rescale_factor": 1 / 255, "min_size": 14, "size": {"height": 64, "width": 64},
}  # fmt: skip


def put(folder, name, content):
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"image_mean": [0.48, 0.46, 0.41]}, "image_mean"),
        ({"image_std": [0.27] * 3}, "image_std"),
        ({"image_mean": None}, "image_mean"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"rescale_factor": "1/255"}, "rescale_factor"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_resize": False}, "do_resize"),
        ({"do_pad": False}, "do_pad"),
        # Their class leaves a step out that is null: by pixels, 64 x 24 of 64 x 64.
        *[({key: None}, key) for key in ("do_resize", "do_rescale", "do_normalize", "do_pad")],
        ({"do_center_crop": True}, "do_center_crop"),
        ({"resample": 2}, "resample"),
        ({"min_size": 28}, "min_size"),
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_pictures_that_are_prepared_otherwise_are_refused(read, tmp_path, changes, key, nested):
    if nested:  # as transformers 5 saves a processor
        put(tmp_path, "processor_config.json", {"image_processor": IMAGES | changes})
    else:
        put(tmp_path, "preprocessor_config.json", IMAGES | changes)
    with pytest.raises(UserError) as error:
        read(tmp_path, "hf")
    assert key in str(error.value)


def test_what_its_class_would_take_for_a_missing_mean_is_refused(read, tmp_path):
    without = {k: v for k, v in IMAGES.items() if not k.startswith("image_")}
    put(tmp_path, "preprocessor_config.json", without)
    with pytest.raises(UserError, match=r"image_mean: found \[0.48"):
        read(tmp_path, "hf")


def test_a_processor_of_other_sizes_is_told_and_the_models_are_taken(read, tmp_path):
    put(tmp_path, "preprocessor_config.json", IMAGES | {"size": {"height": 384, "width": 384}})
    put(tmp_path, "processor_config.json", {"num_image_tokens": 576})
    _, notes = read(tmp_path, "hf")
    assert any("num_image_tokens is 576; the model says 16" in note for note in notes)
    assert any("size is {'height': 384, 'width': 384}; the model" in note for note in notes)
    put(tmp_path, "preprocessor_config.json", IMAGES | {"image_processor_type": None})
    put(tmp_path, "processor_config.json", {"num_image_tokens": 16})
    assert not any("the model says" in note for note in read(tmp_path, "hf")[1])


def test_a_processor_that_keeps_the_placeholder_is_refused(read, tmp_path):
    put(tmp_path, "processor_config.json", {"add_special_token": True})
    with pytest.raises(UserError, match="add_special_token: found True"):
        read(tmp_path, "deepseek")


def test_ids_in_the_configs_that_are_not_the_tokenizers_are_told(read, tmp_path):
    put(tmp_path, "generation_config.json", {
        "pad_token_id": 7, "bos_token_id": 0, "eos_token_id": [1, 7],
        "generation_kwargs": {"boi_token_id": 9},
    })  # fmt: skip
    notes = " ".join(read(tmp_path, "hf")[1])
    assert "eos_token_id in generation_config.json is [1, 7]; the tokenizer says 1" in notes
    assert "pad_token_id in generation_config.json is 7; the tokenizer says 2" in notes
    assert "boi_token_id in generation_kwargs is 9; the tokenizer says 3" in notes
    assert "bos_token_id" not in notes
    assert "image_token_id" not in notes


@pytest.mark.parametrize(
    ("sft_format", "template"),
    [("deepseek", "janus_pro"), ("deepseek_old", "janus"), (None, "janus_pro")],
)
def test_the_template_is_what_sft_format_says(read, tmp_path, sft_format, template):
    put(tmp_path, "processor_config.json", {"sft_format": sft_format})
    done, notes = read(tmp_path, "deepseek")
    assert (done.template, done.und_rounding) == (template, "floor")
    assert any(f"conversations as in {template}" in note for note in notes)


@pytest.mark.parametrize("sft_format", ["plain", "llama-2", "", 5, ["deepseek"]])
def test_another_sft_format_is_refused_unless_the_user_says_which(read, tmp_path, sft_format):
    put(tmp_path, "processor_config.json", {"sft_format": sft_format})
    with pytest.raises(UserError, match="--template janus_pro or --template janus"):
        read(tmp_path, "deepseek")
    done, notes = read(tmp_path, "deepseek", "janus")
    assert done.template == "janus"
    said = [note.replace(str(tmp_path), "") for note in notes]
    assert not any("sft_format" in note for note in said)  # "is taken to change nothing"


def chat(name):
    return chat_template(JANUS[name], SPECIAL["image_token"], SPECIAL["eos_token"])


@pytest.mark.parametrize("name", list(JANUS))
@pytest.mark.parametrize(
    "place",
    ["chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json",
     "named"],
)  # fmt: skip
def test_the_template_is_what_the_chat_template_writes(read, tmp_path, place, name):
    if place == "chat_template.jinja":
        (tmp_path / place).write_text(chat(name))
    elif place == "named":
        both = [{"name": "default", "template": chat(name)}, {"name": "tool_use", "template": "x"}]
        put(tmp_path, "tokenizer_config.json", {"chat_template": both})
    else:
        put(tmp_path, place, {"chat_template": chat(name)})
    assert read(tmp_path, "hf")[0].template == name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{% for m in messages %}<|im|>{{ m.role }}{% endfor %}", "writes '<|im|>user'"),
        (chat("janus_pro").replace("\\n\\n", "\\n"), "writes '<|User|>: Hello there!"),
        (chat("janus_pro").replace("<｜end", "<|end"), "writes '<|User|>: Hello there!"),
        ("{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3, "does not run"),
        ("{{ 'x' * 10**10 }}", "does not run"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not run"),
        ("{{ messages[0].__class__.__mro__[1].__subclasses__() }}", "does not run"),
        ("{% if %}", "does not run"),
        ("{#" + "x" * 2**18 + "#}", "characters"),
    ],
)  # fmt: skip
def test_another_chat_template_is_refused_unless_the_user_says_which(read, tmp_path, text, found):
    (tmp_path / "chat_template.jinja").write_text(text)
    with pytest.raises(UserError, match="--template janus_pro") as error:
        read(tmp_path, "hf")
    assert found in str(error.value)
    assert read(tmp_path, "hf", "janus_pro")[0].template == "janus_pro"


def test_the_template_of_the_command_line_is_recorded(hf_dir, tmp_path):
    run = str(tmp_path / "run")
    assert main(["import", str(hf_dir), "--run-dir", run, "--template", "chatml"]) == 2
    assert main(["import", str(hf_dir), "--run-dir", run, "--template", "janus"]) == 0
    assert checkpoint.read_run(run)["config"]["data"]["template"] == "janus"
    assert main(["export", run, str(tmp_path / "out"), "--format", "deepseek"]) == 0
    said = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert said["sft_format"] == "deepseek_old"
    assert main(["export", run, str(tmp_path / "hf")]) == 0
    assert '"User"' in (tmp_path / "hf" / "chat_template.jinja").read_text()
    for name in ("out", "hf"):
        assert main(["import", str(tmp_path / name), "--run-dir", str(tmp_path / f"a{name}")]) == 0
        recorded = checkpoint.read_run(tmp_path / f"a{name}")["config"]["data"]
        assert recorded["template"] == "janus"


def test_a_prompt_beyond_the_rows_of_the_training_is_told(run_dir, caplog):
    sampler = open_sampler(run_dir)
    sampler._trained_length = 40
    short = sampler.answer([[question("a red cat")]], max_tokens=2)
    assert caplog.text == ""
    long = sampler.answer([[question("a red cat " * 10)]], max_tokens=2)
    assert "the model was trained on rows of 40 tokens" in caplog.text
    caplog.clear()
    sampler.draw(["a red cat on the mat " * 6])
    assert "16 that follow: the model was trained on rows of 40 tokens" in caplog.text
    assert short is not None
    assert long is not None
