"""What an answer used, in OpenAI's shape. Knows no route; chat and completions count, this writes."""

from openai.types import CompletionUsage
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails


def usage(prompt: int, completion: int, *, reasoning: int = 0) -> CompletionUsage:
    """Tokens of a prompt and of all its answers together, of which `reasoning` were thought.

    No engine keeps prompts, so none of a prompt's tokens is cached.
    """
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0, audio_tokens=0),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=reasoning, audio_tokens=0, accepted_prediction_tokens=0, rejected_prediction_tokens=0
        ),
    )
