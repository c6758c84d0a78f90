"""`doctor`."""

import argparse
import json

from socialtag_jax.commands.arguments import Commands, add_json


def add_doctor(commands: Commands) -> None:
    """`socialtag doctor`."""
    command = commands.add(
        "doctor",
        run_doctor,
        "Print versions, devices, settings, and what repeats bit for bit here; fail if something needed is broken.",
        examples="  socialtag doctor\n  socialtag doctor --json",
    )
    add_json(command)


def run_doctor(options: argparse.Namespace) -> int:
    """The installation -> what it is, and whether it works."""
    from socialtag_jax import doctor

    report = doctor.examine()
    print(json.dumps(doctor.as_json(report), ensure_ascii=False) if options.json else doctor.as_text(report))
    return 1 if report.problems else 0
