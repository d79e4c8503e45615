"""Names and words that dialogues are filled with, and names that mean nothing. Called by `corpus` and `errands`."""

import random

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Zoe", "Ada",
)  # fmt: skip
WORDS = (
    "banana", "window", "river", "music", "garden", "silver", "bridge", "candle", "pepper", "rocket", "summer", "apple",
    "flower", "castle", "winter", "yellow", "pencil", "dragon",
)  # fmt: skip


def invented_name(rng: random.Random) -> str:
    """A pronounceable name of one to four syllables that means nothing, such as Zorblax."""
    syllables = [
        rng.choice(("b", "br", "d", "dr", "f", "g", "gl", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "qu", "r", "s",
                    "st", "t", "tr", "v", "w", "x", "z", "T", ""))
        + rng.choice("aeiouy")
        + rng.choice(("", "", "n", "r", "l", "x", "m", "nd", "k", "s", "t", "sh"))
        for _ in range(rng.randint(1, 4))
    ]  # fmt: skip
    name = "".join(syllables)
    return name[0].upper() + name[1:] if rng.random() < 0.8 else name.lower()
