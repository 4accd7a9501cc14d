"""GKE: a JobSet for each run, admitted by Kueue.

JobSet starts all pods of a run again when one of them fails. Which failures count towards its limit
is told by the job's own `podFailurePolicy`: it fails the job at once with a message that ends with
the number of the rule that matched, and the rules of the JobSet's `failurePolicy` look for it
(`onJobFailureMessagePatterns`, JobSet 0.10 and newer; its KEP 262 says that the message is stable).
"""

import pathlib
from typing import Any

from unijax.core import exit_codes
from unijax.core.errors import UserError
from unijax.launch import tpu_slices
from unijax.launch.shell import PORT, environment, quoted
from unijax.launch.spec import Launch, Run, expand
from unijax.launch.yaml_text import dump

PROGRAM = "kubectl"
FILE = "jobsets.yaml"

_WORKERS = "workers"
_EVICTED, _PREEMPTED, _MISTAKE, _BUG = range(4)  # rules of the podFailurePolicy


def render(launch: Launch) -> dict[str, str]:
    """File name -> text.

    Raises:
      UserError: where the section `gke` lacks what has no default.
    """
    machines = launch.machines
    if not launch.gke.image:
        raise UserError("gke.image", "none", "a container image that holds the project", "Name it.")
    if machines.processes != 1:
        raise UserError(
            "machines.processes", f"{machines.processes}", "1 on each host, with all its GPUs",
            "Leave it out.",
        )  # fmt: skip
    if machines.gpus and not machines.gpu:
        raise UserError(
            "machines.gpu", "none", "the label of the nodes, as nvidia-h100-80gb", "Name it."
        )
    sets = [_jobset(launch, run) for run in expand(launch)]
    return {FILE: dump(sets)}


def commands(launch: Launch, folder: pathlib.Path) -> list[list[str]]:
    """What submits the rendered files."""
    return [["kubectl", "apply", "-f", str(folder / FILE)]]


def _jobset(launch: Launch, run: Run) -> dict[str, Any]:
    gke = launch.gke
    labels = {"unijax/launch": launch.name}
    if gke.queue:
        labels["kueue.x-k8s.io/queue-name"] = gke.queue
    if gke.priority:
        labels["kueue.x-k8s.io/priority-class"] = gke.priority
    annotations = {"unijax/run": run.name}
    hosts, replicas = launch.machines.hosts, 1
    if launch.machines.tpu:
        # One slice is one node pool.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
        hosts, replicas = tpu_slices.parse(launch.machines.tpu).hosts, launch.machines.slices
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _pod_rules()},
        "template": {"spec": _pod(launch, run, hosts)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": run.job,
            "namespace": gke.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "failurePolicy": _failure_policy(launch),
            "replicatedJobs": [
                {"name": _WORKERS, "replicas": replicas, "template": {"spec": job}},
            ],
        },
    }


def _pod_rules() -> list[dict[str, Any]]:
    """What fails a job at once, by the number of the rule; the rest is a node's failure."""
    known = (0, *exit_codes.PREEMPTION, *exit_codes.NODE_FAILURE)

    def on_codes(operator: str, *codes: int) -> dict[str, Any]:
        return {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "train", "operator": operator, "values": sorted(codes),
            },
        }  # fmt: skip

    rules = {
        _EVICTED: {
            "action": "FailJob",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
        _PREEMPTED: on_codes("In", *exit_codes.PREEMPTION),
        _MISTAKE: on_codes("In", exit_codes.MISTAKE),
        _BUG: on_codes("NotIn", *known),
    }
    return [rules[number] for number in range(len(rules))]


def _failure_policy(launch: Launch) -> dict[str, Any]:
    """JobSet counts one kind of restart; preemption, where it may happen, is not counted."""
    retry = launch.retry

    def rule(name: str, action: str, *numbers: int) -> dict[str, Any]:
        return {
            "name": name,
            "action": action,
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": [f"rule at index {n}$" for n in numbers],
        }

    again = "RestartJobSetAndIgnoreMaxRestarts" if retry.preempted else "FailJobSet"
    return {
        "maxRestarts": retry.node + retry.bug,
        "rules": [
            rule("preempted", again, _EVICTED, _PREEMPTED),
            rule("mistake", "FailJobSet", _MISTAKE),
            rule("bug", "RestartJobSet" if retry.bug else "FailJobSet", _BUG),
        ],
    }


def _pod(launch: Launch, run: Run, hosts: int) -> dict[str, Any]:
    gke, machines = launch.gke, launch.machines
    limits: dict[str, Any] = {}
    if machines.cpus:
        limits["cpu"] = machines.cpus
    if machines.memory_gib:
        limits["memory"] = f"{machines.memory_gib}Gi"
    selector: dict[str, str] = {}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": gke.grace_seconds,
    }
    if gke.service_account:
        spec["serviceAccountName"] = gke.service_account
    variables: list[dict[str, Any]] = []
    if machines.tpu:
        part = tpu_slices.parse(machines.tpu)
        selector = {
            "cloud.google.com/gke-tpu-accelerator": part.gke,
            "cloud.google.com/gke-tpu-topology": part.topology,
        }
        limits["google.com/tpu"] = part.chips_per_host
        # Slices talk over the machines' own network.
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    else:
        if machines.gpus:
            selector = {"cloud.google.com/gke-accelerator": machines.gpu}
            limits["nvidia.com/gpu"] = machines.gpus
            spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        if hosts > 1:
            variables = _coordinator(run, hosts)
    if selector:
        spec["nodeSelector"] = selector
    container: dict[str, Any] = {
        "name": "train",
        "image": gke.image,
        "command": ["bash", "-c", _script(launch, run)],
    }
    if variables:
        container["env"] = variables
    if limits:
        container["resources"] = {"limits": limits}
    if gke.volumes:
        volumes = list(gke.volumes.items())
        container["volumeMounts"] = [
            {"name": f"volume-{i}", "mountPath": path} for i, (path, _) in enumerate(volumes)
        ]
        spec["volumes"] = [
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": claim}}
            for i, (_, claim) in enumerate(volumes)
        ]
    spec["containers"] = [container]
    return spec


def _coordinator(run: Run, hosts: int) -> list[dict[str, Any]]:
    """The first pod, by the name that JobSet's headless service gives it."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    return [
        {
            "name": "JAX_COORDINATOR_ADDRESS",
            "value": f"{run.job}-{_WORKERS}-0-0.{run.job}:{PORT}",
        },
        {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]


def _script(launch: Launch, run: Run) -> str:
    # `exec`: SIGTERM goes to the trainer itself.
    return "\n".join([*environment(launch, run), f"exec {quoted(run.argv)}"]) + "\n"
