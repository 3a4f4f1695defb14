"""Secrets: files that a container has in memory only."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance import rig
from acceptance.test_errors import small_root


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("hush-and-hush")
    return path


def test_a_secret_is_in_memory_only(tmp_path: Path, password: Path) -> None:
    with small_root(tmp_path / "small", "32m") as onggi:
        options = ("--secret", f"{password},target=word,uid=7,mode=0440")
        script = "stat -c '%u %g %a' /run/secrets/word; cat /run/secrets/word; echo > $_ || echo ro"
        onggi.run("create", "--name", "s", *options, "busybox", "sh", "-c", script)
        assert onggi.out("start", "-a", "s").split() == ["7", "0", "440", "hush-and-hushro"]
        password.write_text("new")
        assert "new" in onggi.out("start", "-a", "s")
        assert b"new" not in [p.read_bytes() for p in onggi.root.rglob("*") if p.is_file()]
        onggi.run("commit", "s", "made")
        assert onggi.out("run", "--rm", "made", "cat", "/run/secrets/word") == ""
        done = onggi.run("run", "--rm", "--secret", "/no/such", "busybox", "true", check=False)
        assert done.returncode == 125
        assert "/no/such" in done.stderr


def test_a_secret_is_refused_on_a_disk(tmp_path: Path, password: Path) -> None:
    with rig.engine(tmp_path / "root") as onggi:
        done = onggi.run("run", "--rm", "--secret", str(password), "busybox", "true", check=False)
        assert done.returncode == 125
        assert "in memory only" in done.stderr
        assert onggi.out("ps", "-aq") == ""
