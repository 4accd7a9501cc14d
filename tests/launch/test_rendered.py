"""Rendered files: goldens, and the engines' own parsers and schemas where they are here."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from tests.goldens import check_golden
from tests.launch.cases import CASES, SWEEP
from unijax.core import exit_codes
from unijax.core.errors import UserError
from unijax.launch import engines, tpu_slices
from unijax.main.launching import build_launch

FILES = {
    (case, name): text
    for case, (engine, values) in CASES.items()
    for name, text in engines.render(build_launch(values), engine).items()
}


def files(engine: str) -> list[tuple[str, str]]:
    return [key for key in FILES if CASES[key[0]][0] == engine and key[1] != engines.RUNS]


def documents(engine: str) -> list[dict]:
    return [doc for key in files(engine) for doc in yaml.safe_load_all(FILES[key])]


@pytest.mark.parametrize(("case", "name"), FILES)
def test_golden(case, name):
    check_golden(f"launch/{case}/{name}", FILES[case, name])


SCRIPTS = [FILES[key] for key in FILES if key[1].endswith((".sh", ".sbatch"))]
SCRIPTS += [doc["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
            [0]["command"][2] for doc in documents("gke")]  # fmt: skip
SCRIPTS += [doc["run"] for doc in documents("sky")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_parses_every_script(script):
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("key", [k for k in files("tpu") if k[1].startswith("startup")])
def test_systemd_takes_the_unit(key, tmp_path):
    (unit,) = re.findall(r"'END_OF_UNIT'\n(.*?)END_OF_UNIT", FILES[key], re.DOTALL)
    path = tmp_path / "unijax.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], text=True, capture_output=True
    )
    said = [line for line in done.stderr.splitlines() if "unijax.service" in line]
    assert said == []


@pytest.mark.skipif(importlib.util.find_spec("kubernetes_validate") is None,
                    reason="pip install kubernetes-validate")  # fmt: skip
@pytest.mark.parametrize("doc", documents("gke"))
def test_kubernetes_takes_the_job_of_a_set(doc):
    import kubernetes_validate

    replicated = doc["spec"]["replicatedJobs"][0]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": doc["metadata"],
        "spec": replicated["template"]["spec"],
    }
    kubernetes_validate.validate(job, "1.33", strict=True)


CRD = os.environ.get("JOBSET_CRD", "")


@pytest.mark.skipif(not CRD, reason="JOBSET_CRD: path of jobset.x-k8s.io_jobsets.yaml of a release")
@pytest.mark.parametrize("doc", documents("gke"))
def test_jobset_takes_the_set(doc):
    import jsonschema

    definition = yaml.safe_load(pathlib.Path(CRD).read_text())
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1alpha2"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    jsonschema.Draft4Validator(schema).validate(doc)


def _strict(schema):
    """As the server takes it with field validation: an unknown key is an error."""
    if isinstance(schema, list):
        return [_strict(x) for x in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        out.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if schema.get("type") == "object" and set(schema) <= {"type", "description"}:
        out["additionalProperties"] = True  # metadata
    return out


@pytest.mark.skipif(importlib.util.find_spec("sky") is None, reason="pip install skypilot")
@pytest.mark.parametrize("key", files("sky"))
def test_skypilot_takes_the_task(key, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # it keeps files there
    import sky

    path = tmp_path / "task.yaml"
    path.write_text(FILES[key])
    task = sky.Task.from_yaml(str(path))
    launch = build_launch(CASES[key[0]][1])
    (resources,) = task.resources
    assert task.num_nodes == max(launch.machines.hosts, launch.machines.slices)
    assert resources.use_spot == launch.sky.spot
    assert resources.job_recovery["max_restarts_on_errors"] == launch.retry.bug


@pytest.mark.parametrize("doc", documents("gke"))
def test_every_exit_code_meets_the_rule_of_its_class(doc):
    """The two policies, read as Kubernetes and JobSet document them."""
    job = doc["spec"]["replicatedJobs"][0]["template"]["spec"]
    policy = doc["spec"]["failurePolicy"]
    retry = {
        "preempted": policy["rules"][0]["action"],
        "mistake": "FailJobSet",
        "bug": policy["rules"][2]["action"],
        "node": "RestartJobSet",
    }

    def action(code: int) -> str:
        for number, rule in enumerate(job["podFailurePolicy"]["rules"]):
            asked = rule.get("onExitCodes")
            if asked and (code in asked["values"]) == (asked["operator"] == "In"):
                message = (
                    f"Container train for pod default/x-0 failed with exit code {code} "
                    f"matching FailJob rule at index {number}"
                )
                for ours in policy["rules"]:
                    if any(re.search(p, message) for p in ours["onJobFailureMessagePatterns"]):
                        return ours["action"]
        return "RestartJobSet"  # the default, counted

    for code in range(1, 256):
        assert action(code) == retry[exit_codes.failure(code)], code


def test_slices():
    assert tpu_slices.parse("v5p:4x4x8") == tpu_slices.TpuSlice(
        "4x4x8", 32, 4, "v5p-256", "tpu-v5p-slice", "tpu-v5p-256"
    )
    assert tpu_slices.parse("v5e:4x8").accelerator == "v5litepod-32"
    assert tpu_slices.parse("v6e:1x1").chips_per_host == 1
    for wrong in ("v5p", "v5p:4x4", "v7:2x2", "v6e:3x1x1", "v6e:2x3"):
        with pytest.raises(UserError, match=r"machines\.tpu"):
            tpu_slices.parse(wrong)


@pytest.mark.parametrize(
    ("engine", "machines", "said"),
    [
        ("slurm", {"tpu": "v5p:4x4x4"}, "a TPU under SLURM"),
        ("local", {"hosts": 2}, "2 hosts"),
        ("tpu", {"hosts": 2}, "a TPU slice"),
        ("tpu", {"tpu": "v5p:4x4x4"}, "tpu.project: found none"),
        ("gke", {"gpus": 8}, "gke.image: found none"),
        ("sky", {"gpus": 8, "processes": 8}, "1 on each host"),
        ("sky", {"gpus": 8}, "a kind of GPU"),
    ],
)
def test_what_an_engine_cannot_do_is_told(engine, machines, said):
    with pytest.raises(UserError) as e:
        engines.render(build_launch(SWEEP | {"machines": machines}), engine)
    assert said in str(e.value)
