"""Other people's clients, unchanged, against the real endpoint: OpenAI's for Python and Node and its Agents SDK,
Anthropic's for Python and Node, Vercel's AI SDK, LangChain, and curl."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import agents
import anthropic
import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel, Field

from configs import paths
from models import harmony
from models.base.checkpoint import load_tokenizer
from tests.loopback import http
from tests.ray.conftest import QUESTION

CLIENTS = paths.SOURCE / "tests" / "clients"
CAPITAL = "What is the capital of Italy?"
ROME = "The capital of Italy is Rome."
WEATHER = "What is the weather in Rome?"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Weather of a city.", "parameters": PARAMETERS}
BASE = {"model": "base", "temperature": 0}


class City(BaseModel):
    city: str = Field(max_length=12)


class Capital(BaseModel):
    """Anthropic's client leaves the length of a text out of the schema that it sends, and keeps an enum."""

    city: Literal["Paris", "Rome"]


# OpenAI's client for Python


def test_python_makes_a_tool_round_trip(tandem):
    messages = [{"role": "user", "content": WEATHER}]
    tools = [{"type": "function", "function": FUNCTION}]
    with tandem.client() as client:
        first = client.chat.completions.create(**BASE, messages=messages, tools=tools).choices[0]
        (call,) = first.message.tool_calls
        assert (first.finish_reason, call.function.name) == ("tool_calls", "get_weather")
        assert json.loads(call.function.arguments) == {"city": "Rome"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        second = client.chat.completions.create(**BASE, messages=[*messages, first.message, result], tools=tools)
        assert second.choices[0].finish_reason == "stop" and second.choices[0].message.content
        with client.chat.completions.stream(**BASE, messages=messages, tools=tools) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls[0].function
        assert (streamed.name, streamed.arguments) == (call.function.name, call.function.arguments)


def test_python_responds_whole_and_streamed(tandem):
    with tandem.client() as client:
        whole = client.responses.create(**BASE, input=CAPITAL)
        assert (whole.output_text, whole.status) == (ROME, "completed")
        assert [item.type for item in whole.output] == ["reasoning", "message"]
        with client.responses.stream(**BASE, input=CAPITAL) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert ("".join(deltas), len(deltas) > 3) == (ROME, True)
        assert final.output_text == whole.output_text and final.usage == whole.usage
        cut = client.responses.create(**BASE, input=CAPITAL, max_output_tokens=4)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_python_responds_to_a_functions_output(tandem):
    tools = [{"type": "function"} | FUNCTION]
    asked = [{"role": "user", "content": WEATHER}]
    with tandem.client() as client:
        first = client.responses.create(**BASE, input=asked, tools=tools)
        call = first.output[-1]
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Rome"})
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        second = client.responses.create(**BASE, input=[*asked, *first.output, result], tools=tools)
        assert second.status == "completed" and second.output_text


def test_python_goes_on_from_stored_responses_and_in_a_conversation(tandem):
    with tandem.client() as client:
        first = client.responses.create(**BASE, input=CAPITAL)
        second = client.responses.create(**BASE, input=WEATHER, previous_response_id=first.id)
        conversation = client.conversations.create()
        for question in (CAPITAL, WEATHER):
            third = client.responses.create(**BASE, input=question, conversation=conversation.id)
        assert third.output_text == second.output_text and third.usage == second.usage
        assert client.responses.retrieve(second.id) == second
        listed = list(client.responses.input_items.list(second.id, order="asc"))
        assert [item.type for item in listed] == ["message", "reasoning", "message", "message"]
        assert len(client.conversations.items.list(conversation.id).data) == len(listed) + len(second.output)
        client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)


