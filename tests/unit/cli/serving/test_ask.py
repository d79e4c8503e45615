"""`tandem ask`, `tandem chat` before it begins, and `tandem debug channels`, against a gateway that recites."""

import json
import os
import re
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cli.serving.debug import generated_tokens, prompt_tokens
from configs.paths import Home
from models import harmony
from tests.gateway_server import HELLO, TOKENIZER, Server, tokens


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Server]:
    with Server(Home(tmp_path_factory.mktemp("ask"))) as server:
        yield server


@pytest.fixture
def server(shared, monkeypatch) -> Server:
    shared.engine.script = tokens(HELLO)
    shared.engine.requests.clear()
    shared.remote.dies_after = None
    monkeypatch.setattr("actors.cluster.require", lambda home: SimpleNamespace(http=shared.url))
    return shared


@pytest.fixture
def piped(monkeypatch):
    """Put these bytes into a pipe on stdin."""

    def give(content: bytes) -> None:
        read, write = os.pipe()
        threading.Thread(target=lambda: (os.write(write, content), os.close(write)), daemon=True).start()
        monkeypatch.setattr("sys.stdin", os.fdopen(read))

    return give


def asked(server: Server) -> str:
    return TOKENIZER.decode(server.engine.requests[-1].prompt_ids)


def test_the_answer_is_all_of_stdout(server, invoke):
    done = invoke("ask", "Hi")
    assert (done.code, done.out, done.err) == (0, "Hello there.\n", "")
    assert server.engine.requests[-1].sampling.temperature == 0


def test_thinking_goes_to_stderr_when_asked_for(server, invoke):
    done = invoke("ask", "Hi", "--show-thinking")
    assert (done.out, done.err) == ("Hello there.\n", "Greet them.\n")


def test_json_has_the_answer_and_what_it_cost(server, invoke):
    found = json.loads(invoke("ask", "Hi", "--json", "--model", "base").out)
    assert (found["answer"], found["thinking"], found["finish_reason"]) == ("Hello there.", "Greet them.", "stop")
    assert (found["model"], found["version"], found["completion_tokens"]) == ("base", "base", len(tokens(HELLO)))


def test_options_reach_the_model(server, invoke):
    invoke(
        "ask",
        "Hi",
        "--high",
        "--system",
        "Be brief.",
        "--temperature",
        "0.5",
        "--max-tokens",
        "9",
        "--url",
        f"{server.url}/v1",
    )
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens) == (0.5, 9)
    assert "Reasoning: high" in asked(server)
    assert "Be brief." in asked(server)
    invoke("ask", "Hi", "--reasoning", "low")
    assert "Reasoning: low" in asked(server)


def test_piped_text_is_the_question(server, invoke, piped):
    piped(b"What is \xff this?\n")
    assert invoke("ask").out == "Hello there.\n"
    assert "<|message|>What is \ufffd this?<|end|>" in asked(server)


def test_piped_text_follows_the_question(server, invoke, piped):
    piped(b"one\ntwo\n")
    invoke("ask", "Sum up:")
    assert "<|message|>Sum up:\n\none\ntwo<|end|>" in asked(server)


def test_an_empty_pipe_without_a_question_is_a_wrong_command(server, invoke, piped):
    piped(b" \n")
    assert "Missing argument 'QUESTION'" in invoke("ask").one_error_line(2)
    assert "the question is empty" in invoke("ask", " ").one_error_line(2)


def test_a_cut_answer_is_said_on_stderr(server, invoke):
    done = invoke("ask", "Hi", "--max-tokens", str(len(tokens(HELLO)) - 2))
    assert (done.code, done.out) == (0, "Hello there\n")
    assert done.err == "(cut: the token limit was reached)\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_empty_answer_is_a_failure_that_says_what_helps(form, server, invoke):
    done = invoke("ask", "Hi", "--max-tokens", "8", *form)
    assert done.code == 1
    said = "the answer is empty: the token limit was reached -> a higher --max-tokens, or --low, leaves room"
    assert done.err == f"error: {said}\n"
    assert json.loads(done.out)["answer"] == "" if form else done.out == ""
    server.engine.script = tokens("<|channel|>analysis<|message|>Hm.<|return|>")
    assert (
        invoke("ask", "Hi", *form).err == "error: the answer is empty -> --show-thinking shows what the model thought\n"
    )


def test_another_endpoint_is_asked_for_the_first_model_that_it_has_where_it_has_no_prod(server, invoke, monkeypatch):
    found = json.loads(invoke("ask", "Hi", "--json", "--url", f"{server.url}/v1").out)
    assert found["model"] == "prod"
    monkeypatch.setattr("cli.chat.options.MODEL", "another")
    found = json.loads(invoke("ask", "Hi", "--json", "--url", f"{server.url}/v1").out)
    assert found["model"] == "tiny"


def test_an_answer_that_breaks_off_keeps_what_came_and_fails(server, invoke):
    server.remote.dies_after = len(tokens(HELLO)) - 3
    done = invoke("ask", "Hi")
    assert done.code == 1
    assert "Hello there.\n".startswith(done.out.rstrip())
    assert done.out
    assert "died while answering" in done.err


