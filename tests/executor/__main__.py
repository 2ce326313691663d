"""`python -m tests.executor`: CPython's own tests of executors, on `meshq.Executor` and a real daemon of one node."""

from __future__ import annotations

import argparse
import sys
import tempfile
import unittest
from pathlib import Path

from tests.executor.daemon import daemon
from tests.executor.suite import NotInstalled, allowed, cases, installed


def main() -> int:
    """Runs them, and prints which are left out; exits with 1 if one failed, and with 77 if they are not installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.executor", description=__doc__)
    parser.add_argument("--suite", type=Path, help="a folder `test` of this version of Python that has the tests")
    parser.add_argument("--only", default="", help="those with this in their name")
    options = parser.parse_args()
    try:
        with (
            installed(options.suite) as modules,
            tempfile.TemporaryDirectory(prefix="meshq-executor-") as folder,
            daemon(Path(folder), allow=allowed(modules), slots=5) as data_dir,
        ):
            suite, left_out = cases(modules, data_dir=data_dir)
            chosen = unittest.TestSuite(test for test in suite if options.only in str(test))
            result = unittest.TextTestRunner(verbosity=2).run(chosen)
    except NotInstalled as error:
        print(f"skipped: {error}")
        return 77
    passed = result.testsRun - len(result.failures) - len(result.errors) - len(result.skipped)
    print(f"\n{passed} of {result.testsRun} passed, {len(left_out)} left out:")
    for name, reason in left_out.items():
        print(f"  {name}: {reason}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
