"""The form of what a checkpoint says of its run, and how older forms are read.

3: image slots by name (`data.slots`), their sizes those of the system.
2: a stream of images to understand and one to generate, `data.und` and `data.gen`, with sizes.
"""

SCHEMA = 3
READ = (2, 3)


def upgraded(run: dict) -> dict:
    """The description of a run in any form of `READ`, in that of `SCHEMA`.

    A place in the data that an older form names is taken as it is, so such a run resumes with the
    data of its config alone (`train.resume`).
    """
    if run["schema"] == 2:
        run = run | {"schema": 3, "config": config_of_today(run.get("config") or {})}
        if "fingerprint" in (run.get("data") or {}):
            run["data"] = run["data"] | {"fingerprint": None}
    return run


def config_of_today(config: dict) -> dict:
    """The record of a run's config, in whatever form."""
    data = config.get("data") or {}
    streams = {name: data[name] for name in ("und", "gen") if data.get(name)}
    if not {"und", "gen"} & data.keys():
        return config
    rest = {key: value for key, value in data.items() if key not in ("und", "gen")}
    slots = {name: stream["slots"] for name, stream in streams.items()}
    return config | {"data": rest | {"slots": slots}}
