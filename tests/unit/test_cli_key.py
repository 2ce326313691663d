"""`meshq key`: real processes, as a person sees them; the daemon is the twin."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshq.cli.main import run
from meshq.core import keys
from meshq.core import requests as ask
from meshq.core.keys import Key
from meshq.core.reports import Credentials, CredentialView
from meshq.errors import Conflict, NoLeader, NotFound
from meshq.store import keyfile
from meshq.store.keyfile import Held
from meshq.wire import security
from tests.unit.cli_process import environment, meshq, one_line
from tests.unit.client_twin import Twin

KEY, NEXT = Key(bytes(range(20))), Key(bytes(range(1, 21)))
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


@pytest.fixture
def held(tmp_path: Path) -> Key:
    keyfile.write(tmp_path, Held((KEY,)))
    return KEY


def changed(twin: Twin) -> list[ask.Request]:
    return [each for each in twin.requests if isinstance(each, ask.CredentialAdd | ask.CredentialRevoke)]


# -- the key ---------------------------------------------------------------------------------------------


def test_generate_prints_another_key_each_time_and_changes_nothing(tmp_path: Path, capsys: Capture) -> None:
    found = set()
    for _ in range(3):
        assert run(["key", "generate", "--data-dir", str(tmp_path / "none")]) == 0
        out, err = capsys.readouterr()
        assert (keys.parse(out).text + "\n", err) == (out, "")
        found.add(out)
    assert len(found) == 3
    assert run(["key", "generate", "--json"]) == 0
    keys.parse(json.loads(capsys.readouterr().out)["key"])
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_key_and_what_to_type_on_the_next_machine(tmp_path: Path, held: Key) -> None:
    assert meshq(tmp_path, "key", "show") == (
        0, f"{held.text}\n", f"next machine: meshq up --key {held.text}\n",
    )  # fmt: skip
    assert json.loads(meshq(tmp_path, "key", "show", "--json")[1]) == {"key": held.text, "next": None}
    keyfile.write(tmp_path, Held((KEY, NEXT)))
    code, out, err = meshq(tmp_path, "key", "show")
    assert (code, out) == (0, f"{held.text}\n")
    assert err.splitlines()[1] == f"the key is being changed; next: {NEXT.text}"
    assert max(map(len, err.splitlines())) <= 80
    assert json.loads(meshq(tmp_path, "key", "show", "--json")[1])["next"] == NEXT.text


@pytest.mark.parametrize("command", [["show"], ["issue", "--submit-only", "bob"]], ids=" ".join)
def test_without_a_key_it_is_said_how_to_get_one(tmp_path: Path, twin: Twin, command: list[str]) -> None:
    code, out, err = meshq(tmp_path, "key", *command)
    assert (code, out) == (2, "")
    assert one_line(err)
    for words in (f"{tmp_path} holds no key", "meshq up makes one", "meshq key show on one", "meshq up --key KEY"):
        assert words in err
    assert twin.requests == []


# -- issue -----------------------------------------------------------------------------------------------


def test_issue_lists_the_name_and_prints_a_credential_of_the_key(tmp_path: Path, twin: Twin, held: Key) -> None:
    code, out, err = meshq(tmp_path, "key", "issue", "--submit-only", "bob")
    assert code == 0
    assert one_line(out)
    assert changed(twin) == [ask.CredentialAdd(name="bob")]
    found = security.read_credential(out)
    assert found.name == "bob"
    authority = security.Authority(held).certificate
    assert found.passport.trusted == (authority,)
    found.passport.certificate.verify_directly_issued_by(authority)
    assert err.splitlines() == [
        "bob can submit tasks now: meshq submit TASK --to HOST:PORT --credential FILE",
        "take it back with: meshq key revoke bob",
    ]
    assert out.strip() not in err
    assert json.loads(meshq(tmp_path, "key", "issue", "--submit-only", "eve", "--json")[1]).keys() == {
        "name", "credential", "file",
    }  # fmt: skip


def test_issue_puts_it_into_a_file_that_only_its_owner_reads(tmp_path: Path, twin: Twin, held: Key) -> None:
    out = tmp_path / "bob.credential"
    code, told, err = meshq(tmp_path, "key", "issue", "--submit-only", "bob", "--out", str(out))
    assert (code, told) == (0, f"wrote {out}\n")
    assert f"--credential {out}" in err
    assert out.stat().st_mode & 0o777 == 0o600
    text = out.read_text()
    assert security.read_credential(text).name == "bob"
    code, told, err = meshq(tmp_path, "key", "issue", "--submit-only", "eve", "--out", str(out))
    assert (code, told, err) == (2, "", f"meshq: {out}: is there already; choose another file\n")
    assert out.read_text() == text
    assert changed(twin) == [ask.CredentialAdd(name="bob")]
    other = tmp_path / "eve.credential"
    told = meshq(tmp_path, "key", "issue", "--submit-only", "eve", "--out", str(other), "--json")[1]
    assert json.loads(told) == {"name": "eve", "credential": None, "file": str(other)}


def test_while_the_key_is_changed_the_next_one_issues(tmp_path: Path, twin: Twin) -> None:
    keyfile.write(tmp_path, Held((KEY, NEXT)))
    found = security.read_credential(meshq(tmp_path, "key", "issue", "--submit-only", "bob")[1])
    old, new = (security.Authority(key).certificate for key in (KEY, NEXT))
    found.passport.certificate.verify_directly_issued_by(new)
    assert set(found.passport.trusted) == {old, new}


@pytest.mark.parametrize("refusal", [Conflict("the name bob was given before"), NoLeader("no majority is here")])
def test_a_name_that_is_not_listed_gets_no_credential(
    tmp_path: Path, twin: Twin, held: Key, refusal: Conflict | NoLeader
) -> None:
    twin.refuses[ask.CredentialAdd] = refusal
    out = tmp_path / "bob.credential"
    for more in ([], ["--out", str(out)]):
        args = ["key", "issue", "--submit-only", "bob", "--connect-timeout", "0.3", *more]
        code, told, err = meshq(tmp_path, *args)
        assert (code, told) == (2 if isinstance(refusal, Conflict) else 3, "")
        assert err == f"meshq: {refusal.message}\n"
    assert not out.exists()


def test_an_answer_that_is_lost_leaves_no_credential_and_says_what_is_known(
    tmp_path: Path, twin: Twin, held: Key
) -> None:
    twin.lost_answers = 1
    code, out, err = meshq(tmp_path, "key", "issue", "--submit-only", "bob")
    assert (code, out) == (3, "")
    assert one_line(err)
    assert "bob may be on the list without a credential: see meshq key list" in err
    assert changed(twin) == [ask.CredentialAdd(name="bob")]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["issue"], "missing option '--submit-only'"),
        (["issue", "--submit-only", "a b"], "'a b' is no name of a credential: it has 1 to 64"),
        (["revoke", ".."], "'..' is no name of a credential"),
        (["revoke"], "missing argument 'NAME'"),
        (["isue"], "no such command 'isue'"),
        (["list", "bob"], "unexpected extra argument (bob)"),
    ],
)
def test_wrong_usage(args: list[str], says: str, capsys: Capture, tmp_path: Path) -> None:
    given = ["key", *args] if args == ["isue"] else ["key", *args, "--data-dir", str(tmp_path)]
    assert run(given) == 2
    out, err = capsys.readouterr()
    assert (out, one_line(err)) == ("", True)
    assert says in err


@pytest.mark.parametrize("command", ["generate", "show", "rotate", "finish", "issue", "list", "revoke"])
def test_each_has_help_with_examples(command: str, capsys: Capture) -> None:
    assert run(["key", command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"\n    meshq key {command}" in out
    for option in ("--data-dir", "--connect-timeout", "--json"):
        assert option in out
    assert max(map(len, out.splitlines())) <= 100


def test_alone_it_tells_its_commands(capsys: Capture) -> None:
    assert run(["key"]) == 2
    out = capsys.readouterr().out
    commands = out.partition("Commands:")[2]
    told = [line.split()[0] for line in commands.splitlines() if line[2:3].strip()]
    assert {"generate", "show", "rotate", "finish", "issue", "list", "revoke"} == set(told)
    assert "..." not in commands, "its first line is too long"


# -- list and revoke -------------------------------------------------------------------------------------


def test_list_shows_who_is_valid_and_who_was_revoked(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "key", "list")
    assert (code, out) == (0, "")
    assert err == "no credential was issued; make one with: meshq key issue --submit-only NAME\n"
    assert json.loads(meshq(tmp_path, "key", "list", "--json")[1]) == {"credentials": []}
    day_ms = 86_400_000
    twin.credentials = Credentials(
        credentials=(
            CredentialView(name="bob", issued_ms=day_ms),
            CredentialView(name="eve", issued_ms=day_ms, revoked_ms=9 * day_ms),
        )
    )
    code, out, err = meshq(tmp_path, "key", "list", TZ="UTC")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["NAME", "ISSUED", "REVOKED"],
        ["bob", "1970-01-02", "00:00:00", "-"],
        ["eve", "1970-01-02", "00:00:00", "1970-01-10", "00:00:00"],
    ]
    assert json.loads(meshq(tmp_path, "key", "list", "--json")[1])["credentials"] == [
        {"name": "bob", "issued_ms": day_ms, "revoked_ms": None},
        {"name": "eve", "issued_ms": day_ms, "revoked_ms": 9 * day_ms},
    ]


def test_revoke(tmp_path: Path, twin: Twin) -> None:
    assert meshq(tmp_path, "key", "revoke", "bob") == (0, "revoked bob; its tasks stay: meshq tasks\n", "")
    assert json.loads(meshq(tmp_path, "key", "revoke", "bob", "--json")[1]) == {"revoked": "bob"}
    assert changed(twin) == [ask.CredentialRevoke(name="bob")] * 2
    twin.refuses[ask.CredentialRevoke] = NotFound("no credential is called bob; see: meshq key list")
    code, out, err = meshq(tmp_path, "key", "revoke", "bob")
    assert (code, out, err) == (2, "", "meshq: no credential is called bob; see: meshq key list\n")


def test_without_a_daemon_nothing_is_issued(tmp_path: Path, held: Key) -> None:
    for args in (["issue", "--submit-only", "bob"], ["list"], ["revoke", "bob"]):
        code, out, err = meshq(tmp_path, "key", *args)
        assert (code, out) == (3, "")
        assert one_line(err)
        assert "start one with: meshq up" in err


# -- where `up` has its key from -------------------------------------------------------------------------

MISTYPED = "mq1-abcd"
WHY = "a key has 36 characters behind mq1-, this one 4: a part is missing\n"


def test_a_key_that_is_none_is_refused_with_where_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'key = "{MISTYPED}"\n')
    assert meshq(tmp_path, "up", "--key", MISTYPED) == (2, "", f"meshq: --key: {WHY}")
    assert meshq(tmp_path, "up", MESHQ_KEY=MISTYPED) == (2, "", f"meshq: MESHQ_KEY: {WHY}")
    assert meshq(tmp_path, "up", "--config", str(file)) == (2, "", f"meshq: {file}: {WHY}")


def test_a_key_comes_through_a_pipe(tmp_path: Path) -> None:
    assert meshq(tmp_path, "up", "--key", "-", typed=f"{MISTYPED}\nmore") == (2, "", f"meshq: --key: {WHY}")


@pytest.mark.parametrize("given", ["", " ", "-"])
def test_a_key_that_is_empty_is_no_wish_for_a_new_one(tmp_path: Path, given: str) -> None:
    code, out, err = meshq(tmp_path / "new", "up", "--key", given)
    assert (code, out) == (2, "")
    assert err == "meshq: --key: the key is empty; meshq key show prints it on a machine of the cluster\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("typed", "code", "says"), [(f"{MISTYPED}\n", 2, f"--key: {WHY}"), ("\x03", 130, "interrupted")]
)
def test_a_key_that_is_asked_for_is_not_shown(tmp_path: Path, typed: str, code: int, says: str) -> None:
    master, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "meshq", "up", "--key", "-"],
        env=environment(tmp_path), stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = _read_until(master, "key: ")
        os.write(master, typed.encode())
        shown += _read_until(master, None)
    os.close(master)
    assert process.returncode == code
    assert says.strip() in shown
    assert MISTYPED not in shown


def _read_until(terminal: int, end: str | None) -> str:
    """What a terminal shows up to there; up to its end where that is None."""
    shown = ""
    while end is None or not shown.endswith(end):
        try:
            more = os.read(terminal, 4096).decode()
        except OSError:
            more = ""
        if not more:
            break
        shown += more
    return shown
