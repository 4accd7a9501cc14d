"""Runs a chat template that someone else wrote, as a process that may take little: for
`chat_template.recognize`, which starts it. Reads a request from its input, writes what came out."""

import json
import resource
import sys

MEMORY, SECONDS = 2**30, 3


def main() -> None:
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS)):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    request = json.load(sys.stdin)
    # As transformers renders chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    template = environment.from_string(request["template"])
    written = [
        template.render(
            messages=messages,
            add_generation_prompt=True,
            eos_token=request["eos_token"],
            bos_token="",
        )
        for messages in request["conversations"]
    ]
    json.dump(written, sys.stdout)


if __name__ == "__main__":
    main()
