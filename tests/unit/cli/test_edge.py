"""The command line's edge: help is instant, and whatever goes wrong is one line and an exit code."""

import ast
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import termios

import click
import pytest

from cli import edge, main, output
from cli.printable import folded
from configs.errors import ClusterError, ConfigError, DataError, TandemError
from configs.paths import SOURCE

TANDEM = [sys.executable, "-c", "from cli.main import main; main()"]


def run(*arguments: str, timeout: float = 60, **how) -> subprocess.CompletedProcess:
    """The command as its own process."""
    options = {"capture_output": True, "text": True, "cwd": SOURCE, "timeout": timeout} | how
    return subprocess.run([*TANDEM, *arguments], check=False, **options)


def one_error_line(done: subprocess.CompletedProcess, code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


# Cheap stays cheap


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh process after `code`."""
    program = f"{code}\nimport sys; print({{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.strip().splitlines()[-1])


HEAVY = {"torch", "ray", "transformers", "trl", "peft", "datasets", "numpy", "fastapi", "openai", "safetensors"}


def test_configs_loads_neither_torch_nor_ray():
    code = "from configs import load, paths, schema, errors; load.load_run('tiny'); load.load_cluster()"
    assert loaded_after(code) & HEAVY == set()


def test_help_loads_almost_nothing():
    code = "import sys; sys.argv = ['tandem', '--help']\nfrom cli.main import tandem\ntandem(standalone_mode=False)"
    assert loaded_after(code) & (HEAVY | {"pydantic", "rich", "httpx", "psutil", "yaml"}) == set()


def test_no_command_loads_anything_heavy_before_it_runs():
    modules = sorted({module for module, _ in main.COMMANDS.values()})
    assert loaded_after(f"import {', '.join(modules)}") & HEAVY == set()


def test_help_is_instant_because_it_imports_few_modules():
    """59 with click 8.5, of a Python that has imported only what it starts with."""
    program = "import sys; before = set(sys.modules); sys.argv = ['tandem', '--help']\n"
    program += "from cli.main import tandem; tandem(standalone_mode=False); print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 100


def test_help_names_every_command_with_a_line():
    done = run("--help")
    for name, (_, text) in main.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert text.split()[0] in done.stdout
    assert done.stderr == ""


def test_the_installed_command_is_the_same():
    installed = SOURCE / ".venv" / "bin" / "tandem"
    if not installed.exists():
        installed = SOURCE.joinpath(sys.executable).parent / "tandem"
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tandem ")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_what_its_name_says_and_has_help(name):
    command = main.tandem.get_command(click.Context(main.tandem), name)
    assert command.name.replace("_", "-") == name
    assert len(command.help) > 20
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"--{parameter.name} of {name} says nothing"


# Errors


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["nosuch"], "No such command 'nosuch'", 2),
        (["upp"], "No such command 'upp'. Did you mean 'up'?", 2),
        (["stats"], "No such command 'stats'. Did you mean 'status'?", 2),
        (["--nope"], "--nope", 2),
        (["runs", "list", "--limit", "many"], "'many' is not a valid", 2),
        (["runs", "list", "--limit", "0"], "0 is not in the range", 2),
        (["runs", "show"], "Missing argument 'RUN'", 2),
        (["train", "--max-steps", "0"], "0 is not in the range", 2),
        (["train", "--priority", "high"], "'high' is not a valid integer", 2),
        (["metrics", "--port", "abc"], "'abc' is not a valid integer. ->", 2),
        (["metrics", "--port", "99999"], "99999 is not in the range", 2),
        (["ask"], "Missing argument 'QUESTION'", 2),
    ],
)
def test_a_wrong_command_is_one_line_that_points_to_help(arguments, words, code, invoke):
    done = invoke(*arguments)
    line = done.one_error_line(code)
    assert words in line
    assert "--help`" in line


@pytest.mark.parametrize("group", [[], ["runs"], ["adapters"]])
def test_a_group_without_a_command_shows_its_help_and_no_error(group, invoke):
    done = invoke(*group)
    assert done.code in (0, 2)
    assert (done.out + done.err).startswith("Usage: ")
    assert "error:" not in done.err


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ClusterError("it is down", hint="start it"), "error: it is down -> start it", 1),
        (ConfigError("bad key"), "error: bad key", 2),
        (DataError("bad row", hint="fix it"), "error: bad row -> fix it", 2),
        (TandemError("no"), "error: no", 1),
    ],
)
def test_an_error_is_one_line_with_the_next_step_and_its_code(error, line, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    with pytest.raises(SystemExit) as caught:
        edge.run(failing(error))
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.strip().splitlines()) == (code, "", [line])


def test_an_error_whose_text_has_several_lines_is_still_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    with pytest.raises(SystemExit):
        edge.run(failing(ClusterError("first\n  second\nthird", hint="do\nthis")))
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_servers_words_cannot_speak_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    evil = "\x1b[2J\x1b]0;owned\x07 [/b]"
    for error in (ClusterError(evil, hint=evil), ZeroDivisionError(evil)):
        with pytest.raises(SystemExit):
            edge.run(failing(error))
    output.say(evil)
    output.print_table(("A", "B"), [(evil, output.state("FAILED", evil))], empty="", title=evil)
    output.print_table(("A",), [], empty=evil)
    shown = "".join(capsys.readouterr())
    assert shown.count("\u241b[2J\u241b]0;owned\u2407 [/b]") == 8
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_bug_is_one_line_and_its_traceback_is_kept(home, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem", "break"])
    monkeypatch.setattr(click.Command, "main", lambda self, **how: self.callback())
    with pytest.raises(SystemExit) as caught:
        edge.run(failing(ZeroDivisionError("first line\nsecond line")))
    assert caught.value.code == 1
    log = home.logs / "cli.log"
    assert capsys.readouterr().err == f"error: unexpected ZeroDivisionError: first line -> details in {log}\n"
    assert "Traceback (most recent call last)" in log.read_text()
    assert log.read_text().startswith("tandem break\n")


def test_a_bugs_traceback_is_kept_without_the_notifications_secrets(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tandem", "up", "--set", "notify.urls=[json://hunter2]", "--set", "http_port=1"])
    monkeypatch.setattr(click.Command, "main", lambda self, **how: self.callback())
    with pytest.raises(SystemExit):
        edge.run(failing(ZeroDivisionError("oops")))
    kept = (home.logs / "cli.log").read_text()
    assert kept.startswith("tandem up --set notify.urls=... --set http_port=1\n")
    assert "hunter2" not in kept


def test_a_bug_is_one_line_even_where_nothing_can_be_kept(monkeypatch, capsys):
    monkeypatch.setenv("TANDEM_HOME", "/proc/nowhere")
    monkeypatch.setattr(click.Command, "main", lambda self, **how: self.callback())
    with pytest.raises(SystemExit):
        edge.run(failing(ZeroDivisionError("oops")))
    assert capsys.readouterr().err == "error: unexpected ZeroDivisionError: oops\n"


def test_ctrl_c_says_interrupted_and_exits_with_130(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    with pytest.raises(SystemExit) as caught:
        edge.run(failing(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_command_that_ended_its_work_when_it_was_interrupted_says_so_in_the_same_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    with pytest.raises(SystemExit) as caught:
        edge.run(failing(click.exceptions.Abort("ended what was started")))
    assert (caught.value.code, capsys.readouterr().err) == (130, "interrupted: ended what was started\n")


# How it is laid out


def test_side_talk_breaks_at_words_and_never_inside_a_command():
    left = "no longer following; the run goes on -> tandem runs logs -f tiny-1234, tandem runs stop tiny-1234"
    assert folded(left, 60).split("\n") == [
        "no longer following; the run goes on ->",
        "tandem runs logs -f tiny-1234, tandem runs stop tiny-1234",
    ]
    assert folded("error: it is down -> `tandem up --port 9000` starts it", 20).split("\n") == [
        "error: it is down ->",
        "`tandem up --port 9000`",
        "starts it",
    ]
    assert folded("first\n\n  second", 80) == "first\n\n  second"


def test_side_talk_in_a_pipe_is_not_broken(capsys):
    output.say("word " * 100 + "end")
    assert capsys.readouterr().err == "word " * 100 + "end\n"


def test_a_terminals_width_is_where_side_talk_breaks(home):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with subprocess.Popen([*TANDEM, "train", "--set", "nonsense=1"], cwd=SOURCE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal ends with its last process
            while piece := os.read(ours, 1024):
                shown += piece
    os.close(ours)
    assert process.returncode == 2
    lines = shown.decode().split("\r\n")
    assert len(lines) > 2 and lines[0].startswith("error: ")
    assert max(map(len, lines)) <= 40


def test_a_table_in_a_pipe_has_no_blanks_at_a_lines_end_and_breaks_no_row(capsys):
    output.print_table(("A", "B"), [("1", "short"), ("2", "long " * 100 + "end")], empty="", title="What it is")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["What it is", "A  B", "1  short", "2  " + "long " * 100 + "end"]


def test_a_reader_that_closes_the_pipe_early_causes_no_noise(home):
    read, write = os.pipe()
    os.close(read)
    done = run("runs", "list", "--json", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr == ""


def test_a_home_that_is_too_long_is_one_line(home):
    environment = os.environ | {"TANDEM_HOME": "/tmp/" + "x" * 80}
    assert "85 bytes long" in one_error_line(run("status", env=environment), 2)


def test_a_home_that_cannot_be_written_is_one_line(home):
    (home.root / "file").write_text("")
    environment = os.environ | {"TANDEM_HOME": str(home.root / "file")}
    for command in (["status"], ["runs", "list"], ["adapters", "list"], ["down"]):
        done = run(*command, env=environment)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2, done.stderr


def test_a_port_in_use_is_named_before_anything_is_started(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = one_error_line(run("up", "--port", str(port)), 1)
    assert f"http_port {port} is in use" in line
    assert f"(pid {os.getpid()})" in line
    assert not home.cluster.exists()
    assert not home.ray.exists()


def test_the_exporters_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in one_error_line(run("metrics", "--port", str(port)), 1)


def test_a_port_that_only_root_may_have_is_not_called_in_use(monkeypatch, home):
    from cli.machine.metrics_server import Exporter

    def refuse(self) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Exporter, "server_bind", refuse)
    with pytest.raises(ClusterError, match="port 80 needs root"):
        Exporter(home, 80)


def test_results_go_to_stdout_and_talk_to_stderr(home):
    done = run("runs", "list", "--json")
    assert (json.loads(done.stdout), done.stderr, done.returncode) == ([], "", 0)
    done = run("runs", "list")
    assert (done.stdout, done.stderr) == ("", "no runs yet -> tandem train\n")


# The disk


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device -> free some space"),
        (OSError(30, "Read-only file system", "/h/x"), "/h/x: Read-only file system -> its disk is mounted read-only"),
        (
            PermissionError(13, "Permission denied", "/h/x"),
            "/h/x: Permission denied -> it is not yours to read or write",
        ),
        (
            RuntimeError("I/O error: No space left on device"),
            "No space left on device -> free some space",
        ),
    ],
)
def test_what_the_disk_refuses_is_said_in_words_and_is_not_unexpected(raised, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tandem"])
    with pytest.raises(SystemExit) as ended:
        edge.run(failing(raised))
    assert ended.value.code == 1
    assert " ".join(capsys.readouterr().err.split()).startswith(f"error: {line}")