def test_python_follows_and_cancels_a_response_in_the_background(tandem):
    endless = BASE | {"max_output_tokens": 1800, "extra_body": {"ignore_eos": True}, "background": True}
    with tandem.client() as client:
        with client.responses.stream(**BASE, input=CAPITAL, background=True) as stream:
            begun = [event for event, _ in zip(stream, range(6), strict=False)]
        with client.responses.stream(response_id=begun[0].response.id, starting_after=5) as stream:
            numbers = [event.sequence_number for event in stream]
            assert (numbers[0], stream.get_final_response().output_text) == (6, ROME)
        running = client.responses.create(**endless, input=CAPITAL)
        assert running.status == "queued"
        assert client.responses.cancel(running.id).status == "cancelled"
        while http.get(f"{tandem.http}/api/status", timeout=20).json()["engines"]["engine_1"]["running"]:
            time.sleep(0.05)
        assert client.responses.retrieve(running.id).status == "cancelled"


def test_python_completes_several_prompts_streamed_as_whole(tandem):
    asked = BASE | {"prompt": ["Rome is", "Paris is"], "max_tokens": 6}
    with tandem.client() as client:
        whole = client.completions.create(**asked)
        texts = ["", ""]
        for chunk in client.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]
        assert whole.usage.completion_tokens == 12


# OpenAI's client for Node


