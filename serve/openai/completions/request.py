"""The body of `POST /v1/completions`, checked: prompts go to the engine as they are, without a chat format.

`completion_answer` writes what comes out. What OpenAI does not know is vLLM's: https://docs.vllm.ai (Completions API).
"""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from serve.engine.protocol import Constraint
from serve.engine.sampling import SamplingParams
from serve.openai.body import Encode, checked, whole
from serve.openai.fields import dialects
from serve.openai.fields.harmony_grammar import text_grammar
from serve.openai.fields.streamed import MOST_LIKELIEST, StreamedRequest

MOST_CHOICES = 64

NEUTRAL = {
    "best_of": (1,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "prompt_embeds": (),
    "documents": ([],),
    "logprob_token_ids": (),
}
"""Parameters that are not supported, with the values that ask for nothing."""

Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


Texts = Annotated[list[Text], Field(min_length=1)]
IdLists = Annotated[list[Ids], Field(min_length=1)]


def _one_or_several_prompts(value: object) -> object:
    def ids(each: object) -> bool:
        return isinstance(each, list) and all(type(whole(item)) is int for item in each)

    prompts = value if isinstance(value, list) and not ids(value) else [value]
    if not all(isinstance(each, str) or ids(each) for each in prompts) or len({type(each) for each in prompts}) > 1:
        raise ValueError("is neither a text, nor a list of token ids, nor a list of one of the two")
    if not all(prompts):
        raise ValueError("is empty")
    return value


class CompletionRequest(StreamedRequest):
    """The body of POST /v1/completions. Make it with `parse_request`."""

    model: str = Field(min_length=1)
    """`prod`, `base`, the base's name or a loaded adapter version."""
    prompt: Annotated[Text | Ids | Texts | IdLists, BeforeValidator(_one_or_several_prompts)]
    """A text, a list of token ids, or a list of either."""
    max_tokens: int = Field(default=16, ge=0)
    """How many tokens to add; 0 only together with `echo` or `prompt_logprobs`."""
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    """Choices per prompt; prompts times `n` are at most 64."""
    echo: bool = False
    """True: `text` begins with the prompt, and `logprobs` has the prompt's tokens too."""
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LIKELIEST)
    """Every token with its log-probability, and so many of the likeliest at its place."""
    add_special_tokens: bool = True
    """False: a text's ids without the special tokens that the tokenizer puts around it."""
    skip_special_tokens: bool = True
    """False: special tokens show in `text`."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ValueError("max_tokens is 0, so ask for echo or prompt_logprobs")
        if (choices := len(self.prompts) * self.n) > MOST_CHOICES:
            raise ValueError(f"{len(self.prompts)} prompts with n={self.n} are {choices} choices, over {MOST_CHOICES}")
        return self

    @property
    def texts(self) -> list[str]:
        """The prompts that are texts: all of them or none."""
        return (
            [self.prompt] if isinstance(self.prompt, str) else [each for each in self.prompt if isinstance(each, str)]
        )

    @property
    def id_lists(self) -> list[list[int]]:
        """The prompts that are ids: none of them or all."""
        if isinstance(self.prompt, str):
            return []
        ids = [each for each in self.prompt if isinstance(each, int)]
        return [ids] if ids else [each for each in self.prompt if isinstance(each, list)]

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        return self.texts or self.id_lists

    @property
    def scored_prompt(self) -> int | None:
        """How many of the likeliest tokens to score beside each one of the prompt; None scores none."""
        wanted = (self.prompt_logprobs, self.logprobs if self.echo else None)
        return max((most for most in wanted if most is not None), default=None)

    def samplings(self, eos: Iterable[int], encode: Encode | None = None) -> list[SamplingParams]:
        """One per choice of a prompt, see `sampled_times`."""
        return self.sampled_times(self.n, max_tokens=self.max_tokens, stop=self.stops, eos=tuple(eos), encode=encode)

    def constraint(self) -> Constraint | None:
        """What the text is held to; None leaves the model free. Raises RequestError."""
        answer, param = self.held
        return None if answer is None else self.constraint_of(text_grammar(answer, param), param)


def parse_request(body: bytes | str | dict[str, Any]) -> CompletionRequest:
    """A checked request; see `body.checked`."""
    return checked(body, CompletionRequest, NEUTRAL, translate=dialects.common, translated=dialects.COMMON)
