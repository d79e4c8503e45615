"""What HAProxy is started with: its own pages on loopback, its files below the home, whose sockets fit."""

import subprocess
from pathlib import Path

from actors import http_front
from configs.paths import LONGEST_HOME

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
    environment = http_front.prepare(home, [8404, 9101, 8500])
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
    environment = http_front.prepare(home, [8404, 9101, 8500])
    done = subprocess.run([environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-v"], capture_output=True, text=True)
    assert done.returncode != 0 and "HAProxy" not in done.stdout


def test_sockets_fit_the_longest_home_and_nobody_else_may_enter_their_folder(home):
    home.root.mkdir(parents=True, exist_ok=True)
    environment = http_front.prepare(home, [1, 2, 3])
    folder = home.root / "p"
    assert folder.stat().st_mode & 0o777 == 0o700
    paths = [value for key, value in environment.items() if key.endswith("SOCKET_PATH")]
    assert len(paths) == 2
    for path in paths:
        below = Path(path).relative_to(home.root)
        assert LONGEST_HOME + len(f"/{below.parent}/{NODE}/{below.name}") <= 97
