"""Names per second: a client in a container's network namespace, with many questions under way.

Run by itself it is that client: `python -m bench.names ADDRESS NAME SECONDS`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

from bench.peers import Engine

SECONDS = 2.0
UNDER_WAY = 32


def answers_per_s(engine: Engine, network: str, name: str) -> float:
    """Answers about `name` that a container in `network` gets in a second; the best of three.

    `name` must be a running container's. The client enters the network namespace only, so it costs
    every engine the same.
    """
    options = (*engine.run_options(), "-d", "--name", "asker", "--network", network)
    engine.run("run", *options, "busybox", "sleep", "600")
    try:
        pid = engine.run("inspect", "-f", "{{.State.Pid}}", "asker")
        server = _server_of(pid)
        rates = []
        for _ in range(3):
            words = ["nsenter", "-t", pid, "-n", sys.executable, "-m", "bench.names", server, name]
            done = subprocess.run(
                [*words, str(SECONDS)], capture_output=True, text=True, check=True, env=os.environ
            )
            rates.append(float(done.stdout))
        return max(rates)
    finally:
        engine.run("rm", "-f", "asker")


def _server_of(pid: str) -> str:
    with open(f"/proc/{pid}/root/etc/resolv.conf") as file:
        return next(line.split()[1] for line in file if line.startswith("nameserver"))


def _question(name: str) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"


def main() -> int:
    """Ask, print the answers per second."""
    address, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((address, 53))
    client.settimeout(1)
    question, number, answered = _question(name), 0, 0
    for number in range(UNDER_WAY):
        client.send(number.to_bytes(2) + question)
    before = time.perf_counter()
    while (taken_s := time.perf_counter() - before) < seconds:
        try:
            answer = client.recv(512)
        except TimeoutError:  # lost: ask again
            answer = b""
        if answer:
            if answer[3] & 15 or not answer[7]:
                raise RuntimeError(f"no address of {name}: {answer.hex()}")
            answered += 1
        number = (number + 1) & 0xFFFF
        client.send(number.to_bytes(2) + question)
    print(answered / taken_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
