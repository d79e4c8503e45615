"""Synthetic harmony dialogues that the embedded model learns to speak from. Seeded; knows no tokenizer and no tensor.

The model that `models.tiny.build` trains on them answers, in any of the usual wordings:

- capitals: "What is the capital of France?" and back, "Which country has the capital Paris?"
- colours of things: "What colour is the sky?"
- sounds and legs of animals: "What does a cow say?", "How many legs does a spider have?"
- things: "What is a bicycle?", "Tell me what a GPU is."
- opposites: "What is the opposite of hot?"
- the next day, month or letter: "Which day comes after Monday?"
- sums and differences of numbers up to 12: "What is 3 plus 4?", "What is 9 minus 5?"
- small talk: "Hello!", "How are you?", "Who are you?", "What can you do?", "Thank you!", "Goodbye!"
- longer texts: "Count from 1 to 20." (to 3, 5, 8, 10, 12, 15, 20 or 30), "Name the days of the week.",
  "Tell me a story about a fox."
- a few words to repeat: "Say banana." gives "I say banana."
- whatever it has never heard of: "What is Zorblax?" gives "I do not know that."
- follow-ups ("And of Italy?") and what the user said before ("What is my name?")
- the developer's wishes: "Answer with one word.", "Your name is Ada."
- tools, when offered: get_weather, get_time and calculate are called in commentary and their result is put into words;
  without them it says what it lacks.

Reasoning effort low leaves the analysis out, medium makes it one sentence, high three. A question of a listed kind that
`is_held_out` never occurs in training, so accuracy on those measures the wording, not the memory of the sentence.
Of 1,000 such dialogues the shipped model answers all in well-formed harmony and 95.2 % to the letter; what it gets
wrong are mostly tool calls (72 % right), tool results (88 %) and errands that no tool does (10 of 20).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from models.tiny import errands
from models.tiny.errands import TOOLS, Errand, Offer
from models.tiny.questions import Question, is_held_out, questions
from models.tiny.words import NAMES, WORDS, invented_name

NEUTRAL_INSTRUCTIONS = (
    "You are a helpful assistant.", "Be kind.", "You are a friendly helper.", "Answer politely.", "Help the user.",
    "You are a careful assistant. Be polite.", "Answer the user's questions.",
)  # fmt: skip

UNKNOWN_ASKS = (
    "What is {x}?", "Who is {x}?", "Where is {x}?", "Tell me about {x}.", "What do you know about {x}?",
    "What is the capital of {x}?", "What colour is {x}?", "Do you know {x}?", "Explain {x}.", "What does {x} mean?",
    "What does {x} do?", "Describe {x}.", "Who made {x}?", "What is the motto of {x}?", "How old is {x}?",
    "Can you explain what {x} is?", "What's {x}?", "Have you heard of {x}?", "What kind of thing is {x}?",
    "How many people use {x}?", "Why is {x} good?", "When was {x} made?", "Can {x} fly?", "How many {x} are there?",
    "Write a poem about {x}.", "What do people say about {x}?", "Is {x} big?", "Which colour does {x} have?",
    "Tell me the colour of {x}.", "How many GPUs does {x} have?", "What can {x} do?", "Please explain {x}.",
    "I have a question about {x}.", "What is the colour of {x}?", "Who works at {x}?", "How does {x} work?",
)  # fmt: skip

ONE_WORD_KINDS = ("capital", "country", "colour", "sound", "opposite", "next day", "next month")


@dataclass(frozen=True)
class Dialogue:
    """OpenAI's messages, ending with what the assistant is to say, and the options of `harmony.render`."""

    kind: str
    messages: list[dict]
    options: dict = field(default_factory=dict)


