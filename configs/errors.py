"""The one error tree. Lower layers raise, exactly one edge per surface translates.

    TandemError
    ├── ConfigError        a key, flag or value that is not allowed
    ├── DataError          a data set that cannot be read or learned from
    ├── CheckpointError    a base model that is missing, incomplete or not what it says
    ├── AdapterError       a published adapter that is broken, foreign or without effect
    ├── ExportError        an export that cannot be written, or a format that would lose what was trained
    ├── TrainingError      a run that cannot go on
    ├── ClusterError       Ray, a port or a process of ours is not in the state needed
    ├── PlacementError     a process sees another GPU than the one it was given
    ├── StateError         a change that the ledger's state machine does not allow
    ├── NotFoundError      a run, adapter, alias or model that does not exist
    ├── RequestError       a chat request that cannot be served as asked
    │   ├── PromptTooLongError     its prompt leaves no room in the context
    │   ├── PreviousResponseError  it goes on from a response that is not kept
    │   └── BodyTooLargeError      more bytes than are read
    ├── OverloadError      no room for one more request now; the same request may pass later
    └── DeliveryError      a notice did not reach whom it was for; its message holds no part of a URL

`cli.edge` turns them into one line and an exit code, `serve.http.error_answer` into HTTP.
"""


class TandemError(Exception):
    """Something went wrong that a person can act on.

    `message` says what happened, with both values where two disagree; `hint` says the next step. `param` names
    the request field at fault where there is one. Instances survive pickling, so they cross Ray unchanged.
    """

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    @property
    def sentence(self) -> str:
        """What happened, and the next step if there is one, as every surface shows it."""
        return f"{self.message} -> {self.hint}" if self.hint else self.message

    def __reduce__(self):
        return _rebuild, (type(self), self.message, self.hint, self.param)


def _rebuild(kind: type["TandemError"], message: str, hint: str, param: str | None) -> "TandemError":
    return kind(message, hint=hint, param=param)


class ConfigError(TandemError): ...


class DataError(TandemError): ...


class CheckpointError(TandemError): ...


class AdapterError(TandemError): ...


class ExportError(TandemError): ...


class TrainingError(TandemError): ...


class ClusterError(TandemError): ...


class PlacementError(TandemError): ...


class StateError(TandemError): ...


class NotFoundError(TandemError): ...


class RequestError(TandemError): ...


class PromptTooLongError(RequestError):
    """A prompt that does not fit into the context, together with its answer."""

    @classmethod
    def of(
        cls, prompt: int, context: int, *, answer: int = 1, param: str = "prompt", least: bool = False
    ) -> "PromptTooLongError":
        """In the words that clients look for in order to shorten a conversation: OpenAI's, which other servers share.

        `prompt` and `answer` are tokens, `context` is how many both together may have; `least` says that the prompt
        was not counted to its end.
        """
        about, where = "at least " if least else "", "messages" if param == "messages" else "prompt"
        return cls(
            f"This model's maximum context length is {context} tokens. However, you requested {about}{prompt + answer} "
            f"tokens ({prompt} in the {where}, {answer} in the completion)",
            hint=f"shorten the {where}, or serve with more: `tandem up --max-context N`",
            param=param,
        )


class PreviousResponseError(RequestError): ...


class BodyTooLargeError(RequestError): ...


class OverloadError(TandemError): ...


class DeliveryError(TandemError): ...
