"""`--format` of every verb that lists or shows something, as docker's users write it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from acceptance.rig import Onggi, until


@pytest.fixture(scope="module")
def shown(onggi: Onggi) -> Iterator[Onggi]:
    """One container that runs and one that has ended."""
    onggi.run("run", "-d", "--name", "web", "--network", "none", "--label", "a.b=c,d=e",
              "-v", "data:/data", "-v", "/usr/share:/s:ro", "busybox", "sleep", "1000")  # fmt: skip
    onggi.run("run", "--name", "done", "--network", "none", "busybox", "true")
    yield onggi
    onggi.run("rm", "-f", "web", "done")
    onggi.run("volume", "rm", "data")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (("ps", "-f", "name=web", "--format", "{{.Names}}: {{.State | upper}} {{.Networks}}"),
         "web: RUNNING none"),
        (("ps", "-f", "name=web", "--format", '{{.Label "a.b"}} {{.LocalVolumes}} {{.Mounts}}'),
         "c,d=e 1 data,/usr/share"),
        (("ps", "-a", "-f", "name=done", "--format", "{{.Image}} {{.Command}} {{.State}}"),
         'busybox "true" exited'),
        (("inspect", "-f", "{{.Name}} {{.State.Running}} {{.State.Pid | printf \"%.1s\" | len}}",
          "done"), "/done false 1"),
        (("inspect", "-f", '{{index .Config.Labels "a.b"}}|{{.Config.Labels.none}}', "web"),
         "c,d=e|<no value>"),
        (("inspect", "-f", "{{range .Mounts}}{{.Destination}}={{.RW}} {{end}}", "web"),
         "/data=true /s=false "),
        (("inspect", "--type", "volume", "-f", "{{.Name}} {{.Driver}}", "data"), "data local"),
        (("image", "inspect", "-f", "{{join .Config.Cmd \" \"}} {{.Os}}", "busybox"), "sh linux"),
        (("images", "--format", "{{.Repository}}:{{.Tag}} {{len .ID}}", "busybox"),
         "busybox:latest 12"),
        (("volume", "ls", "--format", "{{.Name}}"), "data"),
        (("version", "--format", "{{eq .Client.Version .Server.Version}}"), "true"),
        (("info", "-f", "{{.Driver}} {{.Containers}} {{.ContainersRunning}}"), "overlay 2 1"),
        (("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "web"), "web 1"),
        (("top", "web", "--format", "{{.CMD}}"), "sleep 1000"),
        (("history", "--format", "{{.Size}}", "busybox"), None),
        (("system", "df", "--format", "{{.Type}}:{{.TotalCount}}"),
         "Images:1\nContainers:2\nLocal Volumes:1\nStore:0"),
        (("system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{.Links}}{{end}}"),
         "data 1"),
        (("network", "ls", "-f", "name=^none$", "--format", "{{.Name}} {{.Driver}}"), "none null"),
    ],
)  # fmt: skip
def test_a_template(shown: Onggi, words: tuple[str, ...], printed: str | None) -> None:
    said = shown.out(*words)
    assert said if printed is None else said == printed


def test_a_table_of_chosen_columns(shown: Onggi) -> None:
    said = shown.out("ps", "-a", "--format", "table {{.Names}}\\t{{.CreatedAt}}\\t{{.ID}}")
    head, *lines = said.splitlines()
    parts = [part.strip() for part in head.split("   ")]
    assert [part for part in parts if part] == ["NAMES", "CREATED AT", "CONTAINER ID"]
    assert [line.split()[0] for line in lines] == ["done", "web"]


def test_json_has_dockers_fields(shown: Onggi) -> None:
    rows = [json.loads(line) for line in shown.out("ps", "-a", "--format", "json").splitlines()]
    wanted = {"Command", "CreatedAt", "ID", "Image", "Labels", "LocalVolumes", "Mounts", "Names",
              "Networks", "Ports", "RunningFor", "Size", "State", "Status"}  # fmt: skip
    assert all(wanted <= row.keys() for row in rows)
    assert rows[1]["Labels"] == "a.b=c,d=e"
    assert json.loads(shown.out("inspect", "-f", "json", "web"))[0]["Name"] == "/web"
    fields = json.loads(shown.out("inspect", "-f", "{{json .State}}", "web"))
    assert fields["Running"] is True


def test_events(shown: Onggi) -> None:
    past = ("events", "--since", "1h", "--until", "0s")
    form = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.none}}"
    lines = shown.out(*past, "--format", form).splitlines()
    assert "container create web <no value>" in lines
    row = json.loads(
        shown.out(
            *past, "--filter", "container=web", "--filter", "event=create", "--format", "json"
        )
    )
    assert (row["Type"], row["Action"], row["status"]) == ("container", "create", "create")
    assert row["Actor"]["Attributes"]["a.b"] == "c,d=e"
    assert row["timeNano"] // 10**9 == row["time"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("ps", "-a", "--format", "{{.Foo}}"),
            "can't evaluate field Foo in --format, at the ^: {{^.Foo}} — there are: ID, Image",
        ),
        (("ps", "--format", "{{.ID"), "{{ without }}"),
        (("ps", "--format", "table {{.ID | uper}}"), "did you mean upper?"),
        (("inspect", "-f", "{{.State.Pidd}}", "web"), "did you mean .Pid?"),
        (("inspect", "-f", "{{if}}", "web"), "something is missing"),
        (("events", "--until", "0s", "--format", "{{"), "{{ without }}"),
    ],
)
def test_an_error_shows_the_place(shown: Onggi, words: tuple[str, ...], said: str) -> None:
    done = shown.run(*words, check=False)
    assert done.returncode == 125
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_columns_of_the_hosts_ps(shown: Onggi) -> None:
    head, line = shown.out("top", "web", "-o", "pid,comm").splitlines()
    assert head.split() == ["PID", "COMMAND"]
    assert line.split() == [str(shown.pid("web")), "sleep"]
    head, line = shown.out("top", "web", "aux").splitlines()
    assert head.split()[:2] == ["USER", "PID"]
    assert line.endswith("sleep 1000")
    assert "no column PID" in shown.run("top", "web", "-o", "comm", check=False).stderr


def test_the_sizes_of_everything(shown: Onggi) -> None:
    shown.run("exec", "web", "dd", "if=/dev/zero", "of=/big", "bs=1000", "count=2000")
    shown.run("exec", "web", "dd", "if=/dev/zero", "of=/data/big", "bs=1000", "count=3000")
    until(lambda: "2.0" in shown.out("ps", "-s", "--format", "{{.Size}}"), "it is counted")
    said = shown.out("system", "df", "-v")
    parts = [line for line in said.splitlines() if line.endswith("space usage:")]
    assert parts == ["Images space usage:", "Containers space usage:",
                     "Local Volumes space usage:"]  # fmt: skip
    assert [line.split()[1:] for line in said.splitlines() if line.startswith("data")] == [
        ["1", "3.01MB"]
    ]