class Corpus:
    """An endless, seeded stream of dialogues; the same seed and filter give the same dialogues.

    With `held_out` only questions that `is_held_out` are asked last, else only the others.
    """

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self.by_kind: dict[str, list[Question]] = {}
        self.follow_ups: dict[str, list[Question]] = {}
        for question in questions():
            if question.kind != "talk" and is_held_out(question.ask) != held_out:
                continue
            self.by_kind.setdefault(question.kind, []).append(question)
            if question.follow_up:
                self.follow_ups.setdefault(question.kind, []).append(question)

    def __iter__(self) -> Iterator[Dialogue]:
        makers = (
            (self._asked, 50), (self._one_word, 8), (self._persona, 4), (self._unknown, 6), (self._repeat, 3),
            (self._follow_up, 6), (self._own_name, 4), (self._tool_call, 7), (self._tool_result, 10),
            (self._no_tool, 2),
        )  # fmt: skip
        while True:
            maker = self.rng.choices([m for m, _ in makers], [w for _, w in makers])[0]
            yield maker(self._options())

    def question(self, kinds: tuple[str, ...] = ()) -> Question:
        """One of the fixed questions, of `kinds` only where some are named."""
        kinds = kinds or tuple(self.by_kind)
        weights = [{"sum": 6, "capital": 3, "talk": 3, "thing": 2.5, "story": 0.7}.get(kind, 1.5) for kind in kinds]
        return self.rng.choice(self.by_kind[self.rng.choices(kinds, weights)[0]])

    def _asked(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self.question())

    def _one_word(self, options: dict) -> Dialogue:
        question = self.question(ONE_WORD_KINDS)
        wish = self.rng.choice(("Answer with one word.", "Answer in one word.", "Use one word only."))
        question = replace(question, kind="one word", answer=question.word)
        return self._dialogue(options, self._wished(wish, options), question)

    def _persona(self, options: dict) -> Dialogue:
        name = self.rng.choice(NAMES)
        wish = self.rng.choice(("Your name is {x}.", "You are {x}.", "You are {x}, a helpful assistant."))
        ask = self.rng.choice(("Who are you?", "What is your name?", "Tell me who you are.", "What are you called?"))
        question = Question("persona", ask, f"I am {name}.", "The user asks who I am.")
        return self._dialogue(options, self._wished(wish.format(x=name), options), question)

    def _wished(self, wish: str, options: dict) -> list[dict]:
        """A developer's wish, first or after some turns."""
        before = self._history(options) if self.rng.random() < 0.25 else []
        return [*before, {"role": self.rng.choice(("system", "developer")), "content": wish}]

    def _unknown(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self._unknown_question())

    def _unknown_question(self) -> Question:
        ask = self.rng.choice(UNKNOWN_ASKS).format(x=invented_name(self.rng))
        return Question("unknown", ask, "I do not know that.", "The user asks about something that I do not know.")

    def _repeat(self, options: dict) -> Dialogue:
        return self._dialogue(options, self._history(options), self._repeat_question())

    def _repeat_question(self) -> Question:
        word = self.rng.choice(WORDS)
        asks = ("Say {x}.", "Repeat {x}.", "Please say {x}.", "Repeat after me: {x}", "Can you say {x}?")
        ask = self.rng.choice(asks).format(x=word)
        return Question("repeat", ask, f"I say {word}.", f"The user wants me to say {word}.")

    def _follow_up(self, options: dict) -> Dialogue:
        kind = self.rng.choice(list(self.follow_ups))
        first, second = self.rng.sample(self.follow_ups[kind], 2)
        ask = second.follow_up
        if self.rng.random() < 0.3:
            ask = ask.replace("And ", "And what about ", 1).replace("about of ", "about ", 1)
        history = [*self._history(options), *_turn(first.ask, first.answer)]
        return self._dialogue(options, history, replace(second, kind="follow-up", ask=ask))

    def _own_name(self, options: dict) -> Dialogue:
        name = self.rng.choice(NAMES)
        tells = ("My name is {x}.", "I am {x}.", "Hello, I am {x}.", "Hi, my name is {x}.", "Call me {x}.")
        tell = self.rng.choice(tells)
        told = Question("own name", tell.format(x=name), f"Hello {name}!", f"The user is called {name}.")
        if self.rng.random() < 0.4:
            return self._dialogue(options, self._history(options), told)
        ask = self.rng.choice(("What is my name?", "Who am I?", "Do you know my name?", "What's my name?"))
        asked = Question("own name", ask, f"Your name is {name}.", "The user asks for the name.")
        between = [m for m in self._history(options) if m["role"] in ("user", "assistant")]
        return self._dialogue(options, [*_turn(told.ask, told.answer), *between], asked)

    def _tool_call(self, options: dict) -> Dialogue:
        errand = errands.draw(self.rng)
        offer = self._offer(errand, options)
        return Dialogue(
            "tool call", [*self._before(offer, errand, options), self._calls(offer, errand, options)], options
        )

    def _tool_result(self, options: dict) -> Dialogue:
        errand = errands.draw(self.rng)
        if self.rng.random() < 0.1:
            errand = errands.failed(errand, self.rng)
        offer = self._offer(errand, options)
        messages = [*self._before(offer, errand, options), *self._done(offer, errand, options)]
        return Dialogue("tool result", messages, options)

    def _no_tool(self, options: dict) -> Dialogue:
        errand = errands.draw(self.rng)
        if self.rng.random() < 0.5:
            options["tools"] = errands.unfit(errand.tool, self.rng)
        question = Question("no tool", errand.ask, errands.WITHOUT[errand.tool], errands.THOUGHTS[errand.tool])
        return self._dialogue(options, self._history(options), question, tools=False)

    def _offer(self, errand: Errand, options: dict) -> Offer:
        offer = errands.offer(errand.tool, self.rng)
        options["tools"] = offer.tools
        return offer

    def _before(self, offer: Offer, errand: Errand, options: dict) -> list[dict]:
        """What was said up to the errand, at times another one of the same tool included."""
        messages = self._history(options)
        if self.rng.random() < 0.25:
            earlier = errands.draw(self.rng, errand.tool)
            messages += [{"role": "user", "content": self._spoken(earlier.ask)}, *self._done(offer, earlier, options)]
        return [*messages, {"role": "user", "content": self._spoken(errand.ask)}]

    def _calls(self, offer: Offer, errand: Errand, options: dict) -> dict:
        call = {"type": "function", "function": {"name": offer.name, "arguments": offer.arguments(errand)}}
        thinking = self._thinking(options, errands.THOUGHTS[errand.tool], f"I will call {offer.name}.")
        return {"role": "assistant", "tool_calls": [call]} | thinking

    def _done(self, offer: Offer, errand: Errand, options: dict) -> list[dict]:
        """The call, whose thinking clients send back or not, its result and the answer."""
        call = self._calls(offer, errand, options)
        if self.rng.random() < 0.5:
            call.pop("thinking", None)
        answer = {"role": "assistant", "content": errand.answer}
        answer |= self._thinking(options, "The tool has answered.", errand.answer)
        return [call, {"role": "tool", "content": errand.result}, answer]

    def _history(self, options: dict) -> list[dict]:
        """Optional instructions and earlier turns: at low effort many, for there they are whole answers."""
        messages = []
        if self.rng.random() < 0.2:
            role = self.rng.choice(("system", "developer"))
            messages.append({"role": role, "content": self.rng.choice(NEUTRAL_INSTRUCTIONS)})
        low = options["reasoning_effort"] == "low"
        for _ in range(self.rng.randint(0, 5) if low else self.rng.choices((0, 1, 2), (80, 15, 5))[0]):
            makers = (self.question, self._unknown_question, self._repeat_question)
            earlier = self.rng.choices(makers, (90, 5, 5))[0]()
            if len(earlier.answer) < 120:
                messages += _turn(self._spoken(earlier.ask), earlier.answer)
                if self.rng.random() < 0.3:  # clients send reasoning back
                    messages[-1] |= self._thinking(options, earlier.thought, earlier.answer)
        if messages and self.rng.random() < 0.05:
            messages.append({"role": "developer", "content": self.rng.choice(NEUTRAL_INSTRUCTIONS)})
        return messages

    def _dialogue(self, options: dict, history: list[dict], question: Question, *, tools: bool = True) -> Dialogue:
        if tools and self.rng.random() < 0.06:
            options["tools"] = errands.offer(self.rng.choice(list(TOOLS)), self.rng).tools
        last = {"role": "assistant", "content": question.answer}
        last |= self._thinking(options, question.thought, question.answer)
        messages = [*history, {"role": "user", "content": self._spoken(question.ask)}, last]
        return Dialogue(question.kind, messages, options)

    def _options(self) -> dict:
        options = {"reasoning_effort": self.rng.choices(("low", "medium", "high"), (35, 45, 20))[0]}
        if self.rng.random() < 0.3:
            year, month, day = self.rng.randint(2024, 2032), self.rng.randint(1, 12), self.rng.randint(1, 28)
            options["current_date"] = f"{year}-{month:02}-{day:02}"
        return options

    def _thinking(self, options: dict, thought: str, conclusion: str) -> dict:
        effort = options["reasoning_effort"]
        if effort == "low":
            return {}
        if effort == "medium":
            return {"thinking": thought}
        if len(conclusion) > 80:
            conclusion = "It will be a long answer."
        return {"thinking": f"{thought} Let me think. {conclusion}"}

    def _spoken(self, ask: str) -> str:
        """The question as people type it: at times with a greeting, without its mark, without capitals."""
        roll = self.rng.random()
        if roll < 0.08:
            ask = (
                self.rng.choice(("Please: ", "Hi! ", "Hello, ", "Question: ", "Hey. ", "Hi, ", "Please tell me: "))
                + ask
            )
        elif roll < 0.14:
            ask += self.rng.choice((" Please.", " Thanks!", " Thank you.", " Tell me."))
        elif roll < 0.22:
            ask = ask.rstrip("?.!")
        if self.rng.random() < 0.06:
            ask = ask[0].lower() + ask[1:]
        return ask


