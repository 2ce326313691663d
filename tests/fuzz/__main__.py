"""`python -m tests.fuzz --inputs 1000000`: mutated inputs for each parser, led by the code that they reach.

Needs atheris (`pip install atheris`), which the tests don't. Each parser runs in a process of its own, which ends at
the first find, at an input that takes longer than SLOW_S, or that needs more than MEMORY_MIB; the input is kept.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOW_S = 5
MEMORY_MIB = 512
BYTES_MAX = 8192
TOLD_EACH = 1000
NAMES = ("message", "request", "answer", "value", "arguments", "json", "http", "greeting", "rows", "key")


def main() -> int:
    """Runs the parsers that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all")
    parser.add_argument("--parsers", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.one:
        return fuzz(options.one, rest)
    count = -(-options.inputs // len(options.parsers))
    print(f"{'PARSER':<10} {'INPUTS':>9} {'TAKEN':>8} {'EDGES':>6} {'TIME':>6} {'MEMORY':>8}")
    finds = [name for name in options.parsers if not run(name, count, options.seed)]
    print(f"{count * len(options.parsers)} inputs; finds in {' and '.join(finds) or 'no parser'}")
    return 1 if finds else 0


def run(name: str, count: int, seed: int) -> bool:
    """One parser, in a process of its own; whether it held."""
    from tests.fuzz import parsers

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(parsers.seeds(name)):
            (corpus / str(number)).write_bytes(data)
        started = time.monotonic()
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz", "--one", name, f"-runs={count}", f"-seed={seed}",
                f"-timeout={SLOW_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={BYTES_MAX}",
                f"-artifact_prefix={Path.cwd()}/{name}-", str(corpus),
            ],
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        took_s = time.monotonic() - started
    ran, edges, memory = (_last(pattern, done.stderr) for pattern in (r"^#(\d+)", r"cov: (\d+)", r"rss: (\d+)Mb"))
    taken = _last(r"^taken (\d+)$", done.stderr)
    print(f"{name:<10} {ran:>9} {taken:>8} {edges:>6} {took_s:>4.0f} s {memory:>4} MiB", flush=True)
    if done.returncode != 0:
        print("\n".join(done.stderr.splitlines()[-40:]), flush=True)
    return done.returncode == 0


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text, re.MULTILINE)
    return str(found[-1]) if found else "?"


def fuzz(name: str, rest: list[str]) -> int:
    """Never returns where it goes well: libFuzzer ends the process."""
    try:
        import atheris
    except ImportError:
        print("this needs atheris: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["meshq"]):
        from tests.fuzz import parsers
    parser, calls, taken = parsers.PARSERS[name], 0, 0

    def one(data: bytes) -> None:
        nonlocal calls, taken
        calls += 1
        taken += parsers.held(parser, data)
        if calls % TOLD_EACH == 0:  # libFuzzer ends the process without a word to Python
            print(f"taken {taken}", file=sys.stderr, flush=True)

    atheris.Setup([sys.argv[0], *rest], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
