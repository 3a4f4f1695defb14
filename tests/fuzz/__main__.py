"""`python -m tests.fuzz NAME… --seconds N`: atheris on the targets, one after the other.

Each target starts from its seeds and what `--corpus` has kept of earlier runs. A finding is
written to `--findings`; once the parser is mended, it moves to `found/NAME/` for good.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent
HANG_SECONDS = 5
MEMORY_MB = 1024


def main() -> int:
    sys.path.insert(0, str(TESTS))  # where pytest finds the rigs, too
    options = _options()
    if options.child:
        _fuzz(options.names[0], options.child)
        return 0
    from fuzz.corpora import found, seeds
    from fuzz.targets import TARGETS

    names = options.names or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        sys.exit(f"no target {', '.join(unknown)}: there is {', '.join(TARGETS)}")
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            corpus = Path(options.corpus or scratch).absolute() / name
            corpus.mkdir(parents=True, exist_ok=True)
            for number, data in enumerate(seeds(name) + found(name)):
                (corpus / f"seed-{number}").write_bytes(data)
            if _run(name, corpus, options):
                failed.append(name)
    if failed:
        print(f"findings: {', '.join(failed)}; look into {options.findings}", flush=True)
    return bool(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a target; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", help="directory that keeps what led further; default: none")
    parser.add_argument("--findings", default="fuzz-findings", help="directory for what crashes")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(name: str, corpus: Path, options: argparse.Namespace) -> int:
    findings = Path(options.findings).absolute() / name
    findings.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-artifact_prefix={findings}/",
        f"-max_total_time={options.seconds}",
        f"-timeout={HANG_SECONDS}",
        "-report_slow_units=1",
        f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=16384",
        "-print_final_stats=1",
        str(corpus),
    ]
    print(f"== {name}: {options.seconds} s", flush=True)
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", *arguments]
    return subprocess.run(command, check=False, cwd=TESTS.parent).returncode


def _fuzz(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["onggi", "fuzz.targets"]):
        from fuzz.targets import TARS, feed, with_checksums

    def one(data: bytes) -> None:
        feed(name, data)

    def mutate(data: bytes, maximum_bytes: int, seed: int) -> bytes:
        mutated: bytes = atheris.Mutate(data, maximum_bytes)
        wrong = random.Random(seed).randrange(8) == 0
        return mutated if wrong else with_checksums(mutated)

    extra = {"custom_mutator": mutate} if name in TARS else {}
    atheris.Setup([name, *arguments], one, **extra)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
