"""`python -m tests.fuzz --inputs 1000000`: mutated inputs for each parser, led by the code that they reach.

Needs atheris (`pip install atheris`), which the tests don't. Half of the inputs are changed byte by byte, half in one
of the values that their bytes stand for. Each parser runs in a process of its own, which ends at the first find, at an
input that takes longer than SLOW_S, or that needs more than MEMORY_MIB; the input is kept in the present directory, and
`python -m tests.fuzz --one PARSER FILE` runs it again.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
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
RESHAPED_SHARE = 0.5


def main() -> int:
    """Runs the parsers that the command line names."""
    if sys.argv[1:2] == ["--one"]:
        return fuzz(sys.argv[2], sys.argv[3:])
    from tests.fuzz import parsers

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=1_000_000,
        help=f"for the codec ({', '.join(parsers.CODEC)}) in all; each other parser gets a tenth",
    )  # fmt: skip
    parser.add_argument("--parsers", nargs="*", choices=list(parsers.PARSERS), default=list(parsers.PARSERS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{'PARSER':<13} {'INPUTS':>9} {'TAKEN':>8} {'EDGES':>6} {'TIME':>6} {'SLOWEST':>8} {'MEMORY':>8}")
    finds, in_all = [], 0
    for name in options.parsers:
        shares = len(parsers.CODEC) if name in parsers.CODEC else 100 if name in parsers.SLOW else 10
        count = -(-options.inputs // shares)
        in_all += count
        if not run(name, count, options.seed):
            finds.append(name)
    print(f"{in_all} inputs; finds in {' and '.join(finds) or 'no parser'}")
    return 1 if finds else 0


def run(name: str, count: int, seed: int) -> bool:
    """One parser, in a process of its own; whether it held."""
    from tests.fuzz import parsers

    with tempfile.TemporaryDirectory() as folder:
        corpus, files = Path(folder) / "corpus", Path(folder) / "files"
        for made in (corpus, files):
            made.mkdir()
        for number, data in enumerate(parsers.seeds(name)):
            (corpus / str(number)).write_bytes(data)
        started = time.monotonic()
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz", "--one", name, f"-runs={count}", f"-seed={seed}",
                f"-timeout={SLOW_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={BYTES_MAX}", "-mutate_depth=1",
                f"-artifact_prefix={Path.cwd()}/{name}-", str(corpus),
            ],
            capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": str(files)},
        )  # fmt: skip
        took_s = time.monotonic() - started
    ran, edges, memory = (_last(pattern, done.stderr) for pattern in (r"^#(\d+)", r"cov: (\d+)", r"rss: (\d+)Mb"))
    taken, slowest = (_last(pattern, done.stderr) for pattern in (r"^taken (\d+),", r"slowest ([\d.]+) ms$"))
    figures = f"{ran:>9} {taken:>8} {edges:>6} {took_s:>4.0f} s {slowest:>5} ms {memory:>4} MiB"
    print(f"{name:<13} {figures}", flush=True)
    if done.returncode != 0:
        print("\n".join([*done.stdout.splitlines()[-30:], *done.stderr.splitlines()[-6:]]), flush=True)
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
        from tests.fuzz import mutations, parsers
    logging.disable()  # what a parser tells people of an input is told too often here
    parser, calls, taken, slowest_s = parsers.PARSERS[name], 0, 0, 0.0

    def one(data: bytes) -> None:
        nonlocal calls, taken, slowest_s
        calls += 1
        began_s = time.thread_time()
        taken += parsers.held(parser, data)
        slowest_s = max(slowest_s, time.thread_time() - began_s)
        if calls % TOLD_EACH == 0:  # libFuzzer ends the process without a word to Python
            print(f"taken {taken}, slowest {1000 * slowest_s:.1f} ms", file=sys.stderr, flush=True)

    def changed(data: bytes, bytes_max: int, seed: int) -> bytes:
        rng = random.Random(seed)
        shaped = mutations.reshaped(rng, data) if rng.random() < RESHAPED_SHARE else None
        mutated: bytes = atheris.Mutate(data, bytes_max) if shaped is None or len(shaped) > bytes_max else shaped
        return mutated

    atheris.Setup([sys.argv[0], *rest], one, custom_mutator=changed)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