def test_escape_sequences_of_an_answer_do_not_reach_the_terminal(server, invoke):
    server.engine.script = tokens("<|channel|>final<|message|>\x1b[2Jgone<|return|>")
    assert invoke("ask", "Hi").out == "\u241b[2Jgone\n"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--model", "nobody"], "the model 'nobody' does not exist", 1),
        (["--url", "127.0.0.1:9"], "--url '127.0.0.1:9' is not an address", 2),
        (["--url", "http://127.0.0.1:9/v1"], "no answer from http://127.0.0.1:9/v1", 1),
        (["--temperature", "3"], "3.0 is not in the range", 2),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, words, code, server, invoke):
    assert words in invoke("ask", "Hi", *arguments).one_error_line(code)


# Before a chat begins


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--continue"], "no conversation in ", 1),
        (["--load", "capitals"], "no conversation 'capitals'", 1),
        (["--continue", "--load", "capitals"], "--continue and --load exclude each other", 2),
        (["--url", "http://127.0.0.1:9/v1"], "no answer from http://127.0.0.1:9/v1", 1),
    ],
)
def test_a_chat_that_cannot_begin_is_one_line(arguments, words, code, server, invoke, piped):
    piped(b"")
    assert words in invoke("chat", *arguments).one_error_line(code)


def test_a_chat_with_a_model_that_is_not_there_says_so_at_its_start(server, invoke, piped):
    piped(b"")
    done = invoke("chat", "--model", "nobody")
    first, second = done.err.splitlines()
    assert first.startswith("nobody at http")
    assert second == "error: no model 'nobody' -> models: tiny, base, prod"
    piped(b"")
    assert len(invoke("chat").err.splitlines()) == 1


def test_a_broken_file_to_go_on_with_is_one_line(server, invoke, home, piped):
    piped(b"")
    home.conversations.mkdir()
    (home.conversations / "bad.json").write_text("{")
    assert "bad.json is not a saved conversation" in invoke("chat", "--load", "bad").one_error_line(2)


# Channels


def test_channels_show_every_token_that_the_model_read_and_wrote(server, invoke):
    found = json.loads(invoke("debug", "channels", "Hi", "--base", "tiny", "--json").out)
    read = server.engine.requests[-1]
    assert [token["id"] for token in found["prompt"]] == read.prompt_ids
    assert [token["id"] for token in found["generated"]] == tokens(HELLO)
    assert found["generated"][-1] == {
        "id": harmony.stop_token_ids(TOKENIZER)[0],
        "text": "<|return|>",
        "special": True,
        "message": 1,
        "channel": "final",
        "recipient": None,
        "ends": True,
    }
    assert found["messages"] == [
        {"channel": "analysis", "recipient": None, "text": "Greet them.", "ended": True},
        {"channel": "final", "recipient": None, "text": "Hello there.", "ended": True},
    ]
    assert (found["finish_reason"], found["version"]) == ("stop", "base")


def test_channels_of_a_broken_generation_show_where_the_parser_stands(server, invoke):
    server.engine.script = tokens("<|channel|>analysis<|message|>Hm<|channel|>final<|message|>Yes")
    shown = invoke("debug", "channels", "Hi", "--base", "tiny").out
    assert re.search(r"<\|channel\|> +0 analysis, its end *$", shown, re.MULTILINE)
    assert re.search(r"s' +1 final *$", shown, re.MULTILINE)
    assert re.search(r"^1 +final +user +no +'Yes' *$", shown, re.MULTILINE)
    assert "ended by length" in shown


def test_the_prompts_tokens_carry_their_messages_header():
    ids = harmony.render(TOKENIZER, [{"role": "user", "content": "Hi"}])
    found = prompt_tokens(TOKENIZER, ids)
    assert "".join(token["text"] for token in found) == TOKENIZER.decode(ids)
    assert (found[0]["text"], found[0]["header"], found[0]["message"]) == ("<|start|>", "system", 0)
    (hi,) = [token for token in found if token["text"] == "Hi"]
    assert hi["header"] == "user"
    assert found[-1]["header"] == "assistant"


def test_half_a_character_is_shown_as_bytes_and_belongs_to_its_message():
    ids = tokens("<|channel|>final<|message|>") + tokens("\N{GRINNING FACE}") + tokens("<|return|>")
    found = generated_tokens(TOKENIZER, ids)
    halves = [token["text"] for token in found if token["text"].startswith("\\x")]
    assert halves[0] == "\\xf0"
    assert [token["message"] for token in found if not token["special"]][-1] == 0


def test_channels_of_another_endpoint_need_its_base(invoke):
    assert "--url needs --base" in invoke("debug", "channels", "Hi", "--url", "http://127.0.0.1:9/v1").one_error_line(2)


def test_channels_say_their_own_limit_and_refuse_an_empty_question(server, invoke):
    shown = " ".join(invoke("debug", "channels", "--help").out.split())
    assert "Longest answer. [default: 512]" in shown
    assert shown.count("512") == 1 and "what fits" not in shown
    assert "the question is empty" in invoke("debug", "channels", " ").one_error_line(2)
    assert server.engine.requests == []
