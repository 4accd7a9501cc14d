"""Files that were damaged or made to harm: one clear error, in little time and memory."""

import copy
import json
import math
import os
import random
import shutil
import time
import tracemalloc

import pytest
import yaml

from tests.interop import released
from tests.long import MARKS
from unijax.core.errors import UserError
from unijax.interop import opening, registry
from unijax.interop.opening import open_model
from unijax.interop.source_tokenizer import import_tokenizer
from unijax.interop.systems.janus.processor import read_processor
from unijax.main.cli import main

FILES = (
    "config.json", "tokenizer_config.json", "special_tokens_map.json", "processor_config.json",
    "preprocessor_config.json", "pytorch_model.bin.index.json", "model.safetensors.index.json",
    "tokenizer.json",
)  # fmt: skip
LONG = "x" * 5000
DEEP = 3000


@pytest.fixture(scope="module", params=["pro_7b", "community_7b"])
def layout(request, hf_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / "source"
    released.write_layout(request.param, hf_model, directory)
    return directory


@pytest.fixture
def quick(layout, monkeypatch):
    """The shapes of the small model are worked out once."""
    for name in registry.names():
        registry.interop(name)  # one that is imported later would keep what stands here for a while
    shapes = opening.abstract_params("janus", open_model(layout).config)
    monkeypatch.setattr(opening, "abstract_params", lambda system, config: shapes)


def read_all(directory, out, template="janus_pro"):
    """All that an import reads, the numbers of the weights apart."""
    model = open_model(directory)
    notes = list(model.notes)
    shutil.rmtree(out, ignore_errors=True)
    tokenizer = import_tokenizer(directory, out, model.config.text.vocab_size, notes)
    read_processor(directory, model.format.name, model.config, tokenizer, template, notes)


def places(value, path=()):
    """Every place in a tree of JSON."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 6)):
            yield from places(value[i], (*path, i))


def nested(depth):
    return "[" * depth + "]" * depth


VALUES = (
    None, True, False, 0, 1, -1, 2**31, 10**9, 10**30, -(2**63), 0.5, 1e300, -1e-300, 1e999,
    math.nan, -math.inf, "", "null", "2048", LONG, "\x00", "\ud800", "a\nb\x1b[31m", "../up",
    "/etc/passwd", [], [[]], [1], [None], ["a", 1, {}], {}, {"a": {"b": {}}}, {"": None},
    {"content": 5}, {"content": None},
)  # fmt: skip


def mutate(rng, content):
    """A copy with one to three places changed, as text of a JSON file."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(content)))
        if not path:
            content = copy.deepcopy(rng.choice(VALUES)) if rng.random() < 0.2 else content
            continue
        try:
            parent = content
            for step in path[:-1]:
                parent = parent[step]
            kind = rng.random()
            if kind < 0.15:
                del parent[path[-1]]
            elif kind < 0.25 and isinstance(parent, dict):
                parent[rng.choice([LONG, "", "rope_scaling", "sizes", "Ö"])] = parent.pop(path[-1])
            else:
                parent[path[-1]] = copy.deepcopy(rng.choice(VALUES))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    text = json.dumps(content)
    kind = rng.random()
    if kind < 0.05:
        return text[: rng.randrange(len(text) + 1)]
    if kind < 0.1:
        return text.replace("null", nested(DEEP)).replace("true", nested(DEEP))
    if kind < 0.12:
        return text.replace("0", "9" * 5000, 1)
    return text


def refusals(folder, names, scratch, read, seed, count=60):
    """How many copies of a folder with one file changed are refused, each by one clear error."""
    rng, found = random.Random(seed), 0
    for _ in range(count):
        source = scratch / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(folder, source, copy_function=os.link)
        name = rng.choice(names)
        text = (folder / name).read_text(encoding="utf-8")
        text = mutate(rng, yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text))
        (source / name).unlink()
        (source / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            read(source)
        except UserError as error:
            found += 1
            message = str(error)
            assert len(message) < 3000, (seed, name, len(message))
            assert all(c.isprintable() for c in message.replace("\n", "")), (seed, name, message)
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=MARKS) for s in (1, 2, 3))])
def test_changed_files_give_one_clear_error_or_are_read(layout, quick, tmp_path, seed):
    names = [name for name in FILES if (layout / name).is_file()]
    read = lambda source: read_all(source, tmp_path / "tokenizer")  # noqa: E731
    assert refusals(layout, names, tmp_path, read, seed) > 20, "the changes change too little"


