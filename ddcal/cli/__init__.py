"""The command line: each verb parses, calls and prints; heavy imports happen inside the verb that needs them."""

from ddcal.cli import cluster, guide, launch, report, results, store, studies, verify, winner  # noqa: F401 - they add their verbs
from ddcal.cli.base import app
from ddcal.collecting import leave_all_at_the_end

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; the entry point of the ``ddcal`` script."""
    leave_all_at_the_end()
    app()
