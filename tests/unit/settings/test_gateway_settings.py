"""Where a gateway's settings come from, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.core.model import Deadlines
from gateway.edge.limits import EdgeLimits
from gateway.edge.server import DrainSettings
from gateway.settings import GatewaySettings, SettingsError, load_gateway_settings, load_migration
from gateway.settings.gateway_file import DrainShape, EdgeShape, UpstreamShape
from gateway.upstream import UpstreamLimits


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


def test_the_bounds_that_can_be_set_are_those_of_the_parts_with_their_defaults() -> None:
    assert EdgeShape().model_dump() == asdict(EdgeLimits())
    assert UpstreamShape().model_dump() == asdict(UpstreamLimits())
    assert DrainShape().model_dump() == asdict(DrainSettings())
    assert GatewaySettings().default_deadlines == Deadlines()


@pytest.mark.parametrize(
    ("text", "line", "path", "says"),
    [
        ("control_host: 0.0.0.0", 1, "control_host", "tokens would travel in the clear"),
        ("control_host: control.test", 1, "control_host", "write 127.0.0.1 and put TLS in front"),
        ("port: 9000\ncontrol_port: 9000", 2, "control_port", "9000 is port as well; give each a port of its own"),
        ("control_port: 9000\nops_port: 9000", 2, "ops_port", "9000 is control_port as well"),
        ("ops_port: 8080", 1, "ops_port", "8080 is port as well"),
        ("upstream: {ejection: {max_s: 0.5}}", 1, "upstream.ejection.max_s", "is below base_s (1 s); write at least"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    tmp_path: Path, text: str, line: int, path: str, says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file_with(tmp_path, text), {}, {})
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (line, path)
    assert says in problem.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_control_may_listen_on_any_loopback_address(host: str) -> None:
    assert load_gateway_settings(None, {}, {"control_host": host}).control_host == host


def test_control_may_listen_beyond_loopback_for_who_says_so() -> None:
    assert load_gateway_settings(None, {"CROSSFADE_INSECURE_CONTROL": "true"}, {"control_host": "0.0.0.0"})


def test_several_listeners_may_ask_for_any_free_port() -> None:
    found = load_gateway_settings(None, {}, {"port": 0, "control_port": 0, "ops_port": 0})
    assert (found.port, found.control_port, found.ops_port) == (0, 0, 0)


def test_a_conflict_is_blamed_on_the_source_that_made_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file_with(tmp_path, "port: 9000"), {}, {"ops_port": 9000})
    assert [(p.file, p.path) for p in caught.value.problems] == [("command line", "ops_port")]
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(None, {"CROSSFADE_OPS_PORT": "8080"}, {})
    assert [(p.file, p.path) for p in caught.value.problems] == [("environment", "CROSSFADE_OPS_PORT")]


def test_a_fault_of_the_command_line_names_the_setting() -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(None, {}, {"workers": 0})
    assert [(p.file, p.path) for p in caught.value.problems] == [("command line", "workers")]


def test_faults_of_all_sources_are_told_at_once(tmp_path: Path) -> None:
    file = file_with(tmp_path, "prot: 1\nhost: 'not a host'\nedge: {in_flight: 0}\n")
    env = {"CROSSFADE_WORKERS": "0", "CROSSFADE_LOG__LEVEL": "loud", "CROSSFADE_NONE": "x"}
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file, env, {"port": 70_000})
    assert {(p.line, p.path) for p in caught.value.problems} == {
        (1, "prot"),
        (2, "host"),
        (3, "edge.in_flight"),
        (0, "CROSSFADE_WORKERS"),
        (0, "CROSSFADE_LOG__LEVEL"),
        (0, "CROSSFADE_NONE"),
        (0, "port"),
    }


def test_a_variable_is_read_as_the_file_would_be() -> None:
    env = {
        "CROSSFADE_HOST": "::1",
        "CROSSFADE_DATA_DIR": "010",
        "CROSSFADE_DEADLINES__TOTAL_S": "null",
        "CROSSFADE_DEADLINES__FIRST_BYTE_S": " 1.5 ",
        "CROSSFADE_RESPONSE_HEADERS__SIDE": "false",
        "CROSSFADE_UPSTREAM__EJECTION__AFTER_FAILURES": "9",
        "CROSSFADE_LOG__FORMAT": "console",
    }
    found = load_gateway_settings(None, env, {})
    assert (found.host, found.data_dir) == ("::1", Path("010"))
    assert (found.deadlines.total_s, found.deadlines.first_byte_s) == (None, 1.5)
    assert (found.response_headers.side, found.upstream.ejection.after_failures) == (False, 9)
    assert found.log.format == "console"


@pytest.mark.parametrize("value", ["0800", "1e", "yes", "8080x"])
def test_a_number_that_is_none_is_no_port(value: str) -> None:
    with pytest.raises(SettingsError, match="environment: CROSSFADE_PORT: "):
        load_gateway_settings(None, {"CROSSFADE_PORT": value}, {})


def test_a_variable_may_go_into_a_part_that_the_file_wrote_wrong(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file_with(tmp_path, "edge: 5"), {"CROSSFADE_EDGE__IN_FLIGHT": "7"}, {})
    assert [(p.line, p.path) for p in caught.value.problems] == [(1, "edge")]


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_gateway_settings(file_with(tmp_path, "redis_url: [redis://:hunter2@a]"), {}, {})
    assert "hunter2" not in f"{caught.value} {caught.value.problems!r}"


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_gateway_settings(file_with(tmp_path, "# nothing\n"), {}, {}) == GatewaySettings()


def test_mcp_sides_are_stateless_unless_they_say_otherwise(tmp_path: Path) -> None:
    text = """\
migration: shop
mcp: {path: /mcp%s}
sides: {old: {instances: ["http://a:1"]}, new: {instances: ["http://b:1"]}}
operations: {read: {class: read, match: {mcp: read}, key: [[header:x-a]]}}
"""
    for more, stateless in (("", True), (", stateless: false", False)):
        file = file_with(tmp_path, text % more)
        assert load_migration(file).definition.mcp_stateless is stateless
