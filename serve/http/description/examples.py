"""Bodies that the API's page shows, by route and title. Each is posted to a gateway by a test."""

from typing import Any

VERSION = "gpt-oss-20b_standard_20261123-183102"
"""Stands for a published adapter's version."""

HOLD = "hold-0b3a6f0c6f5f4b0f8c43d1f4e3f2a1b9"
"""Stands for what a load answered with."""

QUESTION = {"role": "user", "content": "What is the capital of Italy?"}
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WEATHER_TOOL = {
    "name": WEATHER["name"],
    "description": WEATHER["description"],
    "input_schema": WEATHER["parameters"],
}
ASKED = {"role": "user", "content": "What is the weather in Rome?"}

EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "A question": {"model": "prod", "messages": [QUESTION], "temperature": 0},
        "Streamed, with its usage": {
            "model": "prod",
            "messages": [QUESTION],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "With instructions and little reasoning": {
            "model": "prod",
            "messages": [{"role": "system", "content": "Answer in one word."}, QUESTION],
            "reasoning_effort": "low",
            "max_completion_tokens": 200,
        },
        "With a tool": {"model": "prod", "messages": [ASKED], "tools": [{"type": "function", "function": WEATHER}]},
        "With a tool's result": {
            "model": "prod",
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 24 degrees"},
            ],
            "tools": [{"type": "function", "function": WEATHER}],
        },
    },
    "/v1/responses": {
        "A question": {"model": "prod", "input": "What is the capital of Italy?", "temperature": 0},
        "Streamed": {
            "model": "prod",
            "instructions": "Answer in one word.",
            "input": [QUESTION],
            "reasoning": {"effort": "low"},
            "max_output_tokens": 200,
            "stream": True,
        },
        "With a function": {"model": "prod", "input": [ASKED], "tools": [{"type": "function"} | WEATHER]},
        "With what was said before": {
            "model": "prod",
            "input": [
                ASKED,
                {
                    "type": "reasoning",
                    "content": [{"type": "reasoning_text", "text": "They ask for the weather."}],
                },
                {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Rome"}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "sunny, 24 degrees"},
            ],
            "tools": [{"type": "function"} | WEATHER],
        },
    },
    "/v1/responses/input_tokens": {"A question": {"model": "prod", "input": "What is the capital of Italy?"}},
    "/v1/conversations": {
        "With what was said before": {
            "metadata": {"topic": "capitals"},
            "items": [QUESTION, {"role": "assistant", "content": "The capital of Italy is Rome."}],
        },
    },
    "/v1/conversations/{conversation_id}": {"Another topic": {"metadata": {"topic": "cities"}}},
    "/v1/conversations/{conversation_id}/items": {"A question": {"items": [QUESTION]}},
    "/v1/completions": {
        "Go on with a text": {"model": "base", "prompt": "Rome is", "max_tokens": 8, "stop": ["."]},
        "Several prompts, twice each, streamed": {
            "model": "base",
            "prompt": ["Rome is", "Paris is"],
            "n": 2,
            "seed": 7,
            "stream": True,
        },
        "Score token ids": {"model": "base", "prompt": [307, 883, 13], "max_tokens": 0, "prompt_logprobs": 0},
    },
    "/v1/messages": {
        "A question": {"model": "prod", "max_tokens": 300, "messages": [QUESTION], "temperature": 0},
        "Streamed, with its reasoning": {
            "model": "prod",
            "max_tokens": 300,
            "system": "Answer in one word.",
            "messages": [QUESTION],
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "stream": True,
        },
        "With a tool": {"model": "prod", "max_tokens": 300, "messages": [ASKED], "tools": [WEATHER_TOOL]},
        "With a tool's result": {
            "model": "prod",
            "max_tokens": 300,
            "messages": [
                ASKED,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny, 24 degrees"}],
                },
            ],
            "tools": [WEATHER_TOOL],
        },
    },
    "/v1/messages/count_tokens": {"A question": {"model": "prod", "messages": [QUESTION]}},
    "/tokenize": {
        "A text": {"prompt": "Rome is", "return_token_strs": True},
        "A conversation": {"messages": [QUESTION]},
    },
    "/detokenize": {"Three ids": {"tokens": [307, 883, 13]}},
    "/v1/load_lora_adapter": {"A published version": {"lora_name": VERSION}},
    "/v1/unload_lora_adapter": {"The same one": {"lora_name": VERSION}},
}

IN_PATHS = {
    "alias": "prod", "version": VERSION, "run_id": "my-run-1", "slot": "0", "name": "prod",
    "response_id": "resp_1", "conversation_id": "conv_1", "item_id": "msg_1",
}  # fmt: skip
"""What stands in an example's path for a name in braces."""

ADMIN_EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "/api/aliases/{alias}": {"The newest adapter": {"adapter": "latest"}, "The one before": {"back": True}},
    "/api/adapters/{version}/load": {"For a minute": {"seconds": 60}},
    "/api/adapters/{version}/unload": {"What load answered with": {"hold": HOLD}},
    "/api/runs": {
        "A small run": {
            "run_id": "my-run-1",
            "config": {
                "profile": "tiny",
                "model": {"base": "tiny", "load_in_4bit": False},
                "data": {"dataset": "tiny-demo"},
            },
        }
    },
    "/api/exports": {
        "As PEFT's two files": {
            "run_id": "my-export-1",
            "config": {"adapter": VERSION, "to": "peft", "out": "/tmp/my-export-1"},
        }
    },
    "/api/slots/{slot}/quarantine": {"Its GPU is needed": {"reason": "the GPU is needed for something else"}},
}
