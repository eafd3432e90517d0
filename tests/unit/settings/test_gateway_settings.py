"""Where a gateway's settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import GatewaySettings, SettingsError, load_gateway_settings


def file_with(directory: Path, text: str) -> Path:
    path = directory / "gateway.yaml"
    path.write_text(text)
    return path


def test_nothing_said_is_the_defaults() -> None:
    assert load_gateway_settings(None, {}, {}) == GatewaySettings()


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = file_with(tmp_path, "port: 1000\nworkers: 3\nedge: {in_flight: 7}\n")
    env = {"CROSSFADE_PORT": "2000", "CROSSFADE_WORKERS": "4", "CROSSFADE_EDGE__KEEP_ALIVE_S": "5.5"}
    found = load_gateway_settings(file, env, {"port": 3000, "workers": None})
    assert (found.port, found.workers, found.edge.in_flight, found.edge.keep_alive_s) == (3000, 4, 7, 5.5)


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("prot: 1", 1, "prot"),
        ("host: 127.0.0.1\nport: 70000", 2, "port"),
        ("port: '8080'", 1, "port"),
        ("port: true", 1, "port"),
        ("workers: 0", 1, "workers"),
        ("edge:\n  in_flight: 0", 2, "edge.in_flight"),
        ("edge: {header_byte: 5}", 1, "edge.header_byte"),
        ("redis_url: http://a", 1, "redis_url"),
        ("redis_url: redis://a:x", 1, "redis_url"),
        ("host: 'not a host'", 1, "host"),
        ("log: {level: loud}", 1, "log.level"),
        ("deadlines: {connect_s: -1}", 1, "deadlines.connect_s"),
        ("data_dir: ''", 1, "data_dir"),
    ],
)
def test_a_fault_of_the_file_is_found_where_it_is(tmp_path: Path, text: str, line: int, path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file_with(tmp_path, text), {}, {})
    assert (line, path) in [(p.line, p.path) for p in caught.value.problems]


def test_a_fault_of_the_file_does_not_hide_behind_a_variable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gateway\.yaml:1"):
        load_gateway_settings(file_with(tmp_path, "port: 70000"), {"CROSSFADE_PORT": "80"}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CROSSFADE_PORT", "eighty"),
        ("CROSSFADE_PORT", ""),
        ("CROSSFADE_WORKERS", "1e9"),
        ("CROSSFADE_INSECURE_CONTROL", "yes"),
        ("CROSSFADE_EDGE__IN_FLIGHT", "-1"),
    ],
)
def test_a_fault_of_a_variable_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_gateway_settings(None, {name: value}, {})


def test_a_variable_that_is_no_setting_names_its_neighbours() -> None:
    with pytest.raises(SettingsError, match="CROSSFADE_WORKERS"):
        load_gateway_settings(None, {"CROSSFADE_WORKRES": "2"}, {})


@pytest.mark.parametrize(
    "name",
    [
        "CROSSFADE_INTERNAL_TOKEN",
        "CROSSFADE_TOKEN_FILE",
        "CROSSFADE_ALLOWED_LOCAL_REMOTES",
        "CROSSFADE_SANDBOX_ROOT",
        "PATH",
    ],
)
def test_variables_of_others_pass(name: str) -> None:
    assert load_gateway_settings(None, {name: "x"}, {}) == GatewaySettings()


@pytest.mark.parametrize(
    "url", ["redis://me:hunter2@a:6379/0", "rediss://:hunter2@a:6379", "unix://:hunter2@/run/r.sock"]
)
def test_a_password_of_redis_is_shown_nowhere(url: str) -> None:
    found = load_gateway_settings(None, {"CROSSFADE_REDIS_URL": url}, {})
    assert found.redis_url.reveal() == url
    assert "hunter2" not in f"{found!r} {found} {found.redis_url} {found.redis_url!r} {found.model_dump()}"


@pytest.mark.parametrize(
    "url", ["redis://me:hunter2@a:bad/0", "http://me:hunter2@a", "redis://me:hunter2@a/0?password=hunter2"]
)
def test_a_wrong_url_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(None, {"CROSSFADE_REDIS_URL": url}, {})
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.problems!r}"


def test_an_override_that_is_no_setting_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="prot"):
        load_gateway_settings(None, {}, {"prot": 1})


def test_mcp_sides_are_stateless_unless_they_say_otherwise(tmp_path: Path) -> None:
    from gateway.settings import load_migration

    text = """\
migration: shop
mcp: {path: /mcp%s}
sides: {old: {instances: ["http://a:1"]}, new: {instances: ["http://b:1"]}}
operations: {read: {class: read, match: {mcp: read}, key: [[header:x-a]]}}
"""
    for more, stateless in (("", True), (", stateless: false", False)):
        file = file_with(tmp_path, text % more)
        assert load_migration(file).definition.mcp_stateless is stateless
