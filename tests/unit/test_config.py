"""The configuration: where values come from, what is refused and how, and the presets in `configs/`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from meshq.config import FIELDS, Config, load
from meshq.core.limits import EPOCH_MAX, FRAME_BYTES_MAX
from meshq.core.messages import Rows
from meshq.errors import ConfigError
from meshq.store.rows import PayloadRow, pack, pack_frame
from meshq.wire import codec

CONFIGS = Path(__file__).parents[2] / "configs"


def written(tmp_path: Path, text: str) -> Path:
    """A file with this content."""
    path = tmp_path / "meshq.toml"
    path.write_text(text, "utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    """What is said about a file with this content."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text))
    assert "\n" not in caught.value.message
    return caught.value.message


def test_lan_toml_is_the_defaults_and_names_all_of_them() -> None:
    assert load(CONFIGS / "lan.toml") == Config()
    assert tuple(tomllib.loads((CONFIGS / "lan.toml").read_text("utf-8"))) == FIELDS


@pytest.mark.parametrize("preset", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_presets_are_valid_and_give_a_reason_for_each_value(preset: Path) -> None:
    load(preset)
    reasoned, lines = False, preset.read_text("utf-8").splitlines()
    for line in lines:
        if line.startswith("#"):
            reasoned = not line.startswith("# --")
        elif "=" in line:
            # A line right after another shares its comment.
            assert reasoned, f"{preset.name}: {line} has no comment"
        else:
            reasoned = False


def test_test_toml_is_faster_in_every_duration() -> None:
    preset, defaults = load(CONFIGS / "test.toml"), Config()
    for name in tomllib.loads((CONFIGS / "test.toml").read_text("utf-8")):
        if name.endswith("_s"):
            assert getattr(preset, name) < getattr(defaults, name), name


def test_a_later_source_wins(tmp_path: Path) -> None:
    path = written(tmp_path, 'name = "file"\nport = 1\nslots = 1\nlease_s = 3.0\n')
    environ = {"MESHQ_PORT": "2", "MESHQ_SLOTS": "2", "HOME": "/root"}
    found = load(path, environ, {"slots": 3, "name": None})
    assert (found.lease_s, found.name, found.port, found.slots) == (3.0, "file", 2, 3)
    assert found.heartbeat_s == Config().heartbeat_s


def test_values_of_the_environment_are_read_by_their_type() -> None:
    environ = {"MESHQ_MDNS": "false", "MESHQ_SEEDS": "a:1, b:2  c:3", "MESHQ_LEASE_S": "4", "MESHQ_NAME": "12"}
    found = load(environ=environ)
    assert (found.mdns, found.seeds, found.lease_s, found.name) == (False, ("a:1", "b:2", "c:3"), 4.0, "12")


def test_variables_of_the_command_line_are_no_settings() -> None:
    environ = {"MESHQ_DATA_DIR": "/x", "MESHQ_CONFIG": "/y", "MESHQ_CONNECT_TIMEOUT": "1", "MESH": "1"}
    assert load(environ=environ) == Config()


def test_a_misspelt_setting_is_answered_with_the_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, "heartbeats = 1\n")
    assert message == f"unknown setting heartbeats in {tmp_path / 'meshq.toml'}; did you mean heartbeat_s?"
    with pytest.raises(ConfigError, match=r"unknown setting MESHQ_SLOT in the environment; did you mean MESHQ_SLOTS\?"):
        load(environ={"MESHQ_SLOT": "1"})


def test_a_setting_like_none_is_answered_with_all(tmp_path: Path) -> None:
    message = refusal(tmp_path, "zzzz = 1\n")
    assert all(name in message for name in FIELDS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 65536", "port = 65536"),
        ("port = '80'", "port = '80'"),
        ("port = true", "port = True"),
        ("slots = -2", "slots = -2"),
        ("lease_s = 0", "lease_s = 0"),
        ("lease_s = nan", "lease_s = nan"),
        ("lease_s = inf", "lease_s = inf"),
        ("replicas = 0", "replicas = 0"),
        ("replica = 'sometimes'", "replica = 'sometimes'"),
        ("cluster = ''", "cluster = ''"),
        ('name = "a\\nb"', "name = 'a\\nb'"),
        ('cluster = "a\\tb"', "cluster = 'a\\tb'"),
        ("seeds = 'a:1'", "seeds = 'a:1'"),
        ("body_bytes_max = 1", "body_bytes_max = 1"),
        ("body_bytes_max = 50331649", "body_bytes_max = 50331649"),
        ("result_bytes_max = 50331649", "result_bytes_max = 50331649"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_source(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(tmp_path, text + "\n")
    assert message.startswith(f"{tmp_path / 'meshq.toml'}: {said}: ")


def test_a_value_of_the_largest_size_that_is_allowed_passes_between_nodes() -> None:
    largest = 48 << 20
    found = load(overrides={"body_bytes_max": largest, "result_bytes_max": largest})
    assert (found.body_bytes_max, found.result_bytes_max) == (largest, largest)
    row = PayloadRow(ref="x" * 256, epoch=EPOCH_MAX - 1, version=1 << 62, writer="a" * 64, seq=1, body=bytes(largest))
    names = {f"{number:064}": 1 << 62 for number in range(1000)}
    rows = Rows(rows=pack_frame([pack(row)]), last=True, vector=names, committed=names, dropped=names)
    assert len(codec.encode(rows)) < FRAME_BYTES_MAX


def test_the_source_of_a_wrong_value_may_be_the_environment_or_an_option() -> None:
    with pytest.raises(ConfigError, match=r"^MESHQ_PORT: port = 'x': "):
        load(environ={"MESHQ_PORT": "x"})
    with pytest.raises(ConfigError, match=r"^--port: port = -1: "):
        load(overrides={"port": -1})


def test_a_heartbeat_that_one_lost_message_would_undo_is_refused(tmp_path: Path) -> None:
    assert "too long for lease_s = 2.5" in refusal(tmp_path, "heartbeat_s = 1.0\n")
    assert load(written(tmp_path, "heartbeat_s = 0.875\n")).heartbeat_s == 0.875


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load(tmp_path / "none.toml")
    assert "is no TOML" in refusal(tmp_path, "port 1")
    assert "is no TOML" in refusal(tmp_path, f"port = {'9' * 5000}")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="is no TOML"):
        load(tmp_path / "latin.toml")


def test_slots_follow_the_processors_unless_they_are_given() -> None:
    assert load(overrides={"slots": 0}).slots_used == 0
    assert load(overrides={"slots": 7}).slots_used == 7
    assert load().slots_used >= 1


def test_what_children_get_and_run_is_set_by_lists_and_numbers(tmp_path: Path) -> None:
    environ = {"MESHQ_ALLOW": "primes, mytasks.*", "MESHQ_CHILD_ENV": "CUDA_* MY_SETTING"}
    found = load(written(tmp_path, "child_memory_bytes_max = 1073741824\n"), environ)
    assert (found.allow, found.child_env) == (("primes", "mytasks.*"), ("CUDA_*", "MY_SETTING"))
    assert (found.child_memory_bytes_max, found.child_output_bytes_max) == (1 << 30, 1 << 20)
    assert "child_memory_bytes_max = 1000: must be at least 134217728" in refusal(
        tmp_path, "child_memory_bytes_max = 1000"
    )
    for name in ("MESHQ_KEY", "meshq_*"):
        assert f"child_env = '{name}': no setting of meshq" in refusal(tmp_path, f"child_env = ['PATH', '{name}']")
    assert "allow" in refusal(tmp_path, "allow = ['']")
