"""Configs: every shipped one resolves to what its golden says; mistakes are answered by name."""

import json
import re

import pytest

from tests.goldens import check_golden
from unijax.core import tree
from unijax.core.errors import UserError
from unijax.core.record import to_json
from unijax.core.system import init_shapes
from unijax.main import config as config_lib
from unijax.main.run import make_system, resolve

SHIPPED = [
    "configs/janus.py:stage1",
    "configs/janus.py:stage2",
    "configs/janus.py:stage3",
    *(f"configs/janus_pro.py:{size},stage{n}" for size in ("1b", "7b") for n in (1, 2, 3)),
    *(f"configs/janus_ablations.py:{letter},stage3" for letter in "ABCDEF"),
    *(f"configs/janus_ablations.py:{letter},demo" for letter in "ABC"),
    *(f"configs/semantic_tokenizer.py:{stage}" for stage in ("imagenet", "more", "demo")),
    "configs/janus_demo.py",
    "configs/janus_composition.py",
    "configs/vq_demo.py",
    "configs/kl_demo.py",
    "configs/transfusion.py:0.76b,linear",
    "configs/transfusion.py:7b,unet",
    "configs/transfusion_demo.py",
    "configs/chameleon.py:0.76b",
    "configs/chameleon.py:chameleon_34b",
    "configs/chameleon_demo.py",
    "configs/lmfusion.py",
    "configs/lmfusion.py:shallow,0.1",
    "configs/lmfusion.py:deep,0,edit",
    "configs/lmfusion_demo.py",
    "configs/llavafusion.py",
    "configs/llavafusion.py:edit",
    "configs/llavafusion_demo.py",
    *(
        f"configs/metaquery.py:{arg}"
        for arg in ("b,sana,pretrain", "xl,sana,pretrain,code", "l,sd,pretrain,code",
                    "b,sana,instruct", "l,sana,instruct,code", "b,sana,edit,code")
    ),
    "configs/llava_demo.py",
    "configs/metaquery_demo.py",
    "configs/siglip_demo.py",
    "configs/finetune.py",
    "configs/scaling_micro.py",
    *(
        f"configs/eva_mim.py:{size}"
        for size in ("eva01_g", "eva02_ti", "eva02_s", "eva02_b", "eva02_l", "eva02_l_m38m")
    ),
    *(
        f"configs/eva_clip.py:{size}"
        for size in ("g", "g_plus", "b16", "l14", "l14_336", "e14", "e14_plus")
    ),
    "configs/mim_demo.py",
    "configs/clip_demo.py",
    *(f"configs/classify_demo.py:{how}" for how in ("probe", "finetune", "random")),
    *(
        f"configs/metamorph.py:{stage}"
        for stage in (
            "connector,readme", "connector,script", "vpit,readme", "vpit,script",
            "visualiser,script", "visualiser,readme", "visualiser,default",
        )
    ),
    "configs/visualiser_demo.py",
    *(f"configs/metamorph_demo.py:{stage}" for stage in ("connector", "vpit")),
    *(f"configs/emu.py:{stage}" for stage in ("pretrain", "painter", "instruct")),
    *(f"configs/emu_demo.py:{stage}" for stage in ("all", "pretrain", "painter", "instruct")),
]  # fmt: skip


@pytest.mark.parametrize("spec", SHIPPED)
def test_golden_config(spec):
    run = resolve(config_lib.load(spec))
    name = spec.removeprefix("configs/").replace(".py", "").replace(":", "_").replace(",", "_")
    check_golden(f"configs/{name}.json", json.dumps(to_json(run), indent=1))


@pytest.mark.parametrize("spec", SHIPPED)
def test_what_a_checkpoint_records_resolves_to_the_same_run(spec):
    run = resolve(config_lib.load(spec))
    assert resolve(json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize(
    ("arg", "published"),
    [
        # The paper's schedule, and the released configs, written a second time.
        ("b,sana,pretrain", (1e-4, 1e-5, 4000, 48_828, 256)),
        ("b,sana,pretrain,code", (1e-4, 1e-5, 5000, None, 256)),
        ("xl,sana,pretrain,code", (5e-5, 1e-6, 5000, None, 256)),
        ("l,sd,pretrain,code", (1e-4, 1e-5, 5000, None, 77)),
        ("b,sana,instruct,code", (5e-5, 1e-6, 2000, None, 256)),
        ("l,sana,instruct,code", (1e-4, 1e-5, 2000, None, 256)),
        ("b,sana,edit", (1e-4, 1e-5, 100, 1000, 256)),
        ("b,sana,edit,code", (1e-4, 1e-5, 5000, None, 256)),
    ],
)
def test_published_tables_of_metaquery(arg, published):
    rate, least, warmup, steps, queries = published
    run = resolve(config_lib.load(f"configs/metaquery.py:{arg}"))
    optimizer = run.stage.optimizers["main"]
    assert optimizer.learning_rate == rate
    assert optimizer.learning_rate * optimizer.final_share == pytest.approx(least)
    assert optimizer.warmup_steps == warmup
    assert steps in (None, run.stage.steps)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.1, 0.5)
    assert run.model.queries == queries
    trained = {"generator"} if ",sana" in arg else set()
    frozen = {rule.pattern.rstrip("/") for rule in run.stage.rules if rule.frozen}
    assert not frozen & ({"queries", "connector"} | trained)
    assert frozen >= {"language_model", "vision_model", "autoencoder"} | (
        set() if trained else {"generator"}
    )


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_published_tables_of_janus_pro(stage):
    # The technical report's table 2, written a second time from the report.
    published = {
        "stage1": (1e-3, 600, 20_000, 256, (1, 0, 3)),
        "stage2": (1e-4, 5_000, 360_000, 512, (2, 3, 5)),
        "stage3": (4e-5, 0, 80_000, 128, (5, 1, 4)),
    }[stage]
    run = resolve(config_lib.load(f"configs/janus_pro.py:1b,{stage}"))
    optimizer = run.stage.optimizers["main"]
    ratio = tuple(group.ratio for group in run.data.groups)
    found = (optimizer.learning_rate, optimizer.warmup_steps, run.stage.steps, run.data.rows, ratio)
    assert found == published
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay, optimizer.clip_norm) == (
        0.9, 0.95, 0.0, 1.0,
    )  # fmt: skip
    assert optimizer.schedule == "constant"


