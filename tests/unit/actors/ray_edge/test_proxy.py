"""What HAProxy is started with: its own pages on loopback, its files below the home, whose sockets fit."""

import os
import re
import resource
import socket
import subprocess
import time
from pathlib import Path

import pytest

from actors.ray_edge import proxy
from configs.errors import ClusterError
from configs.paths import LONGEST_HOME, Home

NODE = "f" * 56  # a Ray node id in hexadecimal
CONFIG = """
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""


def test_haproxys_own_pages_listen_on_loopback_and_the_endpoint_where_it_was_told(home):
    home.root.mkdir(parents=True, exist_ok=True)
    environment = proxy.prepare(home, [8404, 9101, 8500])
    config = home.root / "p" / NODE / "haproxy.cfg"
    config.parent.mkdir()
    config.write_text(CONFIG)
    script = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    done = subprocess.run([script, "-c", "-f", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    binds = [line.strip() for line in config.read_text().splitlines() if "bind" in line]
    assert binds == ["bind 127.0.0.1:9101", "bind *:8000", "bind 127.0.0.1:8404"]
    after = config.read_text().partition("bind *:8000\n")[2].splitlines()
    rule = "http-request del-header x-request-id unless { req.fhdr(x-request-id) -m reg '^[!-~]{1,128}$' }"
    assert [line.strip() for line in after] == [rule, "listen stats", "bind 127.0.0.1:8404"]


def test_haproxy_does_not_start_if_its_pages_cannot_be_moved(home):
    home.root.mkdir(parents=True, exist_ok=True)
    environment = proxy.prepare(home, [8404, 9101, 8500])
    done = subprocess.run([environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-v"], capture_output=True, text=True)
    assert done.returncode != 0 and "HAProxy" not in done.stdout


def test_sockets_fit_the_longest_home_and_nobody_else_may_enter_their_folder(home):
    home.root.mkdir(parents=True, exist_ok=True)
    environment = proxy.prepare(home, [1, 2, 3])
    folder = home.root / "p"
    assert folder.stat().st_mode & 0o777 == 0o700
    paths = [value for key, value in environment.items() if key.endswith("SOCKET_PATH")]
    assert len(paths) == 2
    for path in paths:
        below = Path(path).relative_to(home.root)
        assert LONGEST_HOME + len(f"/{below.parent}/{NODE}/{below.name}") <= 97


@pytest.mark.parametrize("name", ["a space", "Jürgen", "a'b", 'a"b', "a\\b", "a#b", "a&b|c", "[a].*", "%d"])
def test_haproxy_starts_in_a_home_of_any_name(tmp_path, name):
    home = Home(Path("/tmp", f"td{os.getpid()}", name))
    home.root.mkdir(parents=True)
    try:
        environment = proxy.prepare(home, [8404, 9101, 8500])
        folder = home.front / NODE
        folder.mkdir()
        paths = {each: folder / each for each in ("a", "m", "500.http")}
        (folder / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\n\r\n")
        config = folder / "haproxy.cfg"
        config.write_text(
            f"global\n    log {paths['m']} len 8192 format rfc5424 local1 debug\n"
            f"    stats socket {paths['a']} mode 666 level admin expose-fd listeners\n"
            f"    server-state-base {home.front}\n    server-state-file {home.front}/state\n"
            f"{CONFIG}    errorfile 502 {paths['500.http']}\n".replace("bind *:8000", f"bind {folder}/http")
        )
        command = [environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
        with (folder / "a.1.1.stderr.log").open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 10
            while not paths["a"].is_socket() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert proxy.failure(home) == "" and process.poll() is None
            with socket.socket(socket.AF_UNIX) as admin:
                admin.connect(str(paths["a"]))
                admin.sendall(b"show info\n")
                assert admin.recv(100).startswith(b"Name: HAProxy")
        finally:
            process.kill()
            process.wait()
    finally:
        subprocess.run(["rm", "-rf", str(home.root.parent)], check=True)


def test_quoting_a_configuration_twice_changes_nothing_more(tmp_path):
    home = Home(tmp_path / "a b")
    home.root.mkdir()
    script = proxy.prepare(home, [8404, 9101, 8500])["RAY_SERVE_HAPROXY_BINARY_PATH"]
    config = home.front / NODE / "haproxy.cfg"
    config.parent.mkdir()
    config.write_text(f"global\n    server-state-base {home.front}/x\n{CONFIG}")
    for _ in range(2):
        assert subprocess.run([script, "-c", "-f", str(config)], capture_output=True).returncode == 0
        assert config.read_text().splitlines()[1] == f'    server-state-base "{home.front}/x"'


@pytest.mark.parametrize(
    ("files", "most"),
    [(resource.RLIM_INFINITY, 4096), (1_048_576, 4096), (10_440, 4096), (10_266, 4026), (4096, 1558), (1024, 329)],
)
def test_connections_are_as_many_as_open_files_allow(files, most):
    assert proxy.connections(files) == most


def test_too_few_open_files_are_said_in_words():
    with pytest.raises(ClusterError, match="a process may open 256 files here, and Ray needs 1024") as error:
        proxy.connections(256)
    assert "ulimit -Hn" in error.value.hint


@pytest.mark.parametrize("files", [1024, 4096])
def test_haproxy_starts_with_what_open_files_allow(home, files):
    home.root.mkdir(parents=True, exist_ok=True)
    script = proxy.prepare(home, [8404, 9101, 8500])["RAY_SERVE_HAPROXY_BINARY_PATH"]
    folder = home.front / NODE
    folder.mkdir()
    config = folder / "haproxy.cfg"
    splicing = "    option splice-request\n    option splice-response\n"
    text = CONFIG.replace("defaults\n", f"defaults\n{splicing}").replace("bind *:8000", f"bind {folder}/http")

    def start(most: int) -> subprocess.Popen:
        (folder / "a").unlink(missing_ok=True)
        config.write_text(f"global\n    maxconn {most}\n    stats socket {folder}/a\n{text}")
        limited = ["sh", "-c", f'ulimit -n {files}; exec "$0" "$@"', script, "-db", "-f", str(config)]
        return subprocess.Popen(limited, stdout=subprocess.DEVNULL, stderr=(folder / "a.1.1.stderr.log").open("w"))

    process = start(proxy.connections(files))
    deadline = time.monotonic() + 10
    while not (folder / "a").is_socket() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    alive, said = process.poll() is None, proxy.failure(home)
    process.kill()
    process.wait()
    assert (alive, said) == (True, "")
    assert start(proxy.MOST_CONNECTIONS).wait(10) != 0
    wanted = rf"Cannot raise FD limit to 10\d\d\d, limit is {files}\."  # some more on more cores
    assert re.fullmatch(wanted, proxy.failure(home))
