"""Templates of docker's documentation and of everyday use, with what docker prints for them."""

from __future__ import annotations

from typing import Any

CONTAINER: dict[str, Any] = {
    "Id": "d2cc496561d6",
    "Name": "/web",
    "LogPath": "/var/log/web.log",
    "Args": ["-g", "daemon off;"],
    "Image": "registry:5000/web:1",
    "RestartCount": 3,
    "Mounts": [],
    "State": {"Status": "running", "Running": True, "Pid": 12, "Error": "", "ExitCode": 0},
    "Config": {
        "Image": "web:1",
        "Env": ["A=1", "B=2"],
        "Labels": {"com.example.role": "front", "plain": "x"},
        "Hostname": "ba033ac44011",
    },
    "NetworkSettings": {
        "Networks": {
            "back": {"IPAddress": "10.0.0.2", "MacAddress": "02:42:ac:12:00:02"},
            "front": {"IPAddress": "172.17.0.2", "MacAddress": "02:42:ac:11:00:02"},
        },
        "Ports": {
            "8787/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8787"}],
            "9000/tcp": [{"HostIp": "::", "HostPort": "19000"}],
        },
    },
}

#: docs.docker.com: "Format command and log output", docker inspect, docker ps, docker images; and
#: the answers that people copy. Fields are CONTAINER's.
DOCUMENTED = {
    "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}": "10.0.0.2172.17.0.2",
    "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}":
        "02:42:ac:12:00:0202:42:ac:11:00:02",
    "{{.LogPath}}": "/var/log/web.log",
    "{{.Config.Image}}": "web:1",
    "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{end}}":
        " 8787/tcp -> 8787  9000/tcp -> 19000 ",
    '{{(index (index .NetworkSettings.Ports "8787/tcp") 0).HostPort}}': "8787",
    "{{json .Config.Env}}": '["A=1","B=2"]',
    '{{join .Args " , "}}': "-g , daemon off;",
    "{{json .Mounts}}": "[]",
    "{{lower .Name}}": "/web",
    '{{split .Image ":"}}': "[registry 5000/web 1]",
    '{{title "hello big-world"}}': "Hello Big-World",
    "{{upper .Name}}": "/WEB",
    "{{pad .Config.Image 5 10}}": "     web:1          ",
    "{{truncate .Image 15}}": "registry:5000/w",
    "{{range .NetworkSettings.Networks}}{{println .IPAddress}}{{end}}": "10.0.0.2\n172.17.0.2\n",
    '{{index .Config.Labels "com.example.role"}}': "front",
    "{{.Id}}: {{.State.Status}}": "d2cc496561d6: running",
    "{{ .ID }}": "d2cc496561d6",  # Go's name of the field, which the JSON calls Id
    '{{if .State.Running}}up{{else}}down{{end}}': "up",
    '{{if eq .State.Status "exited"}}{{.State.ExitCode}}{{else if .State.Pid}}pid {{.State.Pid}}'
    "{{else}}-{{end}}": "pid 12",
    "{{if .State.Health}}{{.State.Health.Status}}{{else}}no check{{end}}": "no check",
    "{{with .State}}{{.Pid}} {{$.Name}}{{end}}": "12 /web",
    "{{with .Mounts}}some{{else}}none{{end}}": "none",
    "{{range .Mounts}}{{.Source}}{{else}}none{{end}}": "none",
    '{{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{$e}}{{end}}': "A=1, B=2",
    '{{range .Config.Env}}{{if eq . "B=2"}}{{continue}}{{end}}{{.}};{{end}}': "A=1;",
    '{{range .Config.Env}}{{.}}{{break}}{{end}}': "A=1",
    "{{$n := .Name}}{{range .Args}}{{$n = .}}{{end}}{{$n}}": "daemon off;",
    '{{.Name | printf "%s!" | upper}}': "/WEB!",
    '{{printf "%-6s|%5d|%05d|%.1f|%q|%v|%%" .Name .State.Pid .State.Pid 1.25 "x" .State.Running}}':
        '/web  |   12|00012|1.2|"x"|true|%',
    "{{len .Args}} {{len .Name}}": "2 4",
    "{{slice .Id 0 4}}": "d2cc",
    "{{and .Name .State.Pid}} {{or .State.Error .Name}} {{not .Mounts}}": "12 /web true",
    "{{if and .State.Running (gt .RestartCount 2) (le .RestartCount 3)}}often{{end}}": "often",
    '{{eq .State.Status "created" "running"}}': "true",
    '{{eq .State.Pid "12"}}': "true",
    "{{ne .RestartCount 3}} {{lt 1 2}} {{ge 2 2}}": "false true true",
    '{{print .Name "x" 1 2}}': "/webx1 2",
    "a {{- /* a comment */ -}} b": "ab",
    "{{ 23 -}} < {{- 45 }}": "23<45",
    "{{/* alone */}}{{.Name}}": "/web",
    "{{.Config.Labels}}": "map[com.example.role:front plain:x]",
    "{{.Args}} {{.State.Running}}": "[-g daemon off;] true",
    "{{.Config.Labels.missing}}": "<no value>",
    '[{{index .Config.Labels "missing"}}]': "[]",
    '{{"quoted\\ttext"}}{{`raw`}}{{true}}{{0x10}}{{-1}}': "quoted\ttextraw" "true16-1",
    "{{.Config.Hostname}}": "ba033ac44011",
    "{{ (.State).Pid }}": "12",
}  # fmt: skip
