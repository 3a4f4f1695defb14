"""`--format` templates: docker's documented examples, Go's rules, errors that show the place."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onggi.errors import InvalidArgument
from onggi.faces.cli.table import Column, Labels, show
from onggi.faces.cli.template import Template
from template_cases import CONTAINER, DOCUMENTED

ROW: dict[str, Any] = {
    "ID": "a87ecb4f327c",
    "Names": "web",
    "Command": '"/bin/sh -c #(nop) MA"',
    "Image": "image:tag",
    "Ports": "0.0.0.0:80->80/tcp",
    "Repository": "busybox",
    "Labels": Labels({"com.docker.swarm.node": "ubuntu", "storage": "a,b=c"}),
}


@pytest.mark.parametrize("form", DOCUMENTED)
def test_as_docker_documents_it(form: str) -> None:
    assert Template(form).fill(CONTAINER) == DOCUMENTED[form]


def test_escapes_in_the_text() -> None:
    assert Template("{{.Name}}\\t{{.Id}}\\n").fill(CONTAINER) == "/web\td2cc496561d6\n"


ROWS = {
    "{{.ID}}: {{.Command}}": 'a87ecb4f327c: "/bin/sh -c #(nop) MA"',
    "{{.Names | upper}}": "WEB",
    "{{.Names | json}}": '"web"',
    '{{.Label "com.docker.swarm.node"}}': "ubuntu",
    '{{.Label "storage"}}|{{.Label "none"}}': "a,b=c|",
    "{{pad .Repository 5 10}}": "     busybox          ",
    '{{join (split .Image ":") "/"}}': "image/tag",
    '{{if .Label "storage"}}stored{{end}}': "stored",
}


@pytest.mark.parametrize("form", ROWS)
def test_rows(form: str) -> None:
    assert Template(form).fill(ROW) == ROWS[form]


WRONG = {
    "{{.Name": "{{ without }} in --format, at the ^: ^{{.Name",
    "{{.Naem}}": "did you mean .Name?",
    "{{.State.Foo}}": "can't evaluate field Foo in --format, at the ^: {{.State^.Foo}}",
    "{{.Name.Foo}}": 'field Foo of the text "/web"',
    "{{.State.Error.Foo}}": "can't evaluate field Foo",
    "{{uper .Name}}": "did you mean upper?",
    "{{Name}}": "a field has a dot: .Name",
    "{{if .Name}}": "{{if}} without {{end}}",
    "{{if .Name}}a{{else}}b": "{{else}} without {{end}}",
    "x{{end}}": "without a beginning",
    "{{else}}": "without a beginning",
    "{{range .Name}}{{end}}": "range needs a list or a map",
    "{{$x}}": "no variable $x",
    "{{with .State}}{{$y := 1}}{{end}}{{$y}}": "no variable $y",
    "{{break}}": "outside of a {{range}}",
    "{{template \"x\"}}": "{{template}} is not known here",
    "{{index .Args 5}}": "index out of range: 5 of 2",
    "{{index .Config.Labels 1}}": "texts as keys",
    "{{join .Name \",\"}}": 'the text "/web" is no list',
    "{{join .Args}}": "it takes 2 arguments, not 1",
    "{{eq .State.Running \"true\"}}": "cannot be compared",
    "{{truncate .Name .Id}}": "is no whole number",
    "{{printf \"%d\" .Name}}": "is no whole number",
    "{{printf \"%s\"}}": "%s has no value",
    "{{printf \"%999999d\" 1}}": "too wide",
    "{{.Name .Id}}": ".Name takes no arguments",
    "{{\"a\" \"b\"}}": "only functions take arguments",
    "{{.Name | 3}}": "behind | stands a function",
    "{{.Name |}}": "something is missing",
    "{{}}": "something is missing",
    "{{(.Name}}": "( without )",
    "{{.Name)}}": "unexpected )",
    "{{\"a}}": "a text that does not end",
    "{{'ab'}}": "holds one character",
    "{{/* x}}": "/* without */",
    "{{12x}}": "12x is no number",
    "{{.Name & .Id}}": "unexpected '&'",
    "{{len .State.Pid}}": "a number has no length",
    "(" * 5 + "{{" + "(" * 500 + ".Name" + ")" * 500 + "}}": "more than 64 levels",
    "{{if .Name}}" * 100 + "{{end}}" * 100: "more than 64 levels",
}  # fmt: skip


@pytest.mark.parametrize("form", WRONG)
def test_what_is_wrong_is_said_in_a_line_with_the_place(form: str) -> None:
    with pytest.raises(InvalidArgument) as found:
        Template(form).fill(CONTAINER)
    said = str(found.value)
    assert WRONG[form] in said
    assert "^" in said
    assert "\n" not in said


def test_every_field_that_exists_is_named() -> None:
    with pytest.raises(InvalidArgument) as found:
        Template("{{.Foo}}").fill(ROW)
    assert found.value.hint is not None
    assert all(key in found.value.hint for key in ROW)


def test_what_an_image_says_cannot_steer_a_terminal_or_fake_a_line() -> None:
    hostile = {"Labels": {"x": "\x1b[2J\nroot"}, "Env": ["a\x9b", "b"]}
    for form in ("{{.Labels.x}}", '{{index .Labels "x"}}', "{{upper .Labels.x}}", "{{.Labels}}",
                 "{{println .Labels.x}}", '{{printf "%s" .Labels.x}}', "{{.Env}}",
                 '{{join .Env " "}}', "{{range .Env}}{{.}}{{end}}", "{{slice .Labels.x 0 3}}",
                 "{{json .Labels}}"):  # fmt: skip
        made = Template(form).fill(hostile)
        assert "\x1b" not in made
        assert "\n" not in made.removesuffix("\n")
    assert json.loads(Template("{{json .Labels}}").fill(hostile)) == hostile["Labels"]


class Screen:
    """An Output that remembers."""

    terminal = False
    columns = 80

    def __init__(self) -> None:
        self.said = ""

    def text(self, text: str) -> None:
        self.said += text


def printed(form: str, rows: list[dict[str, Any]]) -> str:
    screen = Screen()
    columns = (Column("CONTAINER ID", "ID"), Column("NAMES", "Names"))
    show(screen, columns, rows, form, wide=False)  # type: ignore[arg-type]
    return screen.said


def test_a_table_of_chosen_columns_has_their_headings() -> None:
    form = 'table {{.ID}}\\t{{.Names | upper}}\\t{{.Label "com.docker.swarm.node"}}\\t{{.Ports}}'
    head, line = printed(form, [ROW]).splitlines()
    assert head.split() == ["CONTAINER", "ID", "NAMES", "node", "PORTS"]
    assert line.split() == ["a87ecb4f327c", "WEB", "ubuntu", "0.0.0.0:80->80/tcp"]
    assert line.index("WEB") == head.index("NAMES")


def test_a_table_without_rows_still_has_a_heading() -> None:
    form = "table {{.ID}}\t{{.CreatedAt}}\t{{truncate .RunningFor 3}}{{if .X}}!{{end}}"
    assert printed(form, []) == "CONTAINER ID   CREATED AT   RUNNING FOR!\n"


def test_json_is_an_object_a_line() -> None:
    assert [json.loads(line) for line in printed("json", [ROW, ROW]).splitlines()] == [ROW, ROW]


def test_a_list_without_a_template_does_not_import_templates() -> None:
    script = (
        "import sys; from onggi.faces.cli.table import show, Column\n"
        "from onggi.faces.cli.output import Output\n"
        "import onggi.faces.cli.verbs.ps, onggi.faces.cli.verbs.inspect\n"
        "show(Output(1), (Column('ID', 'ID'),), [{'ID': 'x'}], 'json', wide=False)\n"
        "sys.exit(any('template' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b'{"ID":"x"}\n')


ATOMS = ("{{", "}}", "{{-", "-}}", ".", ".State", ".Pid", "$x", ":=", "=", "|", "(", ")", "if ",
         "range ", "with ", "else ", "end", "eq ", "index ", "json ", '"a"', "'b'", "1", " ", "nil",
         "/*", "*/", "`", "\\", ",", "break", "printf ", "%d")  # fmt: skip


@given(st.lists(st.sampled_from(ATOMS), max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_is_a_template_or_a_clear_error(form: str) -> None:
    try:
        Template(form).fill(CONTAINER)
    except InvalidArgument as error:
        assert "\n" not in str(error)
