"""CPython's own tests of executors, where they are installed."""

from __future__ import annotations

import io
import unittest
from pathlib import Path

import pytest

from tests.executor.daemon import daemon
from tests.executor.suite import NotInstalled, allowed, cases, installed


@pytest.mark.slow
def test_the_tests_of_cpython_pass(tmp_path: Path) -> None:
    try:
        with installed(None) as modules, daemon(tmp_path, allow=allowed(modules), slots=5) as data_dir:
            suite, _ = cases(modules, data_dir=data_dir)
            report = io.StringIO()
            result = unittest.TextTestRunner(report).run(suite)
    except NotInstalled as error:
        pytest.skip(str(error))
    assert result.wasSuccessful(), report.getvalue()
    assert result.testsRun >= 20
