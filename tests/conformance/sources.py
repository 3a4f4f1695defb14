"""The suites' sources: upstream's tarballs in Debian's source packages, in a cache, built.

Nothing of them is in this tree. apt checks what it fetches against the signed index; the machine's
own list of sources names the mirror, and its configuration is not changed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .suites import STANDS

PACKAGES = {
    "runtime-tools": "golang-github-opencontainers-runtime-tools",
    "crun": "crun",
    "runc": "runc",
}
# A mirror may lack a file of one release; the next one has the same programs.
RELEASES = ("", "trixie", "forky")
DEBIAN_GO = Path("/usr/share/gocode")
GO_NAMES = {"runtime-tools": "opencontainers/runtime-tools", "runc": "opencontainers/runc"}
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Sources:
    """Unpacked and built suites."""

    directory: Path

    def of(self, suite: str) -> Path:
        """The top of the suite's sources."""
        return self.directory / suite


def ready(cache: Path) -> Sources:
    """Fetch, unpack and build what is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    builders: dict[str, Callable[[Path, Path], None]] = {
        "runtime-tools": _build_runtime_tools,
        "crun": _build_crun,
        "runc": _build_runc,
    }
    for suite, build in builders.items():
        target = cache / suite
        if target.exists():
            continue
        print(f"fetching and building {suite}'s tests", flush=True)
        staging = cache / f"{suite}.new"
        shutil.rmtree(staging, ignore_errors=True)
        _unpack(_fetch(cache, PACKAGES[suite]), staging)
        build(cache, staging)
        staging.rename(target)
    return Sources(cache)


def _fetch(cache: Path, package: str) -> Path:
    failures = []
    for release in RELEASES:
        place = cache / "apt" / (release or "own") / package
        shutil.rmtree(place, ignore_errors=True)
        for name in ("lists/partial", "cache/archives/partial", "files"):
            (place / name).mkdir(parents=True)
        (place / "sources.list").write_text(_source_lines(release))
        done = _apt(place, "update")
        if done.returncode == 0:
            done = _apt(place, "source", "--download-only", "--tar-only", package)
        found = sorted((place / "files").glob("*.orig.tar.*[!c]"))
        if done.returncode == 0 and found:
            return found[0]
        failures.append(done.stderr.strip())
    raise SystemExit(f"conformance: no source of {package} can be fetched:\n" + "\n".join(failures))


def _source_lines(release: str) -> str:
    """Lines for the sources of the packages that the machine gets from Debian."""
    form = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"
    asked = ["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    if release:
        words = [line.split() for line in lines]
        lines = [f"deb-src {uri} {release} main" for _, uri, own, _ in words if "-" not in own]
    return "\n".join(sorted(set(lines))) + "\n"


def _apt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place / "cache",
        # The mirror's files are checked by signature; the unprivileged fetcher cannot write here.
        "APT::Sandbox::User": "root",
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return subprocess.run(
        ["apt-get", "-q", *flags, *arguments],
        cwd=place / "files",
        capture_output=True,
        text=True,
        check=False,
    )


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir()
    command = ["tar", "-xf", archive, "-C", target, "--strip-components=1", "--no-same-owner"]
    subprocess.run(command, check=True)


def _go_build(cache: Path, suite: str, source: Path, output: str, *arguments: str) -> None:
    """Build with Debian's Go libraries; the program finds its own packages where it is."""
    path = cache / "go"
    shutil.rmtree(path, ignore_errors=True)
    for name, place in (
        (GO_NAMES[suite], source),
        ("mndrix/tap-go", STANDS / "tap"),
    ):
        link = path / "src/github.com" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place)
    environment = {
        **os.environ,
        "GOPATH": f"{path}:{DEBIAN_GO}",
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOCACHE": str(cache / "gocache"),
        "CGO_ENABLED": "1" if "seccomp" in arguments else "0",
    }
    subprocess.run(
        ["go", "build", "-o", str(source / output), *arguments],
        # By the link's name: the way to the package decides its import path.
        cwd=path / "src/github.com" / GO_NAMES[suite],
        env={**environment, "PWD": str(path / "src/github.com" / GO_NAMES[suite])},
        check=True,
    )


def _build_runtime_tools(cache: Path, source: Path) -> None:
    _go_build(cache, "runtime-tools", source, "runtimetest", "./cmd/runtimetest")
    (source / "programs").mkdir()
    _go_build(cache, "runtime-tools", source, "programs/", "./validation/...")


def _build_crun(_cache: Path, source: Path) -> None:
    (source / "config.h").write_text("#define HAVE_ERROR_H 1\n#define HAVE_SECCOMP 1\n")
    flags = ["-static", "-O1", f"-I{source}", "-o", str(source / "tests/init")]
    subprocess.run(["gcc", *flags, str(source / "tests/init.c")], check=True)


def _build_runc(cache: Path, source: Path) -> None:
    for name, more in (("recvtty", ()), ("seccompagent", ("-tags", "seccomp"))):
        place = f"contrib/cmd/{name}"
        _go_build(cache, "runc", source, f"{place}/{name}", *more, f"./{place}")
    images = source / "tests/integration/testdata"
    _busybox_image(images / f"busybox-{ARCHITECTURE}.tar.xz")
    _debian_image(images / f"debian-{ARCHITECTURE}.tar.xz")


def _busybox_image(archive: Path) -> None:
    """What the suite would download: busybox with a link for every applet."""
    root = archive.with_suffix(".root")
    for name in ("bin", "dev", "etc", "home", "root", "tmp", "usr/sbin", "var/spool/mail"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    program = shutil.copy(shutil.which("busybox") or "busybox", root / "bin/busybox")
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    for applet in set(listed.stdout.split()) - {"busybox"}:
        (root / "bin" / applet).hardlink_to(program)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    subprocess.run(["tar", "-cJf", archive, "-C", root, "."], check=True)
    shutil.rmtree(root)


def _debian_image(archive: Path) -> None:
    options = ["--variant=minbase", "--mode=root", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    sources = _source_lines("").replace("deb-src", "deb")
    release = min((line.split()[2] for line in sources.splitlines()), key=len)
    command = ["mmdebstrap", "-q", *options, release, str(archive), "-"]
    subprocess.run(command, input=sources, text=True, check=True)
