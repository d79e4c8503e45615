"""Which tokens of a rendered dialogue are learned.

The marker is `<|start|>assistant`: it covers every channel, tool calls and each message's stop token. What it does not
cover are the words of system, developer, user and tools.
"""

from collections.abc import Sequence

from models import harmony

IGNORED = -100
"""The label that PyTorch's cross entropy skips."""


def response_labels(ids: Sequence[int], marker: Sequence[int], ends: frozenset[int]) -> list[int]:
    """Labels for one dialogue: the token itself from after each `marker` up to and including the message's end token,
    IGNORED elsewhere.

    `ids` are the dialogue's tokens, `marker` those of `<|start|>assistant`, `ends` the ids that close a message. A last
    message that was cut before its end is learned as far as it goes.
    """
    labels = [IGNORED] * len(ids)
    width, position = len(marker), 0
    marker = list(marker)
    while position < len(ids):
        if list(ids[position : position + width]) != marker:
            position += 1
            continue
        position += width
        while position < len(ids):
            labels[position] = ids[position]
            position += 1
            if ids[position - 1] in ends:
                break
    return labels


def response_marker(tokenizer) -> list[int]:
    """Token ids of `<|start|>assistant`."""
    return tokenizer.encode(f"{harmony.START}assistant", add_special_tokens=False)


def message_ends(tokenizer) -> frozenset[int]:
    """Ids of the tokens that close a message: `<|end|>`, `<|call|>`, `<|return|>`."""
    return frozenset(tokenizer.convert_tokens_to_ids([harmony.END, *harmony.STOP_TOKENS]))
