"""Launches whose rendered files are goldens: name -> (engine, launch file)."""

SWEEP = {
    "name": "lr-sweep",
    "command": "unijax train --config configs/janus_pro.py:1b,stage2 --init-from /data/runs/stage1",
    "directory": "/data/runs/lr-sweep",
    "overrides": ["data.rows=64"],
    "sweep": {"stage.optimizers.main.learning_rate": [0.0001, 0.0003], "seed": [0, 1]},
    "setup": "source /data/unijax/.venv/bin/activate",
    "workdir": "/data/unijax",
    "env": {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true"},
}

LADDER = {
    "name": "ladder",
    "command": "unijax train",
    "directory": "/data/runs/ladder",
    "runs": {
        "1b": ["--config=configs/janus_pro.py:1b,stage2", "data.rows=256"],
        "7b": ["--config=configs/janus_pro.py:7b,stage2", "data.rows=128"],
    },
}

CASES = {
    "local": ("local", LADDER | {"machines": {"processes": 2, "gpus": 2}}),
    "slurm_sweep": (
        "slurm",
        SWEEP
        | {
            "machines": {"hosts": 4, "gpus": 8, "gpu": "h100", "cpus": 96, "memory_gib": 1000},
            "slurm": {
                "partition": "gpu", "account": "vision", "hours": 47.5, "options": ["--exclusive"],
            },
            "retry": {"bug": 1},
        },
    ),
    "slurm_process_per_gpu": (
        "slurm",
        SWEEP | {"sweep": {}, "machines": {"hosts": 2, "processes": 8, "gpus": 8}},
    ),
    "gke_tpu": (
        "gke",
        LADDER
        | {
            "machines": {"tpu": "v5p:4x4x8", "slices": 2},
            "gke": {
                "image": "europe-docker.pkg.dev/project/unijax:1", "queue": "research",
                "priority": "sweeps", "volumes": {"/data": "shared-data"},
            },
        },
    ),
    "gke_gpu": (
        "gke",
        SWEEP
        | {
            "sweep": {},
            "machines": {"hosts": 4, "gpus": 8, "gpu": "nvidia-h100-80gb", "memory_gib": 1000},
            "gke": {
                "image": "europe-docker.pkg.dev/project/unijax:1", "namespace": "vision",
                "service_account": "trainer", "volumes": {"/data": "shared-data"},
            },
            "retry": {"preempted": 0, "bug": 2},
        },
    ),
    "tpu": (
        "tpu",
        LADDER
        | {
            "machines": {"tpu": "v6e:4x4", "slices": 2},
            "workdir": "/data/unijax",
            "setup": "mount -t nfs 10.0.0.2:/data /data\nsource .venv/bin/activate",
            "tpu": {
                "project": "my-project", "zone": "europe-west4-a", "runtime": "v2-alpha-tpuv6e",
            },
        },
    ),
    "sky_gpu": (
        "sky",
        SWEEP
        | {
            "workdir": "",
            "machines": {"hosts": 2, "gpus": 8, "gpu": "H100", "memory_gib": 500},
            "sky": {"infra": "gcp/us-central1", "mounts": {"/data": "gs://my-bucket"}},
        },
    ),
    "sky_tpu": (
        "sky",
        SWEEP
        | {
            "workdir": "",
            "sweep": {},
            "machines": {"tpu": "v5e:4x4"},
            "sky": {"spot": False},
            "retry": {"preempted": 3, "node": 0, "bug": 1},
        },
    ),
}  # fmt: skip
