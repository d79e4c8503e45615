"""What the bodies of chat and completions have in common beyond sampling: streams, ends, and what vLLM adds to both."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from configs.errors import RequestError
from serve.engine.protocol import Constraint, TokenChunk
from serve.engine.sampling import MOST_STOP_STRINGS
from serve.openai.body import Part, SampledRequest
from serve.openai.fields.answer_format import PARAM, Held, ResponseFormat, StructuredOutputs
from serve.openai.no_effect import ignore

MOST_LIKELIEST = 20

STOPS = Field(json_schema_extra={"maxItems": MOST_STOP_STRINGS})
StopText = Annotated[str, Field(json_schema_extra={"minLength": 1})]
"""As `SamplingParams` takes them."""


class StreamOptions(Part):
    """How a streamed answer is framed."""

    include_usage: bool = False
    """A last chunk with the usage."""
    continuous_usage_stats: bool = False
    """Usage so far in every chunk, as in vLLM."""
    include_obfuscation: bool = False
    """No effect: nothing is added to hide how long a chunk is."""


class StreamedRequest(SampledRequest):
    """A body whose answer may be streamed in chunks."""

    stream: bool = False
    """True: server-sent events."""
    stream_options: StreamOptions = StreamOptions()
    """How they are framed; with `stream` only."""
    stop: StopText | Annotated[list[StopText], STOPS] = []
    """A text or up to 16 of them; they end the answer and are not part of it."""
    include_stop_str_in_output: bool = False
    """True: the text that ended the answer is part of it."""
    response_format: ResponseFormat = ResponseFormat()
    """Text, any JSON object, or JSON of a schema, which the answer always follows."""
    structured_outputs: StructuredOutputs = StructuredOutputs()
    """What the answer is held to besides: a regular expression, a choice, a grammar."""
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELIEST)
    """The prompt's tokens with their log-probabilities, and so many of the likeliest at each place, in vLLM's shape."""
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    """So many tokens of a longer prompt are kept; -1 as many as leave room for the answer."""
    truncation_side: Literal["left", "right"] = "left"
    """Where a prompt that is truncated loses tokens."""
    return_token_ids: bool = False
    """True: `prompt_token_ids`, and `token_ids` in every choice."""
    return_tokens_as_token_ids: bool = False
    """True: log-probabilities name tokens `token_id:N`."""

    @field_validator("stream_options")
    @classmethod
    def _is_streamed(cls, value: StreamOptions, given: ValidationInfo) -> StreamOptions:
        if any(value.model_dump().values()) and not given.data.get("stream"):
            raise ValueError("goes with stream: true only")
        if value.include_obfuscation:
            ignore("stream_options.include_obfuscation")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def held(self) -> tuple[Held, str]:
        """What the answer is held to, and the parameter that says so. Raises RequestError for both of the two."""
        asked, format_of = self.structured_outputs.held, self.response_format.definition
        if asked is not None and format_of is not None:
            raise RequestError("response_format and structured_outputs are both given", hint="leave one", param=PARAM)
        return (format_of, "response_format") if asked is None else (asked, PARAM)

    @property
    def contradiction(self) -> str | None:
        """The parameter that contradicts a grammar, if there is one."""
        return next((name for name in ("min_tokens", "ignore_eos", "allowed_token_ids") if getattr(self, name)), None)

    def constraint_of(self, grammar: str, param: str) -> Constraint:
        """Raises RequestError for a parameter that contradicts a grammar, which says itself where the answer ends."""
        if against := self.contradiction:
            raise RequestError(
                f"{against} does not go with {param}: the answer ends where its schema says",
                hint="leave one of the two out",
                param=against,
            )
        return Constraint(grammar, param)

    def stop_reason(self, last: TokenChunk, matched: str | None) -> str | int | None:
        """What ended a choice, as in vLLM: a stop text or one of `stop_token_ids`; None is the model's own end."""
        if matched is None and last.finish_reason == "stop" and last.ids and last.ids[-1] in self.stop_token_ids:
            return last.ids[-1]
        return matched

    def truncated(self, prompt: Sequence[int], context: int | None, answer: int | None) -> list[int]:
        """The prompt's ids that go to the engine, of `context` tokens for prompt and answer, `answer` of them asked."""
        most = self.truncate_prompt_tokens
        if most == -1:
            most = None if context is None else max(context - (answer or 1), 1)
        if most is None or len(prompt) <= most:
            return list(prompt)
        return list(prompt[:most] if self.truncation_side == "right" else prompt[len(prompt) - most :])
