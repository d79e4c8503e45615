"""Bodies and their schemas are held to each other: what the API's description takes is taken, all else is refused."""

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from configs.errors import TandemError
from models import harmony
from serve.anthropic import request as anthropic
from serve.http.routes.admin import (
    ExportRequest,
    LoadRequest,
    QuarantineRequest,
    RunRequest,
    SwapRequest,
    UnloadRequest,
)
from serve.openai import models
from serve.openai.body import checked
from serve.openai.chat import request as chat
from serve.openai.completions import request as completions
from serve.openai.responses import request as responses
from serve.openai.responses.items import is_reference
from serve.openai.responses.stored.conversation_bodies import ConversationCreation, ItemsCreation, MetadataUpdate
from serve.openai.responses.turn import Turn
from serve.openai.tokens import request as tokens
from tests.gateway_server import TOKENIZER
from tests.unit.serve.http.test_description import TOLD

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "f", "description": "x", "parameters": SCHEMA, "strict": True}
SAMPLED = {
    "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "presence_penalty": 1, "frequency_penalty": 1,
    "repetition_penalty": 1.5, "seed": 1, "logit_bias": {"5": 1.0}, "stop_token_ids": [5], "bad_words": ["x"],
}  # fmt: skip
STREAMED = SAMPLED | {
    "model": "prod", "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "stop": ["x"], "include_stop_str_in_output": True, "prompt_logprobs": 1, "truncate_prompt_tokens": 5,
    "truncation_side": "left", "return_token_ids": True, "return_tokens_as_token_ids": True,
}  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "x", "name": "x"},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
    {"role": "assistant", "content": "x", "reasoning_content": "x", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "x"},
    {"role": "user", "content": "x"},
]
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
    {"type": "message", "role": "assistant", "content": "x", "id": "msg_1"},
    {
        "type": "reasoning",
        "content": [{"type": "reasoning_text", "text": "x"}],
        "summary": [],
        "encrypted_content": "tandem.",
    },
    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "x"},
    {"role": "user", "content": "x"},
]
TOOL = {"type": "function", "function": FUNCTION}

