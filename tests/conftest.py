"""The whole suite runs in a network namespace of its own: engines under test make bridges, rules
and turn on forwarding, and the host must not notice."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from hypothesis import settings

from onggi.kernel.constants import CLONE_NEWNET
from onggi.kernel.syscalls import unshare

# The same examples each time, so that a failure is of a change; ONGGI_EXPLORE=1 tries new ones.
settings.register_profile("alike", derandomize=True)
if not os.environ.get("ONGGI_EXPLORE"):
    settings.load_profile("alike")


@pytest.fixture(autouse=True, scope="session")
def _signals_as_in_a_terminal() -> None:
    """A shell has its background jobs ignore some, nohup another: so would all that starts here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _own_network() -> None:
    if os.geteuid() != 0:
        return  # engines need root; what runs without it touches no network
    unshare(CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