@pytest.fixture
def source(layout, tmp_path):
    shutil.copytree(layout, tmp_path / "source")
    return tmp_path / "source"


def refused(source, tmp_path):
    """What is said, in seconds and without gigabytes."""
    tracemalloc.start()
    before = time.monotonic()
    with pytest.raises(UserError) as error:
        read_all(source, tmp_path / "tokenizer", None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - before < 60
    assert peak < 2**28, peak
    return str(error.value)


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def section_of(source):
    content = json.loads((source / "config.json").read_text())
    return "text_config" if "text_config" in content else "language_config"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers: found 1000000000"),
        ("num_hidden_layers", 900, "8073 tensors missing"),
        ("num_attention_heads", 0, "num_attention_heads: found 0"),
        ("num_key_value_heads", 0, "num_key_value_heads: found 0"),
        ("num_attention_heads", True, "num_attention_heads: found True"),
        ("hidden_size", -32, "hidden_size: found -32"),
        ("hidden_size", 32.0, "hidden_size: found 32.0"),
        ("hidden_size", [32], "hidden_size: found [32]"),
        ("intermediate_size", 2**20, "sizes of its tensors"),
        ("vocab_size", 2**24, "sizes of its tensors"),
        ("vocab_size", None, "vocab_size: found None"),
        ("head_dim", 0, "head_dim: found 0"),
        ("rms_norm_eps", math.nan, "rms_norm_eps: found nan"),
        ("rms_norm_eps", 1e999, "rms_norm_eps: found inf"),
        ("rope_theta", -1.0, "rope_theta: found -1.0"),
        ("rope_theta", "10000", "rope_theta: found '10000'"),
        ("rope_scaling", "linear", "a group of keys"),
        ("hidden_act", {"name": "silu"}, "hidden_act: found {'name': 'silu'}"),
    ],
)
def test_sizes_of_the_decoder_that_are_none(source, tmp_path, key, value, expected):
    section = section_of(source)
    change(source / "config.json", lambda c: c[section].update({key: value}))
    assert expected in refused(source, tmp_path)


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("vision_config", {"mlp_ratio": math.nan}, "mlp_ratio: found nan"),
        ("vision_config", {"mlp_ratio": [4]}, "mlp_ratio: found [4]"),
        ("vision_config", {"patch_size": 0}, "patch_size: found 0"),
        ("vision_config", {"image_size": [64, 64]}, "image_size: found [64, 64]"),
        ("vision_config", {"num_attention_heads": 0}, "num_attention_heads: found 0"),
        ("vision_config", [1], "vision_config: found [1]; expected a group of keys"),
        ("vq_config", {"channel_multiplier": []}, "channel_multiplier: found []"),
        ("vq_config", {"channel_multiplier": 4}, "channel_multiplier: found 4"),
        ("vq_config", {"channel_multiplier": "12"}, "channel_multiplier: found '12'"),
        ("vq_config", {"channel_multiplier": [1] * 10**4}, "channel_multiplier: found [1, 1"),
        ("vq_config", {"channel_multiplier": [1, -2]}, "channel_multiplier: found [1, -2]"),
        ("vq_config", {"num_res_blocks": 10**9}, "num_res_blocks: found 1000000000"),
        ("vq_config", {"num_res_blocks": 99}, "tensors missing"),
        ("vq_config", {"base_channels": 31}, "a level of 31 channels"),
        ("vq_config", "no", "vq_config: found no"),
        ("text_config", [], "text_config: found []"),
    ],
)
def test_sections_that_are_none(hf_dir, tmp_path, section, values, expected):
    shutil.copytree(hf_dir, tmp_path / "source")

    def edit(content):
        content[section] = content[section] | values if isinstance(values, dict) else values

    change(tmp_path / "source" / "config.json", edit)
    assert expected in refused(tmp_path / "source", tmp_path)


