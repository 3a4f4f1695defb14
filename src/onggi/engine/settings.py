"""The engine's configuration file, TOML: what an administrator decides, read once at start.

Every mistake in it is an error that names the file, the key and what is expected there: a setting
that is silently ignored is worse than an engine that does not start. Knows what types the settings
have, not what they do.

Source: TOML v1.0.0 (https://toml.io/en/v1.0.0).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from onggi.engine.cdi import DIRECTORIES
from onggi.errors import EngineError, InvalidArgument, from_os_error
from onggi.image.reference import Reference
from onggi.image.settings import ImageSettings
from onggi.network.settings import NetworkSettings
from onggi.runtime.printable import printable

MAX_FILE_BYTES = 1024 * 1024
MAX_PARALLEL = 64

#: host, host:port, [address]:port
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_IS_HOST = re.compile(_HOST)
_IS_MIRROR = re.compile(rf"{_HOST}(?:/[A-Za-z0-9._~-]+)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class DeviceSettings(Struct, frozen=True):
    """The section `[device]`. `cdi_directories`: where CDI specifications are; later ones win."""

    cdi_directories: tuple[str, ...] = DIRECTORIES


class Settings(Struct, frozen=True):
    """All of it, with what holds when nobody says anything: a section each."""

    image: ImageSettings = ImageSettings()
    network: NetworkSettings = NetworkSettings()
    device: DeviceSettings = DeviceSettings()


def read_settings(path: str) -> Settings:
    """The settings in the file at `path`; the defaults when there is none.

    Raises: InvalidArgument: a mistake in it. EngineError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except OSError as error:
        raise from_os_error(error, "reading the configuration") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return parse_settings(data, path)


def parse_settings(data: bytes, path: str) -> Settings:
    """The settings that `data` says; `path` is for messages. Raises: InvalidArgument."""
    import tomllib  # noqa: PLC0415 - most engines have no configuration file

    try:
        document = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: byte {error.start}: not utf-8 text") from None
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        raise InvalidArgument(f"{path}: not TOML: {reason[:1].lower()}{reason[1:]}") from None
    except RecursionError:
        raise InvalidArgument(f"{path}: TOML nested too deeply") from None
    reader = _Reader(path)
    settings: Settings = reader.table(document, Settings, "")
    reader.check_image(settings.image)
    reader.absolute("device.cdi_directories", settings.device.cdi_directories)
    return settings


class _Reader:
    """Turns tables into types; knows the file's name for its errors."""

    def __init__(self, path: str) -> None:
        self._path = path

    def table(self, table: object, kind: type[Any], where: str) -> Any:
        """A `kind` from a table whose key is `where`."""
        if not isinstance(table, dict):
            raise self._wrong(where, f"expected a table, found {_found(table)}")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        values = {}
        for key, value in table.items():
            if key not in fields:
                raise self._unknown(_joined(where, key), key, fields)
            values[key] = self._value(value, fields[key].type, _joined(where, key))
        return kind(**values)

    def _value(self, value: object, kind: Any, where: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self.table(value, kind, where)
        if get_origin(kind) is dict and isinstance(value, dict):
            inner = get_args(kind)[1]
            return {key: self._value(one, inner, _joined(where, key)) for key, one in value.items()}
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            hint = None
            if get_origin(kind) is Literal and isinstance(value, str):
                hint = _meant(value, get_args(kind))
            expected = f"expected {_expected(kind)}, found {_found(value)}"
            raise self._wrong(where, expected, hint) from None

    def _unknown(self, where: str, key: str, known: Iterable[str]) -> InvalidArgument:
        hint = _meant(key, known) or f"known here: {', '.join(known)}"
        return self._wrong(where, "no such setting", hint)

    def _wrong(self, where: str, what: str, hint: str | None = None) -> InvalidArgument:
        return InvalidArgument(f"{self._path}: {where}: {what}", hint=hint)

    def check_image(self, image: ImageSettings) -> None:
        """What a type cannot say. Raises: InvalidArgument."""
        self._host("image.default_registry", image.default_registry)
        for name, registry in image.registries.items():
            where = _joined("image.registries", name)
            self._host(where, name)
            if registry.location and _IS_MIRROR.fullmatch(registry.location) is None:
                raise self._no_host(f"{where}.location", registry.location)
            for mirror in registry.mirrors:
                if _IS_MIRROR.fullmatch(mirror) is None:
                    raise self._no_host(f"{where}.mirrors", mirror)
        for host in image.insecure_registries:
            if not _is_range(host):
                self._host("image.insecure_registries", host)
        self._check_aliases(image)
        self._check_numbers(image)
        self.absolute("image.certificate_directories", image.certificate_directories)

    def absolute(self, where: str, directories: Iterable[str]) -> None:
        """Raises: InvalidArgument: one is relative."""
        for directory in directories:
            if not os.path.isabs(directory):
                raise self._wrong(where, f"expected absolute paths, found {directory!r}")

    def _check_aliases(self, image: ImageSettings) -> None:
        for short, name in image.aliases.items():
            where = _joined("image.aliases", short)
            try:
                reference = Reference.parse(name)
            except EngineError as error:
                raise self._wrong(where, error.message, error.hint) from None
            if reference.tag or reference.digest:
                hint = "the tag comes from what is typed"
                raise self._wrong(where, f"expected a name without tag, found {name!r}", hint)

    def _check_numbers(self, image: ImageSettings) -> None:
        if not 1 <= image.parallel <= MAX_PARALLEL:
            raise self._wrong(
                "image.parallel", f"expected 1 to {MAX_PARALLEL}, found {image.parallel}"
            )
        if image.store_limit_bytes < 0:
            raise self._wrong(
                "image.store_limit_bytes", f"expected 0 or more, found {image.store_limit_bytes}"
            )

    def _host(self, where: str, text: str) -> None:
        if _IS_HOST.fullmatch(text) is None:
            raise self._no_host(where, text)

    def _no_host(self, where: str, text: str) -> InvalidArgument:
        hint = "leave the https:// out" if "://" in text else None
        shape = "HOST[:PORT][/PREFIX]" if where.endswith(("location", "mirrors")) else "HOST[:PORT]"
        return self._wrong(where, f"expected {shape}, found {text!r}", hint)


def _is_range(text: str) -> bool:
    """Whether it is a range of addresses, 10.1.0.0/16."""
    from ipaddress import ip_network  # noqa: PLC0415 - most engines have no such list

    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _joined(where: str, key: str) -> str:
    """A key as TOML writes it: `image.registries."docker.io"`."""
    shown = key if _BARE_KEY.fullmatch(key) else f'"{printable(key, 200)}"'
    return f"{where}.{shown}" if where else shown


def _meant(word: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes pay for it

    near = get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else None


def _expected(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(f'"{word}"' for word in get_args(kind))
    if get_origin(kind) is tuple:
        return 'a list of texts, ["…"]'
    if get_origin(kind) is dict:
        return "a table"
    return {str: 'a text, "…"', bool: "true or false", int: "a whole number"}[kind]


def _found(value: object) -> str:
    """What stands there, in words."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list ({', '.join(map(_found, value[:3]))})" if value else "an empty list"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value if not isinstance(value, str) else value[:60])