WHOLE: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        STREAMED | {
            "messages": MESSAGES, "n": 2, "max_tokens": 5, "max_completion_tokens": 5, "reasoning_effort": "low",
            "tools": [TOOL], "tool_choice": "auto", "logprobs": True, "top_logprobs": 2, "include_reasoning": True,
            "echo": True, "add_generation_prompt": False,
        },
        {"model": "prod", "messages": MESSAGES[4:], "repeat_penalty": 1.5, "num_predict": 5, "format": "json",
         "think": "low", "verbosity": "medium"},
        {"model": "prod", "messages": MESSAGES[4:],
         "chat_template_kwargs": {"reasoning_effort": "low", "continue_final_message": False, "documents": []}},
        {"model": "prod", "messages": MESSAGES[4:], "guided_choice": ["x"],
         "reasoning": {"effort": "low", "exclude": True, "enabled": True}},
        {"model": "prod", "messages": MESSAGES[4:], "ignore_eos": True, "allowed_token_ids": [5], "min_tokens": 1,
         "stream_options": {"include_obfuscation": False}},
        {"model": "prod", "messages": MESSAGES[4:], "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "description": "x", "strict": True}}},
        {"model": "prod", "messages": MESSAGES[4:], "response_format": {"type": "json_object", "schema": SCHEMA}},
        {"model": "prod", "messages": MESSAGES[4:], "structured_outputs": {"choice": ["x"]}, "documents": []},
        {"model": "prod", "messages": MESSAGES[4:], "tools": [TOOL],
         "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"model": "prod", "messages": MESSAGES[4:], "tools": [TOOL], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
                {"type": "function", "function": {"name": "f"}}]}}},
    ],
    "/v1/completions": [
        STREAMED | {"prompt": "x", "max_tokens": 5, "n": 2, "echo": True, "logprobs": 1, "add_special_tokens": True,
                    "skip_special_tokens": True},
        {"model": "prod", "prompt": [5, 6], "structured_outputs": {"regex": "x"}, "best_of": 1},
        {"model": "prod", "prompt": [[5], [6]], "response_format": {"type": "json_object"}},
        {"model": "prod", "prompt": ["x", "y"], "max_tokens": 0, "prompt_logprobs": 0},
    ],
    "/v1/responses": [
        SAMPLED | {
            "model": "prod", "input": ITEMS, "store": True, "background": False, "instructions": "x", "stream": True,
            "stream_options": {"include_obfuscation": True}, "max_output_tokens": 5, "truncation": "auto",
            "reasoning": {"effort": "low", "summary": "auto", "context": "auto", "mode": "x"},
            "text": {"format": {"type": "text"}, "verbosity": "low"}, "tools": [{"type": "function"} | FUNCTION],
            "tool_choice": {"type": "function", "name": "f"}, "max_tool_calls": 5, "top_logprobs": 2,
            "include": ["message.output_text.logprobs"], "metadata": {"x": "x"}, "user": "x", "safety_identifier": "x",
            "prompt_cache_key": "x", "context_management": [{}],
        },
        {"input": "x", "previous_response_id": "resp_1"},
        {"input": [{"id": "msg_1"}, ITEMS[0]], "conversation": {"id": "conv_1"}},
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
        {"input": "x", "tools": [{"type": "function"} | FUNCTION], "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
    ],
    "/v1/messages": [
        SAMPLED | {
            "model": "prod", "max_tokens": 5, "system": [{"type": "text", "text": "x", "cache_control": {}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "x", "citations": []},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                     "title": "x", "context": "x"},
                    {"type": "search_result", "title": "x", "source": "x", "content": [{"type": "text", "text": "x"}]},
                    {"type": "tool_reference", "tool_name": "x"},
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "x", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "tool_use", "id": "call_1", "name": "f", "input": {}, "caller": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "x"}],
                     "is_error": True},
                ]},
            ],
            "tools": [{"type": "custom", "name": "f", "description": "x", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, "stream": True,
            "output_config": {"effort": "low"}, "stop_sequences": ["x"], "metadata": {}, "mcp_servers": [],
        },
        {"model": "prod", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "system": "x",
         "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ],
    "/v1/messages/count_tokens": [
        {"model": "prod", "messages": [{"role": "user", "content": "x"}], "stop_sequences": ["x"], "temperature": 1,
         "tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "f"}}
    ],
    "/v1/conversations": [{"metadata": {"x": "x"}, "items": ITEMS}],
    "/v1/conversations/{conversation_id}": [{"metadata": {"x": "x"}}],
    "/v1/conversations/{conversation_id}/items": [{"items": ITEMS}],
    "/tokenize": [
        {"model": "prod", "prompt": "x", "add_special_tokens": True, "return_token_strs": True},
        {"messages": MESSAGES, "tools": [TOOL], "add_generation_prompt": True, "continue_final_message": False,
         "chat_template_kwargs": {"reasoning_effort": "low"}},
    ],
    "/detokenize": [{"model": "prod", "tokens": [5, 6]}],
    "/v1/load_lora_adapter": [{"lora_name": "x", "lora_path": "x"}],
    "/v1/unload_lora_adapter": [{"lora_name": "x"}],
    "/api/aliases/{alias}": [{"adapter": "x", "back": False, "force": True}, {"back": True}],
    "/api/adapters/{version}/load": [{"seconds": 5, "hold": "x"}],
    "/api/adapters/{version}/unload": [{"hold": "x"}],
    "/api/slots/{slot}/quarantine": [{"reason": "x"}],
    "/api/exports": [{"run_id": "x", "config": {"adapter": "x", "to": "peft", "out": "/x", "base": "x"}, "priority": 1,
                      "slot_wanted": "0"}],
    "/api/runs": [{
        "run_id": "x", "priority": 1, "slot_wanted": "0", "parent": "x",
        "config": {
            "profile": "x", "model": {"max_seq_length": 512, "load_in_4bit": False},
            "lora": {"r": 8, "dropout": 0.5, "target_modules": ["q_proj"]},
            "data": {"columns": {"x": "x"}, "holdout": 0.5},
            "training": {"micro_batch": "auto", "epochs": 1.5, "max_steps": 5, "report_to": ["wandb"]},
            "watchdog": {"max_rollbacks": 1, "on_spike": "warn"},
        },
    }],
}  # fmt: skip
"""Bodies that are taken and have, together, most of what there is."""

VALUES = (None, True, 0, 5.0, 2.5, -1, 1e30, "", "x", "a b", [], [None], [True], ["x", 1], [5.0], {}, {"x": None},
          {"type": "x"})  # fmt: skip

RELATED = ("matches no call", "without a preceding", "is not one of the tools", "not a JSON Schema",
           "parameters.properties is", "`tool_use_id` found", "`tool_use` ids", "does not divide",
           "needs a last message")  # fmt: skip
"""Words of refusals for what no schema says: things that refer to each other, and schemas inside a body."""


def _renders(request: chat.ChatRequest) -> None:
    harmony.render(
        TOKENIZER, request.messages, tools=request.offered_tools, reasoning_effort=request.reasoning_effort,
        response_format=request.format_description, answered=True,
    )  # fmt: skip
    request.samplings([])
    request.constraint()


def _counts(body: bytes) -> None:
    request = anthropic.parse_count(body).chat()
    harmony.render(TOKENIZER, request.messages, tools=request.offered_tools, answered=True)


def _responds(body: bytes) -> None:
    request = responses.parse_request(body)
    own = [item for item in request.items if not (is_reference(item) and isinstance(item.get("id"), str))]
    own = own or [{"role": "user", "content": "x"}]
    _renders(Turn(request, own=own).chat())


def _completes(body: bytes) -> None:
    request = completions.parse_request(body)
    request.samplings([])
    request.constraint()


def _tokenizes(body: bytes) -> None:
    request = tokens.parse_tokenize(body)
    if request.messages is not None:
        _renders(request.chat())


READ = {
    "/v1/chat/completions": lambda body: _renders(chat.parse_request(body)),
    "/v1/completions": _completes,
    "/v1/responses": _responds,
    "/v1/messages": lambda body: _renders(anthropic.parse_request(body).chat()),
    "/v1/messages/count_tokens": _counts,
    "/v1/conversations": lambda body: checked(body, ConversationCreation, {}),
    "/v1/conversations/{conversation_id}": lambda body: checked(body, MetadataUpdate, {}),
    "/v1/conversations/{conversation_id}/items": lambda body: checked(body, ItemsCreation, {}),
    "/tokenize": _tokenizes,
    "/detokenize": tokens.parse_detokenize,
    "/v1/load_lora_adapter": models.parse_load,
    "/v1/unload_lora_adapter": models.parse_unload,
    "/api/aliases/{alias}": lambda body: SwapRequest.model_validate(json.loads(body)),
    "/api/adapters/{version}/load": lambda body: LoadRequest.model_validate(json.loads(body)),
    "/api/adapters/{version}/unload": lambda body: UnloadRequest.model_validate(json.loads(body)),
    "/api/slots/{slot}/quarantine": lambda body: QuarantineRequest.model_validate(json.loads(body)),
    "/api/exports": lambda body: ExportRequest.model_validate(json.loads(body)),
    "/api/runs": lambda body: RunRequest.model_validate(json.loads(body)),
}


def refusal(path: str, body: Any) -> str | None:
    """Why a body is refused, if it is."""
    try:
        READ[path](json.dumps(body).encode())
    except (TandemError, ValidationError) as error:
        return str(error)
    return None


def places(value: Any, *place: Any) -> Iterator[tuple]:
    """Where there is something in a body."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in steps:
        yield (*place, step)
        yield from places(each, *place, step)


def changed(body: Any, place: tuple) -> Iterator[Any]:
    """The body with another value at a place, without it, and with one more beside it."""

    def copied() -> tuple[Any, Any]:
        other = copy.deepcopy(body)
        return other, functools.reduce(lambda holder, step: holder[step], place[:-1], other)

    for value in VALUES:
        other, holder = copied()
        holder[place[-1]] = value
        yield other
    if isinstance(place[-1], str):
        other, holder = copied()
        del holder[place[-1]]
        yield other
        other, holder = copied()
        holder["x-unknown"] = 1
        yield other


@pytest.mark.parametrize("path", WHOLE)
def test_what_is_described_is_what_is_taken(path):
    media = TOLD["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator(media["schema"] | {"components": TOLD["components"]})
    seen = set()
    for body in WHOLE[path]:
        assert refusal(path, body) is None and validator.is_valid(body), list(validator.iter_errors(body))
        for place in [place for place in places(body) if place not in seen]:
            seen.add(place)
            for other in changed(body, place):
                why, described = refusal(path, other), validator.is_valid(other)
                related = described and why and any(words in why for words in RELATED)
                assert related or described == (why is None), (place, other, why)
