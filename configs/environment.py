"""The environment that people bring: what of it this process keeps (`tidy`) and what its children get (`for_children`).

Loopback is never behind a proxy. What is elsewhere (the hub, notifications, `--url https://...`) is reached as the
environment says. Called by `cli.main` and by whoever starts a process.
"""

import contextlib
import ipaddress
import os
import pwd
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

from configs import paths
from configs.errors import ConfigError

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "CC", "CXX"),  # Triton compiles with them
    *("VIRTUAL_ENV", "CONDA_PREFIX", "MPLCONFIGDIR", "TOKENIZERS_PARALLELISM", "GLIBC_TUNABLES"),
    *("DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS"),  # notifications on a desktop
    *PROXIES,
    *(name.upper() for name in PROXIES),
    *("no_proxy", "NO_PROXY", *CERTIFICATES, "SSL_CERT_DIR"),
)
"""Variables that a process of ours gets from whoever starts it, besides those that begin with PASSED_ON_PREFIXES."""

PASSED_ON_PREFIXES = (
    *("TANDEM_", "LC_", "XDG_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "DATASETS_", "ACCELERATE_"),
    *("WANDB_", "MLFLOW_", "AWS_"),  # where curves go, and MLflow's files
    *("UNSLOTH_", "BNB_", "BITSANDBYTES_", "SAFETENSORS_", "TORCH", "PYTORCH_", "INDUCTOR_", "TRITON_"),
    *("CUDA", "CUBLAS", "CUDNN", "NCCL_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ROCM_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ONEDNN_", "DNNL_", "MALLOC_"),
)

BREAKING = tuple(
    f"PYTHON{name}"
    for name in ("OPTIMIZE", "WARNINGS", "DEVMODE", "INSPECT", "STARTUP", "SAFEPATH", "TRACEMALLOC", "MALLOC", "DEBUG")
)
"""Python's own variables under which Ray, Transformers or Gradio do not work; no process of ours runs with them."""


def begin_anew_without_breaking() -> None:
    """Start this process's program over without the variables in BREAKING, if any is set; nothing is lost by it."""
    if breaking := [name for name in BREAKING if os.environ.get(name)]:
        kept = {name: value for name, value in os.environ.items() if name not in breaking}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)


def tidy(environ: MutableMapping[str, str]) -> None:
    """Change `environ` so that no library stumbles over it.

    NO_PROXY begins with loopback and holds only what every client can read, files of certificates that are none are
    not named, and a user whom the system does not know has a name and, with TANDEM_HOME set, a home.
    """
    environ.update(past_proxies(environ))
    for name in CERTIFICATES:
        if name in environ and not _holds_certificates(Path(environ[name])):
            del environ[name]
    if "SSL_CERT_DIR" in environ and not Path(environ["SSL_CERT_DIR"]).is_dir():
        del environ["SSL_CERT_DIR"]
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not environ.get("LOGNAME") and not environ.get("USER"):
            environ["LOGNAME"] = str(os.getuid())
        if not environ.get("HOME") and environ.get("TANDEM_HOME"):
            environ["HOME"] = environ["TANDEM_HOME"]


def for_children(environ: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """What a process of ours is started with: PASSED_ON and `also` of `environ`, tidy, and this checkout's packages
    before everything on the caller's PYTHONPATH."""
    names = {*PASSED_ON, *also} - set(BREAKING)
    kept = {name: value for name, value in environ.items() if name in names or name.startswith(PASSED_ON_PREFIXES)}
    tidy(kept)
    ours = str(paths.SOURCE)
    theirs = [each for each in environ.get("PYTHONPATH", "").split(os.pathsep) if each not in ("", ours)]
    kept["PYTHONPATH"] = os.pathsep.join([ours, *theirs])
    return kept


def past_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """What keeps every client, Ray's own too, from asking a proxy for something on loopback."""
    no_proxy = _readable(environ.get("no_proxy") or environ.get("NO_PROXY") or "")
    return {"no_proxy": no_proxy, "NO_PROXY": no_proxy}


def check_proxies(environ: Mapping[str, str]) -> None:
    """Raises ConfigError naming a proxy variable through which nothing can be reached."""
    for name in (*PROXIES, *(name.upper() for name in PROXIES)):
        scheme, mark, _ = environ.get(name, "").partition("://")
        if mark and scheme.lower() not in PROXY_SCHEMES:
            raise ConfigError(
                f"{name} names a proxy of the kind {scheme}://, which cannot be used",
                hint=f"one of {', '.join(f'{known}://' for known in PROXY_SCHEMES)}, or unset it",
            )


def _readable(no_proxy: str) -> str:
    """`no_proxy` with loopback first, without entries at which a client would fail (httpx 0.28 raises for IPv6
    networks and brackets). `*` alone stays as it is."""
    if no_proxy.strip() == "*":
        return "*"
    entries = [*LOOPBACK_HOSTS]
    for entry in re.split(r"[\s,;]+", no_proxy):
        entry = re.sub(r"^\[([^]]*)\](:\d+)?$", r"\1", entry)
        if entry and entry not in entries and _is_readable(entry):
            entries.append(entry)
    return ",".join(entries)


def _is_readable(entry: str) -> bool:
    if re.fullmatch(r"[*.]{0,2}[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:\d{1,5}|/\d{1,2})?", entry):
        return True
    with contextlib.suppress(ValueError):
        return "%" not in entry and bool(ipaddress.IPv6Address(entry))
    return False


def _holds_certificates(file: Path) -> bool:
    try:
        return file.is_dir() or b"-----BEGIN" in file.read_bytes()
    except OSError:
        return False