def test_stage_3_of_the_7b_is_half_as_long():
    run = resolve(config_lib.load("configs/janus_pro.py:7b,stage3"))
    assert run.stage.steps == 40_000


def load(*overrides):
    return resolve(config_lib.load("configs/janus_demo.py"), overrides)


def test_overrides_reach_numbers_names_and_entries_of_lists():
    run = load("stage.steps=7", "stage.optimizers.main.learning_rate=0.5", "cache_frozen=false",
               "data.groups.0.ratio=9", "data.template=janus")  # fmt: skip
    assert run.stage.steps == 7
    assert run.stage.optimizers["main"].learning_rate == 0.5
    assert run.cache_frozen is False
    assert run.data.groups[0].ratio == 9.0
    assert run.data.template == "janus"


def test_a_field_that_came_later_is_on_record_only_where_it_is_used():
    """Else no run of before would resume, and runs of sweeps would have other names."""
    assert "qkv_bias" not in to_json(load())["model"]["text"]
    used = load("model.text.qkv_bias=true")
    record = to_json(used)
    assert record["model"]["text"]["qkv_bias"] is True
    assert resolve(record) == used


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.stpes=7", r"stage.stpes: found unknown key 'stpes'.*Did you mean 'steps'\?"),
        ("stage.steps=many", r"stage.steps: found 'many'; expected a value of type int"),
        ("cache_frozen=yes", r"cache_frozen: found 'yes'; expected a value of type bool"),
        ("stage=7", r"stage: found '7'; expected a single value"),
        ("stage.steps", r"override 'stage.steps': found no '='"),
        ("dtype=float8", r"dtype: found 'float8'; expected one of"),
        ("system=janis", r"system: found unknown system 'janis'.*Did you mean 'janus'\?"),
        ("mesh.table=2d", r"mesh.table: found '2d'; expected one of"),
        (
            "model.text.num_attention_heads=7",
            r"found 6; expected a divisor of num_attention_heads=7",
        ),
    ],
)
def test_a_wrong_override_is_answered_with_the_right_one(override, message):
    with pytest.raises(UserError, match=message):
        load(override)


def test_a_wrong_key_in_a_config_file_names_the_nearest(tmp_path):
    text = (
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'reproduces': '', 'system': 'janus', 'modle': {}})\n"
    )
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match="Did you mean 'model'"):
        resolve(config_lib.load(str(tmp_path / "c.py")))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("conf.txt", "x", "expected a Python file"),
        ("conf", "x", "expected a Python file"),
        (
            "conf.py",
            "def get_config(:",
            r"conf\.py:1: found invalid syntax; expected a Python file",
        ),
    ],
)
def test_a_config_that_is_no_python_is_told(tmp_path, name, content, said):
    """Both were tracebacks."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        config_lib.load(str(tmp_path / name))


def test_a_missing_config_file_is_said():
    with pytest.raises(UserError, match=r"no file 'configs/nothing\.py'"):
        config_lib.load("configs/nothing.py")


def test_the_tokenizer_of_the_papers_baseline_is_the_autoencoders_network():
    """But for the codebook, and the layers around the narrow middle."""
    vq, kl = (
        tree.flatten(init_shapes(make_system(resolve(config_lib.load(spec)))))
        for spec in ("configs/chameleon.py:0.16b", "configs/transfusion.py:0.16b,linear")
    )
    blocks = re.compile(r"(vqmodel|autoencoder)/(en|de)coder/(?!conv_in|conv_out)")
    found = [
        sorted(box.value.shape for path, box in boxes.items() if blocks.match(path))
        for boxes in (vq, kl)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("configs/chameleon.py:foo", "found 'foo'; expected one of 0.16b, .*chameleon_34b"),
        ("configs/transfusion.py:0.76b,unet,1", "found 0.76b,unet,1; .*unet of 2, 4, 8"),
        ("configs/transfusion.py:9b,linear", "found 9b,linear,2; .*a size of 0.16b"),
    ],
)
def test_an_argument_that_a_config_does_not_take_says_what_it_does(spec, expected):
    with pytest.raises(UserError, match=expected):
        config_lib.load(spec)
