"""`foodray doctor`: examine a cluster and its storage before a long run."""

import os
import sys

import tyro

_HELP = """Examine a cluster, every node of it, and the storage, and say what to mend before a long run.

Versions, GPUs as torch sees them, storage from every node, access without a token, clocks, free disk, object store, open files. Nothing is changed; what is
written to storage is removed. Exit code 1: something must be mended. On a cluster: jobs/doctor.py with `ray job submit`."""
_SIGNS = {"ok": "ok  ", "note": "note", "mend": "MEND"}


def doctor_help() -> None:
    """Examine a cluster and its storage before a long run: foodray doctor --help."""


def doctor(arguments: list[str]) -> None:
    """Run `foodray doctor`; leaves with code 1 where something must be mended."""
    from foodray.doctor import DoctorConfig, Finding, examine

    def show(title: str, findings: tuple[Finding, ...]) -> None:
        print(f"\n{title}")
        for finding in findings:
            print(f"  {_SIGNS[finding.state]}  {finding.what:16} {finding.value}")
            if finding.remedy:
                print(f"  {'':22} -> {finding.remedy}")

    config = tyro.cli(DoctorConfig, args=arguments, prog="foodray doctor", description=_HELP)
    if config.address:
        os.environ["RAY_ADDRESS"] = config.address
    report = examine(config)
    show("the cluster", report.cluster)
    for node, findings in report.nodes.items():
        show(node, findings)
    number = report.num_to_mend
    print(
        f"\n{len(report.nodes)} node{'' if len(report.nodes) == 1 else 's'}: "
        + ("nothing to mend" if not number else f"{number} thing{'' if number == 1 else 's'} to mend")
    )
    if number:
        sys.exit(1)