def test_what_is_no_config_file(source, tmp_path):
    path = source / "config.json"
    whole = path.read_text()
    for text, expected in (
        (nested(10**5), "brackets nested too deep"),
        ("1" * 10**4, "expected JSON"),
        ("[]", "found a list"),
        ("", "expected JSON"),
        ("\x00", "expected JSON"),
        (whole.replace("}", "", 1), "expected JSON"),
    ):
        path.write_text(text)
        assert expected in refused(source, tmp_path), text[:20]
    path.write_bytes(b"\xff\xfe" + whole.encode("utf-16-le"))
    assert "expected JSON" in refused(source, tmp_path)
    path.unlink()
    path.mkdir()
    assert "no regular file" in refused(source, tmp_path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert "no regular file" in refused(source, tmp_path)
    path.unlink()
    with path.open("wb") as f:
        f.truncate(2**40)  # of nothing: it takes no room
    assert "1,099,511,627,776 bytes" in refused(source, tmp_path)


def test_a_byte_order_mark_is_no_mistake(source, quick, tmp_path):
    for name in ("config.json", "tokenizer_config.json"):
        path = source / name
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    read_all(source, tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "found 7"), (None, "found None"), ([], "found []"), ({"a": 1}, "found {'a': 1}"),
        (LONG, "found 'xxxx"), ("../secret.bin", "found '../secret.bin'"), ("", "found ''"),
        ("/etc/passwd", "found '/etc/passwd'"), ("a/../../b.bin", "found 'a/../../b.bin'"),
        ("..\\secret.bin", "expected the name of a file beside it"), ("..", "found '..'"),
        ("a\x00b", "expected the name of a file beside it"),
        ("\ud800.bin", "1 of 3 shards missing"),
    ],
)  # fmt: skip
def test_index_entries_that_name_no_file_beside_it(source, tmp_path, value, expected):
    (tmp_path / "secret.bin").write_bytes(b"not yours")
    (index,) = source.glob("*.index.json")

    def edit(content):
        content["weight_map"][next(iter(content["weight_map"]))] = value

    names = len(set(json.loads(index.read_text())["weight_map"].values()))
    change(index, edit)
    expected = expected.replace("of 3", f"of {names + 1}")
    assert expected in refused(source, tmp_path)


@pytest.mark.parametrize("weight_map", [[], {}, None, 5, "x", {"a": []}])
def test_an_index_of_nothing(source, tmp_path, weight_map):
    (index,) = source.glob("*.index.json")
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(source, tmp_path)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(source, tmp_path):
    (index,) = source.glob("*.index.json")
    name = sorted(json.loads(index.read_text())["weight_map"].values())[0]
    (source / name).rename(tmp_path / "elsewhere")
    (source / name).symlink_to(tmp_path / "elsewhere")
    assert "a link to" in refused(source, tmp_path)


def test_the_cache_of_the_hub_is_no_link_out_of_the_folder(layout, quick, tmp_path):
    # models--A--B/snapshots/REVISION/NAME -> ../../blobs/HASH
    snapshot, blobs = tmp_path / "m" / "snapshots" / "1a2b", tmp_path / "m" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(layout.iterdir())):
        shutil.copyfile(file, blobs / f"{i}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    read_all(snapshot, tmp_path / "tokenizer")


@pytest.mark.parametrize(
    "words",
    [
        ["import", LONG, "--run-dir", "run"],
        ["import", "SOURCE", "--run-dir", LONG],
        ["import", "SOURCE", "--run-dir", "run", "--tokenizer", LONG],
        ["export", LONG, "out"],
        ["export", "RUN", LONG],
        ["export", "RUN", "out", "--license", LONG],
        ["verify", "RUN", LONG],
        ["ask", LONG, "What?"],
    ],
)
def test_names_of_thousands_of_characters_are_told(
    hf_dir, run_dir, tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    places = {"SOURCE": str(hf_dir), "RUN": str(run_dir)}
    assert main([places.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())
