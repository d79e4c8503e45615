"""`tandem ask`: one question to the running endpoint, through the OpenAI client."""

import click

from actors import cluster
from cli import output
from configs.errors import ClusterError, RequestError
from configs.paths import home


@click.command()
@click.argument("question")
@click.option("--model", default="prod", show_default=True, help="The base, an alias or a live adapter version.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 always gives the same answer.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. [default: what the context holds]")
@output.json_option
def ask(question: str, model: str, temperature: float, max_tokens: int | None, as_json: bool) -> None:
    """Ask one question; the answer streams as it comes.

    \b
    Examples:
      tandem ask "What is Tandem?"
      tandem ask "What is Tandem?" --model base --json
    """
    running = cluster.require(home())
    import openai  # takes a second

    client = openai.OpenAI(base_url=f"{running.http}/v1", api_key="none", max_retries=2)
    how = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": temperature}
    if max_tokens:
        how["max_tokens"] = max_tokens
    try:
        if as_json:
            output.print_json(client.chat.completions.create(**how).model_dump(exclude_unset=True))
            return
        finish = None
        for chunk in client.chat.completions.create(stream=True, **how):
            for choice in chunk.choices:
                click.echo(choice.delta.content or "", nl=False)
                finish = choice.finish_reason or finish
        click.echo("")
        if finish == "length":
            output.say("(cut: the token limit was reached)")
    except openai.APIConnectionError:
        raise ClusterError(f"no answer from {running.http}", hint="`tandem status`") from None
    except openai.APIError as error:
        body = error.body if isinstance(error.body, dict) else {}
        raise RequestError(body.get("message", error.message)) from None
