"""`tandem notify test`: every target is tried once and its result shown, without secrets."""

import json
import sys

SECRET = "hunter2hunter2"


def config(tmp_path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(f"notify:\n  {text}\n")
    return str(path)


def test_each_target_has_its_result_and_one_that_fails_is_exit_code_1(tmp_path, invoke):
    out = tmp_path / "out"
    source = f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())"
    urls = f"urls: ['json://me:{SECRET}@127.0.0.1:1/{SECRET}']"
    path = config(tmp_path, f"{urls}\n  command: {json.dumps([sys.executable, '-S', '-c', source])}")
    done = invoke("notify", "test", "--config", path, "--json")
    service, command = json.loads(done.out)
    assert done.code == 1
    assert (service["target"], service["sent"]) == ("url 1 (json)", False)
    assert service["error"] == "nobody listens there: the connection was refused"
    assert (command["sent"], command["error"]) == (True, None)
    notice = json.loads(out.read_text())
    assert (notice["kind"], notice["text"]) == ("test", "Notifications reach you.")
    shown = invoke("notify", "test", "--config", path)
    assert SECRET not in "".join([done.out, done.err, shown.out, shown.err])


def test_a_program_alone_that_works_is_exit_code_0(tmp_path, invoke):
    done = invoke("notify", "test", "--config", config(tmp_path, "command: ['true']"))
    assert (done.code, done.out.splitlines()[1].split()) == (0, ["command", "(true)", "sent"])


def test_with_nobody_to_tell_it_says_which_settings_are_missing(tmp_path, invoke):
    assert "notify.urls and notify.command are empty" in invoke("notify", "test").one_error_line(2)


def test_a_wrong_setting_is_named_without_its_value(tmp_path, invoke):
    for text in (f"urls: 'json://{SECRET}'", f"urls: [{{a: json://{SECRET}}}]", f"urls: [[{SECRET}]]"):
        line = invoke("notify", "test", "--config", config(tmp_path, text)).one_error_line(2)
        assert "'notify.urls" in line and SECRET not in line
