"""Settings: the last word wins, its origin is known, and nothing wrong becomes a default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import KEYS, load_settings, split_api, with_origins, write_initial_config
from node.errors import ConfigError
from node.home import Home

PEER = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGRUfZ4CvAvyo3q2Pw4HDq6yMdJgKFhnTTtCoAVeCZcBn"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_flags_win_over_the_environment_over_the_file_over_defaults(home: Home) -> None:
    home.config.write_text('capacity = 1\nlog_level = "debug"\nlog_format = "json"\n')
    environment = {
        "ROSEFOREST_CAPACITY": "2",
        "ROSEFOREST_LOG_FORMAT": "text",
        "HOME": "/",
        "ROSEFOREST_HOME": "/x",
    }
    settings = load_settings(home, {"capacity": 3, "api": None, "listen": ()}, environment)
    assert (settings.capacity, settings.log_format, settings.log_level) == (3, "text", "debug")
    shown = with_origins(settings)
    assert tuple(shown) == KEYS
    assert shown["capacity"] == {"value": 3, "origin": "flag --capacity"}
    assert shown["log_format"]["origin"] == "environment ROSEFOREST_LOG_FORMAT"
    assert shown["log_level"]["origin"] == f"file {home.config}"
    assert shown["api"]["origin"] == "default"


def test_lists_are_arrays_in_the_file_and_commas_in_the_environment(home: Home) -> None:
    home.config.write_text('listen = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"]\n')
    settings = load_settings(home, environment={"ROSEFOREST_BOOTSTRAP": f"{PEER}, {PEER}"})
    assert settings.listen == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    assert settings.bootstrap == (PEER, PEER)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("capacitty = 5", "capacitty"),
        ("capacity = -1", "capacity"),
        ("capacity = 1000001", "capacity"),
        ('capacity = "many"', "capacity"),
        ("capacity = nan", "capacity"),
        ('log_level = "loud"', "log_level"),
        ("listen = []", "listen"),
        ('listen = ["127.0.0.1:80"]', "listen"),
        ('listen = "/ip4/127.0.0.1/tcp/1"', "listen"),
        ('bootstrap = ["/ip4/127.0.0.1/tcp/4001"]', "bootstrap"),
        ('api = "8080"', "api"),
        ('api = "127.0.0.1:99999"', "api"),
        ("origins = {}", "origins"),
        ("[capacity]\nvalue = 5", "capacity"),
    ],
)
def test_a_bad_key_in_the_file_is_one_line_with_file_and_key(home: Home, text: str, key: str) -> None:
    home.config.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(home, environment={})
    message = str(caught.value)
    assert str(home.config) in message
    assert key in message
    assert "\n" not in message
    assert home.config.read_text() == text + "\n"


@pytest.mark.parametrize("content", [b"capacity = ", b"\xff\xfe", b"= 5", b"x" * 300_000])
def test_a_file_that_is_no_configuration_is_named_and_left_as_it_is(home: Home, content: bytes) -> None:
    home.config.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(home.config))):
        load_settings(home, environment={})
    assert home.config.read_bytes() == content


def test_bad_variables_and_flags_are_named_as_such(home: Home) -> None:
    with pytest.raises(ConfigError, match="environment: ROSEFOREST_CAPACITTY"):
        load_settings(home, environment={"ROSEFOREST_CAPACITTY": "5"})
    with pytest.raises(ConfigError, match="environment: ROSEFOREST_CAPACITY"):
        load_settings(home, environment={"ROSEFOREST_CAPACITY": "five"})
    with pytest.raises(ConfigError, match="command line: --log-level"):
        load_settings(home, {"log_level": "loud"}, {})


def test_the_first_configuration_reads_back_and_an_existing_one_stays(home: Home) -> None:
    write_initial_config(home, ("/ip4/127.0.0.1/tcp/7",), "127.0.0.1:8", (PEER,))
    settings = load_settings(home, environment={})
    assert (settings.listen, settings.api, settings.bootstrap) == (
        ("/ip4/127.0.0.1/tcp/7",),
        "127.0.0.1:8",
        (PEER,),
    )
    before = home.config.read_bytes()
    write_initial_config(home, ("/ip4/127.0.0.1/tcp/9",), "127.0.0.1:9", ())
    assert home.config.read_bytes() == before


@given(port=st.integers(0, 65_535), host=st.sampled_from(["127.0.0.1", "localhost", "0.0.0.0"]))
def test_host_and_port_read_back(host: str, port: int) -> None:
    assert split_api(f"{host}:{port}") == (host, port)
    assert split_api(f"[::1]:{port}") == ("::1", port)


@given(st.text(max_size=20))
def test_any_other_text_is_refused_or_is_host_and_port(text: str) -> None:
    try:
        host, port = split_api(text)
    except ValueError:
        return
    assert host
    assert 0 <= port <= 65_535
    assert text in (f"{host}:{text.rpartition(':')[2]}", f"[{host}]:{text.rpartition(':')[2]}")


def test_a_section_names_the_embedder_and_never_its_key(home: Home) -> None:
    home.config.write_text('[embedder]\nurl = "http://127.0.0.1:1/v1"\nbatch = 8\n')
    settings = load_settings(
        home, environment={"ROSEFOREST_EMBEDDER_MODEL": "m", "ROSEFOREST_EMBEDDER_KEY": "s"}
    )
    how = settings.embedder({"ROSEFOREST_EMBEDDER_KEY": "s"})
    assert (how.url, how.model, how.batch, how.key) == ("http://127.0.0.1:1/v1", "m", 8, "s")
    assert "'s'" not in repr(settings)
    for text, words in (
        ('[embedder]\nkey = "s"\n', "ROSEFOREST_EMBEDDER_KEY"),
        ('[embedder]\nspeed = "s"\n', "embedder_speed is not a setting"),
        ('embedder = "s"\n', "is a section"),
        ("[embedder]\nbatch = 0\n", "embedder_batch"),
    ):
        home.config.write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_settings(home, environment={})


def test_parts_of_the_log_are_named_with_their_levels(home: Home) -> None:
    settings = load_settings(home, environment={"ROSEFOREST_LOG_PARTS": "dht=debug, node.api=warning"})
    assert settings.log_parts == ("dht=debug", "node.api=warning")
    for wrong in ("dht", "dht=loud", "dth=debug", "=debug", "dht.=debug", "dht kademlia=debug"):
        with pytest.raises(ConfigError, match=r"--log-parts.*PART=LEVEL"):
            load_settings(home, {"log_parts": (wrong,)}, {})
