"""The shortest proof that everything holds together."""

from __future__ import annotations

from acceptance.rig import Onggi


def test_run_prints_and_leaves_nothing(onggi: Onggi) -> None:
    assert onggi.out("run", "--rm", "busybox", "echo", "hi") == "hi"
    assert onggi.out("ps", "-aq") == ""


def test_the_exit_code_is_the_applications(onggi: Onggi) -> None:
    assert onggi.run("run", "--rm", "busybox", "sh", "-c", "exit 7", check=False).returncode == 7
