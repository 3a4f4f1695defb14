"""Base images from Debian's packages, without a registry; the same input gives the same digest.

The word of Debian's archive keys is what these images rest on: apt or dpkg verified every file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from onggi.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from onggi.image.apt_sources import release_time_s, sources_for
from onggi.image.archive import add_single_layer
from onggi.image.busybox import applets_of, rootfs_entries
from onggi.image.compression import plain_chunks
from onggi.image.deb import read_member
from onggi.image.images import Image, ImageStore
from onggi.image.layers import LayerWriter
from onggi.image.tar_reader import BLOCK_DEVICE, CHARACTER, REGULAR, Entry, TarReader
from onggi.image.tar_writer import TarWriter
from onggi.specs.image import ContainerConfig

#: Called with a stage, what is done and the total (0: unknown).
Progress = Callable[[str, int, int], None]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES_LABEL = "io.onggi.packages"
VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_SUITE = re.compile(r"[a-z][a-z0-9-]{1,40}")
_FIELD = re.compile(rb"^(Package|Version|Status): (.*)$", re.MULTILINE)
_MAX_STATUS_BYTES = 64 << 20
#: What a package manager leaves that no container needs, or that differs from run to run.
_DROPPED = (b"dev/", b"proc/", b"sys/", b"run/", b"tmp/", b"var/tmp/", b"var/log/", b"var/cache/")
_DROPPED_FILES = frozenset(
    (b"var/lib/dbus/machine-id", b"etc/.pwd.lock", b"etc/resolv.conf", b"etc/hostname")
)
_EMPTIED = frozenset((b"etc/machine-id",))


def _silent(stage: str, done: int, total: int) -> None:
    """No progress shown."""


def bootstrap_busybox(
    images: ImageStore,
    name: str = "busybox:latest",
    *,
    package: str | None = None,
    progress: Progress = _silent,
) -> Image:
    """Make an image from Debian's `busybox-static`: the installed one, verified, or a download.

    `package`: a .deb to use instead. BusyBox is not run.

    Raises:
        FailedPrecondition: neither dpkg's nor apt's word for a busybox can be had.
        InvalidArgument: the package is damaged.
    """
    progress("fetching busybox-static", 0, 3)
    content, mtime_s, version = _busybox(package)
    progress("writing the image", 1, 3)
    applets = applets_of(content)
    with images.lease(), LayerWriter(images.content) as layer:
        writer = TarWriter(layer.write)
        for entry, data in rootfs_entries(content, applets, mtime_s):
            writer.add(entry, data)
        writer.finish()
        labels = {PACKAGES_LABEL: f"busybox-static={version}"} if version else None
        image = add_single_layer(
            images,
            layer.commit(),
            name,
            config=ContainerConfig(env=(PATH,), cmd=("sh",), labels=labels),
            created=_rfc3339(mtime_s),
            comment="onggi image bootstrap busybox",
        )
    progress("unpacking", 2, 3)
    images.unpack(image)
    progress("done", 3, 3)
    return image


def _busybox(package: str | None) -> tuple[bytes, int, str]:
    """The program, its mtime and its version."""
    if package is not None:
        return _from_package(package)
    installed = _run("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "busybox-static")
    if installed is not None and installed.endswith(" installed"):
        path = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
        if path is not None and _run("dpkg", "--verify", "busybox-static") == "":
            with open(path, "rb") as file:
                mtime_s = int(os.fstat(file.fileno()).st_mtime)
                return file.read(), mtime_s, installed.split()[0]
    with tempfile.TemporaryDirectory(prefix="onggi-bootstrap-") as directory:
        # apt downloads as _apt, who cannot write into a private directory; root may.
        options = ("-q", "-o", "APT::Sandbox::User=root")
        if _run("apt-get", *options, "download", "busybox-static", cwd=directory) is not None:
            for name in os.listdir(directory):
                if name.endswith(".deb"):
                    return _from_package(os.path.join(directory, name))
    raise FailedPrecondition(
        "package busybox-static is neither installed nor can apt-get download it",
        hint="apt-get install busybox-static",
    )


def _from_package(path: str) -> tuple[bytes, int, str]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; a missing one has its own error
    except FileNotFoundError:
        raise NotFound(f"no package {path}") from None
    version = re.search(r"_([^_/]+)_[^_/]+\.deb$", path)
    with file:
        try:
            content, mtime_s = read_member(file, "bin/busybox")
        except InvalidArgument:
            file.seek(0)
            content, mtime_s = read_member(file, "usr/bin/busybox")
    return content, mtime_s, version[1].replace("%3a", ":") if version else ""


def bootstrap_debian(
    images: ImageStore,
    suite: str | None = None,
    name: str | None = None,
    *,
    include: Sequence[str] = (),
    variant: str = "minbase",
    epoch_s: int | None = None,
    progress: Progress = _silent,
) -> Image:
    """Make a Debian image with mmdebstrap from the host's apt sources.

    `suite`: a code name, the host's by default. `epoch_s`: no file is younger; by default
    SOURCE_DATE_EPOCH, or else the date of the suite's newest Release. With the same packages and
    epoch the image's digest is the same.

    Raises:
        FailedPrecondition: mmdebstrap is missing.
        Unavailable: the packages cannot be had; with mmdebstrap's last words.
        InvalidArgument: not a suite, variant or package name.
    """
    suite = suite or _host_suite()
    _check_names(suite, variant, include)
    program = shutil.which("mmdebstrap")
    if program is None:
        raise FailedPrecondition("mmdebstrap is not installed", hint="apt-get install mmdebstrap")
    sources = sources_for(suite)
    if epoch_s is None:
        epoch_s = int(os.environ.get("SOURCE_DATE_EPOCH", "0")) or release_time_s(suite)
    command = [program, f"--variant={variant}", "--format=tar"]
    if include:
        command.append(f"--include={','.join(sorted(include))}")
    command += [suite, "-", "-"] if sources else [suite, "-"]
    with images.lease(), LayerWriter(images.content) as layer:
        with _running(command, sources, epoch_s, progress) as read:
            packages = _copy_rootfs(read, layer, epoch_s)
        progress("storing the image", 0, 0)
        image = add_single_layer(
            images,
            layer.commit(),
            name or f"debian:{suite}",
            config=ContainerConfig(
                env=(PATH,), cmd=("bash",), labels={PACKAGES_LABEL: " ".join(packages)}
            ),
            created=_rfc3339(epoch_s),
            comment=f"onggi image bootstrap debian {suite} {variant}",
        )
    progress("unpacking", 0, 0)
    images.unpack(image)
    progress("done", 1, 1)
    return image


def _check_names(suite: str, variant: str, include: Sequence[str]) -> None:
    if _SUITE.fullmatch(suite) is None:
        raise InvalidArgument(f"{suite[:60]!r} is not a Debian suite")
    if variant not in VARIANTS:
        raise InvalidArgument(f"variant {variant[:60]!r} is not one of {', '.join(VARIANTS)}")
    for package in include:
        if _PACKAGE.fullmatch(package) is None:
            raise InvalidArgument(f"{package[:60]!r} is not a package name")


def _host_suite() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', file.read(), re.MULTILINE)
    except FileNotFoundError:
        match = None
    return match[1] if match else "bookworm"


@contextlib.contextmanager
def _running(
    command: Sequence[str], sources: str, epoch_s: int, progress: Progress
) -> Iterator[Callable[[int], bytes]]:
    """Run mmdebstrap; yields a reader of the tar it makes.

    Its failure is raised at the stream's end, before anybody takes a short tar for a whole one.
    """
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch_s), "LC_ALL": "C.UTF-8"}
    progress(f"running {os.path.basename(command[0])}", 0, 0)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
        given.write(sources.encode())
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=subprocess.PIPE, stderr=said, env=environment
        )
        assert process.stdout is not None
        stdout = process.stdout.fileno()

        def read(size: int) -> bytes:
            data = os.read(stdout, size)
            if not data and process.wait() != 0:
                said.seek(0)
                words = said.read().decode("utf-8", "replace").strip().splitlines()
                raise Unavailable(
                    f"mmdebstrap failed with exit code {process.returncode}:"
                    f" {' / '.join(words[-3:])[:500]}",
                    hint="see that the apt sources of the host offer this suite and its packages",
                )
            return data

        try:
            yield read
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.terminate()
            process.wait()


def _copy_rootfs(read: Callable[[int], bytes], layer: LayerWriter, epoch_s: int) -> list[str]:
    """Copy a root filesystem into a layer without what differs from run to run.

    Answers the installed packages as `name=version`, sorted.
    """
    reader = TarReader(plain_chunks(read))
    writer = TarWriter(layer.write)
    packages: list[str] = []
    for entry in reader:
        name = entry.name.removeprefix(b"./")
        if _is_dropped(name, entry):
            continue
        entry.mtime_ns = min(entry.mtime_ns, epoch_s * 1_000_000_000)
        if name in _EMPTIED:
            entry.size_bytes = 0
            writer.add(entry)
        elif name == b"var/lib/dpkg/status":
            data = reader.read_data(_MAX_STATUS_BYTES)
            packages = _packages(data)
            writer.add(entry, data)
        elif entry.type == REGULAR:
            writer.begin(entry)
            reader.copy_data(lambda view: layer.write(bytes(view)))
            writer.end(entry)
        else:
            writer.add(entry)
    writer.finish()
    return packages


def _is_dropped(name: bytes, entry: Entry) -> bool:
    if name in _DROPPED_FILES or entry.type in (CHARACTER, BLOCK_DEVICE):
        return True
    if not name.startswith(_DROPPED):
        return False
    # Directories below var stay: programs expect /var/log/apt and the like.
    return entry.type == REGULAR or (not name.startswith(b"var/") and name not in _DROPPED)


def _packages(status: bytes) -> list[str]:
    found = []
    for block in status.split(b"\n\n"):
        fields = dict(_FIELD.findall(block))
        if fields.get(b"Status") == b"install ok installed":
            found.append(f"{fields[b'Package'].decode()}={fields[b'Version'].decode()}")
    return sorted(found)


def _rfc3339(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _run(*command: str, cwd: str | None = None) -> str | None:
    """What a command prints, None if it fails or is missing."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
