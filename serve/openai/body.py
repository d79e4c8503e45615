"""What every request body has in common: it is checked, and refused by name rather than ignored.

`checked` turns a body into a request of its kind; what changes the answer is honoured or refused, never dropped.
"""

import copy
import difflib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from configs.errors import CheckpointError, RequestError
from serve.engine.sampling import MOST_STOP_TOKENS, SamplingParams
from serve.openai.complaints import complaint, place_of
from serve.openai.no_effect import IGNORED, ignore

MODELS_OWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's own generation_config.json may set for requests that leave it open."""

OTHERWISE = frozenset({"logit_bias", "ignore_eos", "stop_token_ids", "allowed_token_ids", "bad_words"})
"""Of a body's sampling, what an engine gets in another form."""

BIASES: JsonDict = {
    "propertyNames": {"pattern": "^[0-9]{1,19}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}
"""How a `logit_bias` is described: token ids and what is added to their logits."""

JSON_NAMES = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}

Encode = Callable[[str], list[int]]
"""A text's token ids, without special tokens around it."""

Body = TypeVar("Body", bound=BaseModel)


class Part(BaseModel):
    """What all nested objects of a body share: unknown fields are refused, null stands for the default."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def between(least: float, most: float | None = None) -> JsonDict:
    """How the bounds that `SamplingParams` holds a field to are described."""
    return {"minimum": least} if most is None else {"minimum": least, "maximum": most}


class SampledRequest(BaseModel):
    """What every body that asks for a generation may say about sampling."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)

    temperature: float = Field(default=1.0, json_schema_extra=between(0, 2))
    """0 to 2; 0 always takes the most likely token. The default is the model's own (generation_config.json), else 1."""
    top_p: float = Field(default=1.0, json_schema_extra={"exclusiveMinimum": 0, "maximum": 1})
    """Above 0 to 1: sample from the likeliest tokens that make up this much of the probability."""
    top_k: int = Field(default=0, json_schema_extra=between(-1))
    """Sample from so many of the likeliest tokens; 0 or -1 from all."""
    min_p: float = Field(default=0.0, json_schema_extra=between(0, 1))
    """0 to 1: leave out tokens less likely than this times the likeliest."""
    presence_penalty: float = Field(default=0.0, json_schema_extra=between(-2, 2))
    """-2 to 2, against tokens that were generated before."""
    frequency_penalty: float = Field(default=0.0, json_schema_extra=between(-2, 2))
    """-2 to 2, once for every time that a token was generated before."""
    repetition_penalty: float = Field(default=1.0, json_schema_extra=between(0.01, 100))
    """0.01 to 100; above 1 against tokens of the prompt and the answer."""
    seed: int | None = None
    """The same seed gives the same answer, whatever runs beside it."""
    logit_bias: dict[str, float] = Field(default={}, json_schema_extra=BIASES)
    """What to add to the logits of tokens, by id."""
    min_tokens: int = Field(default=0, json_schema_extra=between(0))
    """So many tokens are generated before the model may end its answer."""
    ignore_eos: bool = False
    """The model's own stop tokens end nothing: the answer goes on to its limit."""
    stop_token_ids: list[int] = Field(default=[], json_schema_extra={"maxItems": MOST_STOP_TOKENS})
    """Ids that end the answer besides the model's own."""
    allowed_token_ids: list[int] | None = Field(default=None, min_length=1)
    """Only these tokens are generated; the model ends its answer only if its stop token is one of them."""
    bad_words: list[str] = []
    """Texts whose tokens are never generated in a row."""

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(key.isascii() and key.isdigit() and len(key) < 20 for key in value):
            raise ValueError("the keys are token ids")
        return value

    def with_defaults(self, defaults: Mapping[str, float]) -> Self:
        """The same, with `defaults` for what it leaves open."""
        return self.model_copy(update={k: v for k, v in defaults.items() if k not in self.model_fields_set})

    def sampled_times(
        self,
        n: int,
        *,
        max_tokens: int | None,
        stop: tuple[str, ...],
        eos: Iterable[int],
        encode: Encode | None = None,
    ) -> list[SamplingParams]:
        """The sampling of each of n choices: the first with the request's seed, the others with seeds drawn from it.

        `eos` are the model's own stop tokens, `encode` is for `bad_words`; a `max_tokens` of 0 asks for no token.
        Raises RequestError, with `param`, for values out of bounds.
        """
        if max_tokens is not None and self.min_tokens > max_tokens:
            text = f"min_tokens is {self.min_tokens}, and the answer may have {max_tokens} tokens at most"
            raise RequestError(text, param="min_tokens")
        own = self.model_dump(include=set(SampledRequest.model_fields) - OTHERWISE)
        first = SamplingParams(
            **own,
            logit_bias=tuple((int(token), value) for token, value in self.logit_bias.items()),
            allowed_token_ids=None if self.allowed_token_ids is None else tuple(self.allowed_token_ids),
            bad_words=tuple(_spellings(self.bad_words, encode)) if encode else (),
            max_tokens=max_tokens or None,
            stop=stop,
            stop_token_ids=tuple(dict.fromkeys((*self.stop_token_ids, *(() if self.ignore_eos else eos)))),
            ignored_stop_ids=tuple(eos) if self.ignore_eos else (),
        )
        seeds = [self.seed]
        for index in range(1, n):
            seeds.append(None if self.seed is None else random.Random(f"{self.seed}/{index}").getrandbits(63))
        return [replace(first, seed=seed) for seed in seeds]


def _spellings(words: Iterable[str], encode: Encode) -> Iterator[tuple[int, ...]]:
    """The ids of each word, at the beginning of a text and after a space."""
    for word in (each.lstrip() for each in words if each.strip()):
        yield from dict.fromkeys((tuple(encode(word)), tuple(encode(f" {word}"))))


def model_defaults(base: Path) -> dict[str, float]:
    """Those of MODELS_OWN that `generation_config.json` of the model in folder `base` has, as vLLM takes them.

    Raises CheckpointError for values that no request might have.
    """
    file = base / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        found = {name: read[name] for name in MODELS_OWN if read.get(name) is not None}
        SampledRequest.model_validate(found).sampled_times(1, max_tokens=None, stop=(), eos=())
    except (ValidationError, RequestError, ValueError, AttributeError) as error:
        why = request_error(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{file} cannot be used: {why}", hint="fix or remove what it says there") from error
    return found


def checked(
    body: bytes | str | dict[str, Any],
    kind: type[Body],
    neutral: dict[str, tuple],
    *,
    translate: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    translated: Iterable[str] = (),
) -> Body:
    """A body as a request of `kind`; null stands for the default, as in OpenAI's API.

    `neutral` are unsupported parameters with the values that ask for nothing, `translated` those that `translate` says
    in other words. Raises RequestError with `param` for JSON
    that is none, a missing, unknown or unsupported parameter, a wrong type or value.
    """
    asked = {}
    for name, value in translate(body if isinstance(body, dict) else _read(body)).items():
        if value is None or _asks_for_nothing(value, neutral.get(name, ())):
            continue
        if name in IGNORED and name not in kind.model_fields:
            ignore(name)
            continue
        if name in neutral:
            raise RequestError(f"{name}={json.dumps(value)[:80]} is not supported", param=name)
        asked[name] = value
    try:
        return _validated(kind, asked)
    except ValidationError as error:
        raise request_error(error, asked, known={*kind.model_fields, *neutral, *translated, *IGNORED}) from error


def _read(text: bytes | str) -> dict[str, Any]:
    """The JSON object that a body is. Raises RequestError for anything else."""
    try:
        body = writable(json.loads(text))
    except RecursionError as error:
        raise RequestError("the body is nested too deep", hint="send it with fewer levels") from error
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"the body is a JSON {JSON_NAMES[type(body)]}, not an object")
    return body


def whole(value: object) -> object:
    """A number without a fraction as an int, which JSON Schema calls an integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _validated(kind: type[Body], asked: dict[str, Any]) -> Body:
    """A request of `kind`, in which 5.0 is taken where 5 is. Raises ValidationError."""
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        wrong = [each for each in error.errors(include_url=False) if each["type"] == "int_type"]
        fractionless = [place_of(each, asked) for each in wrong if whole(each["input"]) is not each["input"]]
        if not fractionless:
            raise
    asked = copy.deepcopy(asked)
    for place in fractionless:
        holder: Any = asked
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = whole(holder[place[-1]])
    return kind.model_validate(asked)


def _asks_for_nothing(value: object, neutral: tuple) -> bool:
    return any(type(whole(value)) is type(each) and value == each for each in neutral)


def writable(value: object) -> object:
    """Parsed JSON without halves of surrogate pairs: JSON can spell them and UTF-8 cannot. They become U+FFFD.

    Raises RecursionError for what is nested too deep to be written.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


def request_error(error: ValidationError, body: object = None, known: Iterable[str] = ()) -> RequestError:
    """A pydantic validation of `body` that failed as a RequestError that names the field.

    For a parameter that does not exist the hint is the nearest of the `known` ones, if one is near.
    """
    # The misspelled name says more than that the right one is missing.
    errors = sorted(error.errors(include_url=False), key=lambda each: not _is_unknown_parameter(each))
    _, sentence = complaint(errors, body)
    param = str(errors[0]["loc"][0]) if errors[0]["loc"] else None
    unknown = _is_unknown_parameter(errors[0])
    guesses = difflib.get_close_matches(param or "", sorted(known), n=1) if unknown else []
    return RequestError(sentence, hint=f"did you mean '{guesses[0]}'?" if guesses else "", param=param)


def _is_unknown_parameter(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1


def encode(value: BaseModel) -> str:
    """JSON as OpenAI writes it: fields that were never set are absent, null ones are null."""
    return value.model_dump_json(exclude_unset=True, by_alias=True)
