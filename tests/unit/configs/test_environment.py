"""What of people's environment we keep, and what our processes are started with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import environment
from configs.errors import ConfigError
from configs.paths import SOURCE


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        ("", ""),
        ("corp.example, .intern ,10.0.0.0/8", ",corp.example,.intern,10.0.0.0/8"),
        ("[::1],fd00::/8,[fd00::]/8,host:8080", ",host:8080"),
        ("[fd00::5]:8000,fe80::1%eth0,bücher.de,host:port,<local>", ",fd00::5"),
        ("localhost,127.0.0.1", ""),
    ],
)
def test_no_proxy_begins_with_loopback_and_holds_only_what_every_client_reads(theirs, kept):
    environ = {"no_proxy": theirs}
    environment.tidy(environ)
    assert environ["no_proxy"] == environ["NO_PROXY"] == f"localhost,127.0.0.1,::1{kept}"


def test_a_star_in_no_proxy_alone_stays_alone_because_python_knows_it_only_so():
    environ = {"NO_PROXY": "*"}
    environment.tidy(environ)
    assert environ["no_proxy"] == environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("module", ["httpx", "httpx2"])
def test_clients_can_be_made_with_what_is_kept(module, monkeypatch):
    environ = {
        "NO_PROXY": "[::1],fd00::/8,bücher.de,host:port,::1,10.0.0.0/8,*.a.b",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    environment.tidy(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.importorskip(module).Client():
        pass


def test_certificates_that_are_none_are_not_named_and_real_ones_are(tmp_path):
    bundle, empty = tmp_path / "bundle.pem", tmp_path / "empty.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    empty.write_text("")
    environ = {"SSL_CERT_FILE": "/nonexistent", "REQUESTS_CA_BUNDLE": str(bundle), "CURL_CA_BUNDLE": str(empty)}
    environment.tidy(environ | {"SSL_CERT_DIR": "/nonexistent"})
    kept = environ | {"SSL_CERT_DIR": "/nonexistent"}
    environment.tidy(kept)
    assert {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"}.isdisjoint(kept)
    assert kept["REQUESTS_CA_BUNDLE"] == str(bundle)


def test_a_user_whom_the_system_does_not_know_gets_a_name_and_a_home(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    environ = {"TANDEM_HOME": "/tmp/td"}
    environment.tidy(environ)
    assert environ["LOGNAME"] == "987654" and environ["HOME"] == "/tmp/td"
    known = {"TANDEM_HOME": "/tmp/td", "HOME": "/home/me", "USER": "me"}
    environment.tidy(known)
    assert known["HOME"] == "/home/me" and "LOGNAME" not in known


def test_children_get_what_is_listed_and_this_checkout_before_other_packages():
    theirs = {
        "PATH": "/bin", "HF_HOME": "/hf", "CUDA_VISIBLE_DEVICES": "1", "TANDEM_HOME": "/tmp/td", "OMP_NUM_THREADS": "2",
        "https_proxy": "http://proxy:3128", "PYTHONPATH": f"/mine{os.pathsep}{SOURCE}", "MY_SECRET": "x", "OTHER": "y",
        "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "RAY_ADDRESS": "10.0.0.1:6379", "PYTHONHOME": "/usr",
    }  # fmt: skip
    given = environment.for_children(theirs, ("MY_SECRET", "PYTHONOPTIMIZE"))
    no_proxy = dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1")
    assert given == no_proxy | {
        "PATH": "/bin", "HF_HOME": "/hf", "CUDA_VISIBLE_DEVICES": "1", "TANDEM_HOME": "/tmp/td", "OMP_NUM_THREADS": "2",
        "https_proxy": "http://proxy:3128", "PYTHONPATH": f"{SOURCE}{os.pathsep}/mine", "MY_SECRET": "x",
    }  # fmt: skip


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:1080/", "socks4://h:1", "ftp://h:1"])
def test_a_proxy_of_an_unknown_kind_is_named(proxy):
    with pytest.raises(ConfigError, match=r"ALL_PROXY names a proxy of the kind (socks|socks4|ftp)://"):
        environment.check_proxies({"ALL_PROXY": proxy})


@pytest.mark.parametrize("proxy", ["", "proxy:3128", "http://proxy:3128", "SOCKS5h://127.0.0.1:1080"])
def test_proxies_of_known_kinds_pass(proxy):
    environment.check_proxies({"ALL_PROXY": proxy})


PROGRAM = "from cli.main import main; main()"


def _tandem(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    surroundings = {"PATH": os.environ["PATH"], "TANDEM_HOME": os.environ["TANDEM_HOME"]} | variables
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=SOURCE, env=surroundings, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONOPTIMIZE", "2"), ("PYTHONWARNINGS", "error"), ("PYTHONINSPECT", "1"), ("PYTHONDEVMODE", "1")],
)
def test_the_command_runs_without_pythons_own_variables_that_break_it(name, value):
    done = _tandem("notify", "test", "--help", **{name: value})
    assert (done.returncode, done.stderr) == (0, "")
    assert "Send a test message to every target, once." in done.stdout  # -OO would have taken the docstring


def test_the_checkouts_packages_come_before_others_of_their_names(tmp_path):
    for name in ("actors", "cli", "configs", "jobs", "models", "serve"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    start = "import tandem_start; tandem_start.main()"
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", start, "train", "--help"], env=surroundings, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installed_command_begins_where_the_order_of_packages_is_mended():
    scripts = (SOURCE / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    assert scripts.strip().splitlines()[0] == 'tandem = "tandem_start:main"'
    assert Path(SOURCE, "tandem_start.py").is_file()


def test_the_documentation_lists_everything_that_is_passed_on():
    page = (SOURCE / "docs" / "operations.md").read_text()
    section = page.partition("**What the cluster's processes get.**")[2].partition("\n## ")[0]
    names = {name for name in environment.PASSED_ON if name not in (each.upper() for each in environment.PROXIES)}
    shown = {*names - {"NO_PROXY"}, *(f"{prefix}*" for prefix in environment.PASSED_ON_PREFIXES)}
    assert {name for name in shown if f"`{name}`" not in section} == set()