@pytest.fixture(scope="module")
def node_folder() -> Path:
    """The script beside the client's package, installed once per version into the user's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        assert os.environ.get("CI") != "true", "CI has to have node and npm"
        pytest.skip("node and npm are not installed")
    lock = CLIENTS / "package-lock.json"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tandem-tests" / f"node-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in CLIENTS.iterdir():
        shutil.copy(file, folder)
    if not (folder / "node_modules" / ".package-lock.json").exists():
        done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode and os.environ.get("CI") != "true":
            pytest.skip(f"npm cannot install the clients: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
    return folder


def test_nodes_client_gets_the_same_answers(tandem, node_folder):
    done = subprocess.run(
        ["node", "openai.mjs", f"{tandem.http}/v1"], cwd=node_folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["chat"]["text"] == found["chatStream"]["text"] == ROME
    assert found["chat"]["thought"] and found["chatStream"]["pieces"] > 3 and found["chatStream"]["tokens"] > 5
    for name in ("tools", "responsesTools"):
        assert (found[name]["name"], found[name]["arguments"]) == ("get_weather", {"city": "Rome"})
    assert (found["tools"]["finish"], found["responsesTools"]["status"]) == ("stop", "completed")
    assert found["responses"] == {"text": ROME, "items": ["reasoning", "message"], "status": "completed"}
    assert found["responsesStream"] == {"text": ROME, "first": "response.created", "last": "response.completed"}
    assert found["completions"]["whole"] == found["completions"]["streamed"]
    assert {"tiny", "prod"} <= set(found["models"])
    assert found["refused"] == {"name": "NotFoundError", "status": 404, "param": "model"}


# Anthropic's clients


def test_anthropics_client_runs_a_tool_loop_streams_and_holds_an_answer_to_a_schema(tandem):
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return "sunny"

    ask = {"model": "base", "max_tokens": 300, "messages": [{"role": "user", "content": CAPITAL}]}
    ask["extra_body"] = {"temperature": 0}  # anthropic 2 has no parameter for it
    with anthropic.Anthropic(base_url=tandem.http, api_key="unused", max_retries=0) as client:
        whole = client.messages.create(**ask, thinking={"type": "adaptive"})
        assert [block.type for block in whole.content] == ["thinking", "text"] and whole.content[1].text == ROME
        with client.messages.stream(**ask, thinking={"type": "adaptive"}) as stream:
            assert len(list(stream.text_stream)) > 3
            final = stream.get_final_message()
        assert final.usage == whole.usage and final.content[0] == whole.content[0]
        counted = client.messages.count_tokens(model="base", messages=ask["messages"], thinking={"type": "adaptive"})
        assert counted.input_tokens == whole.usage.input_tokens
        capital = client.messages.parse(**ask, output_format=Capital).parsed_output
        assert isinstance(capital, Capital)
        asked = [{"role": "user", "content": WEATHER}]
        call, answer = client.beta.messages.tool_runner(**ask | {"messages": asked}, tools=[get_weather])
        assert (call.content[-1].input, call.stop_reason) == ({"city": "Rome"}, "tool_use")
        assert answer.stop_reason == "end_turn" and answer.content[-1].text


def test_anthropics_node_client_gets_the_same_answers(tandem, node_folder):
    done = subprocess.run(
        ["node", "anthropic.mjs", tandem.http], cwd=node_folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["whole"] == {"kinds": ["thinking", "text"], "text": ROME, "end": "end_turn", "same": True}
    assert found["streamed"]["text"] == ROME and found["streamed"]["pieces"] > 3
    assert found["tools"] == {
        "reason": "tool_use", "name": "get_weather", "input": {"city": "Rome"}, "end": "end_turn",
    }  # fmt: skip
    assert {"tiny", "prod"} <= set(found["models"])
    assert found["refused"] == {"name": "NotFoundError", "status": 404, "type": "not_found_error"}


# Vercel's AI SDK


def test_vercels_sdk_runs_a_tool_loop_with_each_of_its_providers(tandem, node_folder):
    done = subprocess.run(
        ["node", "ai.mjs", f"{tandem.http}/v1"], cwd=node_folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("responses", "summarised", "unstored", "chat", "compatible", "streamed"):
        assert (found[name]["steps"], found[name]["calls"], bool(found[name]["text"])) == (2, [{"city": "Rome"}], True)
    assert found["responses"]["again"] == ["user", "item_reference", "function_call", "function_call_output"]
    assert found["unstored"]["again"] == ["user", "reasoning", "function_call", "function_call_output"]
    assert found["responses"]["thought"] == "" and found["summarised"]["thought"]
    assert found["streamed"]["text"] == found["responses"]["text"]
    assert found["nextTurn"]["continued"] == found["nextTurn"]["whole"] != ""
    assert len(found["object"]["city"]) <= 12


# OpenAI's Agents SDK


@agents.function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return "sunny"


@pytest.fixture
def agent(tandem) -> Iterator[agents.Agent]:
    client = openai.AsyncOpenAI(base_url=f"{tandem.http}/v1", api_key="none", max_retries=0)
    agents.set_tracing_disabled(True)
    settings = agents.ModelSettings(
        temperature=0, truncation="auto", verbosity="low", reasoning=Reasoning(effort="medium", summary="detailed")
    )
    model = agents.OpenAIResponsesModel(model="base", openai_client=client)
    yield agents.Agent("weather", model=model, model_settings=settings, tools=[get_weather])


def test_agents_call_tools_and_remember_in_each_of_their_ways(agent, tandem):
    client = openai.AsyncOpenAI(base_url=f"{tandem.http}/v1", api_key="none", max_retries=0)

    async def remembered(**how) -> list[str]:
        """What two questions are answered, the second with the first in mind."""
        first = await agents.Runner.run(agent, WEATHER, max_turns=3, **how)
        calls = [item.raw_item for item in first.new_items if isinstance(item, agents.ToolCallItem)]
        assert [(call.name, json.loads(call.arguments)["city"]) for call in calls] == [("get_weather", "Rome")]
        more = {"previous_response_id": first.last_response_id} if "auto_previous_response_id" in how else how
        return [first.final_output, (await agents.Runner.run(agent, CAPITAL, max_turns=3, **more)).final_output]

    async def all_ways() -> list[list[str]]:
        conversation = (await client.conversations.create()).id
        return [
            await remembered(session=agents.SQLiteSession("one")),
            await remembered(auto_previous_response_id=True),
            await remembered(conversation_id=conversation),
            await remembered(session=agents.OpenAIConversationsSession(openai_client=client)),
        ]

    first, *others = asyncio.run(all_ways())
    assert all(first) and others == [first] * 3


# LangChain


@pytest.fixture(params=["chat completions", "responses"])
def langchain(request, tandem) -> ChatOpenAI:
    return ChatOpenAI(
        **BASE,
        base_url=f"{tandem.http}/v1",
        api_key="unused",
        max_retries=0,
        use_responses_api=request.param == "responses",
    )


def test_langchain_invokes_and_streams(langchain):
    assert langchain.invoke(CAPITAL).text == ROME
    pieces = [chunk.text for chunk in langchain.stream(CAPITAL)]
    assert "".join(pieces) == ROME and len([piece for piece in pieces if piece]) > 3
    assert langchain.invoke(CAPITAL).usage_metadata["output_tokens"] > 5


def test_langchain_binds_tools_and_takes_their_results_back(langchain):
    bound = langchain.bind_tools([{"type": "function", "function": FUNCTION}])
    history = [HumanMessage(WEATHER)]
    first = bound.invoke(history)
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    second = bound.invoke([*history, first, ToolMessage("sunny", tool_call_id=call["id"])])
    assert second.text and not second.tool_calls


def test_langchain_goes_on_from_a_stored_response(tandem):
    model = ChatOpenAI(
        **BASE, base_url=f"{tandem.http}/v1", api_key="unused", max_retries=0, use_previous_response_id=True,
        reasoning={"effort": "medium", "summary": "auto"}, output_version="responses/v1",
    )  # fmt: skip
    bound = model.bind_tools([{"type": "function", "function": FUNCTION}])
    history = [HumanMessage(WEATHER)]
    first = bound.invoke(history)
    assert [block["type"] for block in first.content] == ["reasoning", "function_call"] and first.content[0]["summary"]
    assert bound.invoke([*history, first, ToolMessage("sunny", tool_call_id=first.tool_calls[0]["id"])]).text


def test_langchain_gets_structured_output(langchain):
    answer = langchain.bind(max_tokens=300).with_structured_output(City, method="json_schema").invoke(CAPITAL)
    assert isinstance(answer, City) and len(answer.city) <= 12


# vLLM's routes for adapters


def test_a_published_adapter_is_loaded_asked_and_unloaded(tandem, trained):
    version = trained.adapter
    with tandem.client() as client, pytest.raises(openai.NotFoundError, match="published, but not loaded"):
        client.chat.completions.create(model=version, messages=[{"role": "user", "content": QUESTION}])
    body = {"lora_name": version, "lora_path": str(tandem.home.models / version)}
    loaded = tandem.post("/v1/load_lora_adapter", body)
    assert (loaded.status_code, loaded.text) == (200, f"Success: LoRA adapter '{version}' added successfully.")
    assert tandem.ask(model=version) != tandem.ask(model="base")
    unloaded = tandem.post("/v1/unload_lora_adapter", {"lora_name": version})
    assert (unloaded.status_code, unloaded.text) == (200, f"Success: LoRA adapter '{version}' removed successfully.")
    with tandem.client() as client:
        assert version not in {model.id for model in client.models.list()}


# curl


def curl(tandem, body: dict, *options: str) -> subprocess.CompletedProcess[str]:
    url = f"{tandem.http}/v1/chat/completions"
    command = ["curl", "-sS", *options, url, "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams_and_is_told_what_is_wrong(tandem):
    messages = [{"role": "user", "content": CAPITAL}]
    events = curl(tandem, BASE | {"messages": messages, "stream": True}, "-N").stdout.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == ROME
    refused = curl(tandem, {"model": "gpt-4", "messages": messages}, "--fail-with-body", "-w", "\n%{http_code}")
    body, status = refused.stdout.rsplit("\n", 1)
    assert (refused.returncode, status) == (22, "404")
    assert json.loads(body)["error"]["code"] == "model_not_found"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_that_hangs_up_on_a_whole_answer_ends_it_in_the_engine(tandem):
    def engine() -> dict:
        return http.get(f"{tandem.http}/api/status", timeout=20).json()["engines"]["engine_1"]

    stop_tokens = harmony.stop_token_ids(load_tokenizer(paths.TINY_MODEL))
    endless = {"max_tokens": 1900, "logit_bias": {str(token): -100 for token in stop_tokens}}
    before = engine()["generated_tokens"]
    body = BASE | endless | {"messages": [{"role": "user", "content": CAPITAL}]}
    assert curl(tandem, body, "--max-time", "1").returncode == 28
    while engine()["running"]:
        time.sleep(0.05)
    assert engine()["generated_tokens"] - before < 1900