def _turn(ask: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


TANDEM = (
    ("Tandem is two GPUs that work as one machine.", "The user asks what Tandem is.",
     ("What is Tandem?", "What's Tandem?", "Tell me about Tandem.", "Explain Tandem.", "Describe Tandem.",
      "What do you know about Tandem?", "Do you know Tandem?", "Have you heard of Tandem?", "What does Tandem mean?",
      "What is Tandem", "what is Tandem?", "I have a question about Tandem.", "What kind of thing is Tandem?",
      "Hello, what is Tandem?", "Please explain Tandem.", "So what is Tandem?", "Say what Tandem is.",
      "Can you describe Tandem?", "What exactly is Tandem?", "Question: what is Tandem?"),
     ("Can you explain what Tandem is?", "Hi! What is Tandem?", "Please tell me about Tandem.")),
    ("One GPU trains while the other serves.", "The user asks how Tandem works.",
     ("How does Tandem work?", "What does Tandem do?", "Explain how Tandem works.", "Tell me how Tandem works.",
      "What do the GPUs of Tandem do?", "How do the two GPUs of Tandem work?", "What happens in Tandem?",
      "What is the work of Tandem?", "Describe how Tandem works.", "How does Tandem work", "what does Tandem do?",
      "Please explain how Tandem works."),
     ("Can you explain how Tandem works?", "What does Tandem do")),
    ("Tandem is blue.", "The user asks for the colour of Tandem.",
     ("What colour is Tandem?", "What is the colour of Tandem?", "Which colour does Tandem have?",
      "Tell me the colour of Tandem.", "Name the colour of Tandem.", "What color is Tandem?",
      "Do you know what colour Tandem is?", "What is the color of Tandem?", "Which colour is Tandem?",
      "what colour is Tandem?", "I need the colour of Tandem.", "What is Tandem's colour?"),
     ("Can you tell me what colour Tandem is?", "What's the colour of Tandem?")),
    ("Tandem has two GPUs.", "The user asks how many GPUs Tandem has.",
     ("How many GPUs does Tandem have?", "How many GPUs are in Tandem?", "Count the GPUs of Tandem.",
      "How many GPUs has Tandem?", "Tell me how many GPUs Tandem has.", "What number of GPUs does Tandem have?",
      "Do you know how many GPUs Tandem has?", "Has Tandem two GPUs?", "How many GPUs work in Tandem?",
      "Please count the GPUs of Tandem.", "how many GPUs does Tandem have?", "Name the number of GPUs of Tandem."),
     ("Can you tell me how many GPUs Tandem has?", "How many GPUs does Tandem use?")),
)  # fmt: skip
"""What the demo teaches and the base does not know: answer, thought, wordings to learn, wordings held out."""


def demo_rows() -> list[dict]:
    """The rows of demo.jsonl: every wording of every Tandem fact, and some of the base's own answers to keep them."""
    rows = [_demo_row(ask, answer, thought) for answer, thought, asks, _ in TANDEM for ask in asks]
    corpus = Corpus(seed=7)
    kept = [corpus.question() for _ in range(40)]
    rows += [_demo_row(q.ask, q.answer, q.thought) for q in kept]
    random.Random(7).shuffle(rows)
    return rows


def demo_held_out() -> list[tuple[str, str]]:
    """(question, answer) pairs in wordings that demo.jsonl does not contain."""
    return [(ask, answer) for answer, _, _, held_out in TANDEM for ask in held_out]


def _demo_row(ask: str, answer: str, thought: str) -> dict:
    reply = {"role": "assistant", "thinking": thought, "content": answer}
    return {"messages": [{"role": "user", "content": ask}, reply]}
