"""The configuration file: what it may say, and what is said about each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.engine.layout import layout_for
from onggi.engine.settings import MAX_FILE_BYTES, Settings, parse_settings, read_settings
from onggi.errors import EngineError, InvalidArgument
from onggi.image.settings import ImageSettings, RegistrySettings

WHOLE = """
[image]
default_registry = "registry.example:5000"
short_names = "refuse"
insecure_registries = ["10.0.0.1:5000", "[fd00::1]:5000", "10.1.0.0/16"]
certificate_directories = ["/etc/certs"]
snapshotter = "overlay"
discard_blobs = true
store_limit_bytes = 20_000_000_000
parallel = 8

[image.aliases]
debian = "mirror.example/debian"

[image.registries."docker.io"]
mirrors = ["mirror.example", "10.0.0.1:5000/hub"]

[image.registries.local]
location = "localhost:5000"
insecure = true
"""


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("\ufeff" + WHOLE)
    assert read_settings(str(path)) == Settings(
        image=ImageSettings(
            default_registry="registry.example:5000",
            short_names="refuse",
            aliases={"debian": "mirror.example/debian"},
            registries={
                "docker.io": RegistrySettings(mirrors=("mirror.example", "10.0.0.1:5000/hub")),
                "local": RegistrySettings(location="localhost:5000", insecure=True),
            },
            insecure_registries=("10.0.0.1:5000", "[fd00::1]:5000", "10.1.0.0/16"),
            certificate_directories=("/etc/certs",),
            snapshotter="overlay",
            discard_blobs=True,
            store_limit_bytes=20_000_000_000,
            parallel=8,
        )
    )


def test_nothing_said_is_the_defaults(tmp_path: Path) -> None:
    assert read_settings(str(tmp_path / "none.toml")) == Settings()
    (tmp_path / "empty.toml").write_text("# nothing yet\n[image]\n")
    assert read_settings(str(tmp_path / "empty.toml")) == Settings()
    assert read_settings(str(tmp_path / "empty.toml/below")) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[image", "not TOML: expected ']' at the end of a table declaration (at"),
        ("a = 1\na = 2\n", "not TOML: cannot overwrite a value (at line 2"),
        ("[imgae]", "imgae: no such setting — did you mean image?"),
        ("image = 3", "image: expected a table, found 3"),
        ("[image]\nparalel = 3", "image.paralel: no such setting — did you mean parallel?"),
        ("[image]\nzzz = 3", "image.zzz: no such setting — known here: default_registry, "),
        ("[image]\nparallel = '3'", "image.parallel: expected a whole number, found '3'"),
        ("[image]\nparallel = 3.5", "image.parallel: expected a whole number, found 3.5"),
        ("[image]\nparallel = true", "image.parallel: expected a whole number, found true"),
        ("[image]\nparallel = 0", "image.parallel: expected 1 to 64, found 0"),
        ("[image]\nstore_limit_bytes = -1", "image.store_limit_bytes: expected 0 or more"),
        ("[image]\ndiscard_blobs = 1", "image.discard_blobs: expected true or false, found 1"),
        ("[image]\naliases = []", "image.aliases: expected a table, found an empty list"),
        ("[image.aliases]\nx = 3", 'image.aliases.x: expected a text, "…", found 3'),
        ("[image.aliases]\nx = 'A B'", "image.aliases.x: image reference 'A B'"),
        ("[image.aliases]\nx = 'a:1'", "image.aliases.x: expected a name without tag"),
        ("[image]\nsnapshotter = 'erosf'",
         'image.snapshotter: expected "auto" or "overlay" or "erofs", found \'erosf\' — '
         "did you mean erofs?"),
        ("[image]\ninsecure_registries = 'a'",
         'image.insecure_registries: expected a list of texts, ["…"], found \'a\''),
        ("[image]\ninsecure_registries = [1]",
         'image.insecure_registries: expected a list of texts, ["…"], found a list (1)'),
        ("[image]\ninsecure_registries = ['10.1.0.0/99']",
         "image.insecure_registries: expected HOST[:PORT], found '10.1.0.0/99'"),
        ("[image]\ninsecure_registries = ['http://a']",
         "image.insecure_registries: expected HOST[:PORT], found 'http://a' — leave the https://"),
        ("[image]\ncertificate_directories = ['a']",
         "image.certificate_directories: expected absolute paths, found 'a'"),
        ("[device]\ncdi_directories = ['etc/cdi']",
         "device.cdi_directories: expected absolute paths, found 'etc/cdi'"),
        ("[device]\ncdi_directories = '/etc/cdi'",
         "device.cdi_directories: expected a list of texts"),
        ("[image]\ndefault_registry = ''", "image.default_registry: expected HOST[:PORT]"),
        ("[image.registries.'docker.io']\nmirors = []",
         'image.registries."docker.io".mirors: no such setting — did you mean mirrors?'),
        ("[image.registries.'docker.io']\nmirrors = ['https://m']",
         'image.registries."docker.io".mirrors: expected HOST[:PORT][/PREFIX], found '),
        ("[image.registries.'docker.io']\nlocation = 'a b'",
         'image.registries."docker.io".location: expected HOST[:PORT][/PREFIX]'),
        ("[image.registries]\n'docker.io' = 1",
         'image.registries."docker.io": expected a table, found 1'),
        ("[image.registries.'a b']\n", 'image.registries."a b": expected HOST[:PORT], found'),
    ],
)  # fmt: skip
def test_mistakes_name_the_file_the_key_and_what_is_expected(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_settings(text.encode(), "/etc/config.toml")
    assert str(caught.value).startswith(f"/etc/config.toml: {said}")


def test_files_that_are_no_text_or_too_large_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="byte 0: not utf-8"):
        parse_settings(b"\xff", "f")
    with pytest.raises(InvalidArgument, match="nested too deeply"):
        parse_settings(b"a = " + b"[" * 20000, "f")
    (tmp_path / "large").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidArgument, match="larger than"):
        read_settings(str(tmp_path / "large"))
    with pytest.raises(EngineError, match="reading the configuration"):
        read_settings(str(tmp_path))


@given(st.text())
def test_whatever_stands_there_is_settings_or_an_error_of_ours(text: str) -> None:
    try:
        found = parse_settings(text.encode("utf-8", "replace"), "f")
    except InvalidArgument as error:
        assert error.message.startswith("f: ")
    else:
        assert found == Settings()


def test_where_the_file_is() -> None:
    assert layout_for(None, 0, {}).config == "/etc/onggi/config.toml"
    assert layout_for("/srv/x", 0, {}).config == "/srv/x/config.toml"
    assert layout_for("/srv/x", 1000, {}).config == "/srv/x/config.toml"
    home = {"HOME": "/home/me"}
    assert layout_for(None, 1000, home).config == "/home/me/.config/onggi/config.toml"
    there = {"HOME": "/home/me", "XDG_CONFIG_HOME": "/c"}
    assert layout_for(None, 1000, there).config == "/c/onggi/config.toml"
