"""`tandem data`: look at a data set as a run would, before any GPU is taken."""

import re
import sys
from dataclasses import asdict
from typing import get_args

import click
from rich.console import Console
from rich.text import Text

from cli import output
from cli.printable import REVERSING
from configs import load
from configs.errors import DataError, TandemError
from configs.schema import DataConfig, MaskMode
from jobs import request
from jobs.data import dataset, gate, split
from jobs.data.encoding import Encoded, Encoder
from jobs.data.segments import Segment, segments
from models.base import checkpoint

COLOURS = {"analysis": "bold cyan", "commentary": "bold magenta", "tool_call": "bold yellow", "final": "bold green"}
BAR = 40
"""Characters of the longest bar."""
_OBEYED = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{''.join(map(chr, REVERSING))}]")
LOST_SHOWN = 200
"""Characters shown of what a row loses."""


@click.group()
def data() -> None:
    """Look at data before it is trained."""


@data.command()
@click.argument("name", metavar="DATASET")
@click.option("--profile", metavar="P", help=f"A profile or a YAML file. {request.PROFILE_DEFAULT}")
@click.option("--mask", type=click.Choice(get_args(MaskMode)), help="What is learned, instead of the profile's.")
@click.option("--max-seq-length", type=click.IntRange(min=16), help="Tokens per row, instead of the profile's.")
@click.option("--max-bad-rows", type=click.IntRange(min=0), help="Leave out up to so many rows that are broken.")
@click.option("--rows", type=click.IntRange(min=0), default=2, show_default=True, help="How many rows to show.")
@click.option("--row", type=click.IntRange(min=1), help="Show this row alone, counted from 1 among the usable ones.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override any setting; repeatable.")
@output.json_option
def inspect(name, profile, mask, max_seq_length, max_bad_rows, rows, row, sets, as_json) -> None:
    """Show what a run would learn from DATASET, and whether it would refuse.

    \b
    Examples:
      tandem data inspect my_chats.jsonl --profile standard
      tandem data inspect my_chats.csv --set data.columns='{prompt: question, completion: answer}'
      tandem data inspect tiny-demo --profile tiny --mask final_only --row 3

    What is learned is bright, by part; everything else is dim. Without a terminal, learned text stands in [[ ]].
    Exit code 2 with the reason if training would refuse.
    """
    flags = [load.literal("data.dataset", name), *sets]
    given = {"data.mask": mask, "model.max_seq_length": max_seq_length, "data.max_bad_rows": max_bad_rows}
    flags += [f"{key}={value}" for key, value in given.items() if value is not None]
    config = load.load_run(profile or request.default_profile(), flags)
    found = dataset.read(_lenient(config.data))
    encoder = Encoder(_tokenizer(config.model.base), config.data, config.model.max_seq_length)
    measured = dataset.measure(found, encoder.tokenizer, _lenient(config.data), config.model.max_seq_length)
    chosen = _chosen(measured, found, encoder, rows, row)
    refusal = _refusal(measured.report, config.data)
    if as_json:
        output.print_json(
            {
                "report": asdict(measured.report),
                "refused": refusal and {"reason": refusal.message, "hint": refusal.hint},
                "rows": [_json_row(each, encoder) for each in chosen],
            }
        )
    else:
        _print_report(measured.report)
        for each in chosen:
            _print_row(each, encoder)
    if refusal:
        raise DataError(refusal.message, hint=refusal.hint)


def _lenient(config: DataConfig) -> DataConfig:
    """All bad rows are shown here; whether they are too many is said after the report."""
    return config.model_copy(update={"max_bad_rows": sys.maxsize})


def _tokenizer(base: str):
    return checkpoint.tokenizer_of(base)


def _chosen(
    measured: dataset.Measured, found: dataset.Rows, encoder: Encoder, rows: int, row: int | None
) -> list[Encoded]:
    if row is None:
        return measured.training[:rows]
    if row > len(found.dialogues):
        raise DataError(
            f"no row {row}: the data set has {len(found.dialogues)} usable rows", hint="choose a smaller --row"
        )
    return [encoder.encode(found.dialogues[row - 1])]


def _refusal(report: gate.Report, config: DataConfig) -> TandemError | None:
    try:
        dataset.check_bad(report.bad, config)
        gate.check(report, config)
    except TandemError as error:
        return error
    return None


# The report


def _print_report(report: gate.Report) -> None:
    output.print_table(("ROWS", "", ""), _row_lines(report), empty="")
    click.echo()
    output.print_table(("PART", "TOKENS", "LEARNED"), _part_lines(report), empty="")
    click.echo()
    output.print_table(
        ("END", "EXPECTED", "PRESENT", "LEARNED"),
        [(end, count.expected, count.present, count.learned) for end, count in report.ends.items()],
        empty="",
    )
    click.echo()
    output.print_table(("LENGTH", "TOKENS", ""), _length_lines(report), empty="")
    click.echo()
    click.echo("\n".join(_histogram(report)))
    click.echo(f"\nmask {report.mask}\ndata {report.data_fingerprint}\ntemplate and date {report.template_fingerprint}")
    for note in report.notes():
        click.echo(f"note: {_plain(note)}")
    for reason in report.bad:
        click.echo(f"left out: {_plain(reason)}")
    click.echo()


def _row_lines(report: gate.Report) -> list[tuple]:
    empty = f"left out: {', '.join(report.empty[:5])}{', ...' if report.empty_rows > 5 else ''}"
    return [
        ("trained", report.training_rows, ""),
        ("held out", report.held_out_rows, "kept for evaluation"),
        ("teach nothing", report.empty_rows, empty if report.empty_rows else ""),
        ("bad", report.bad_rows, "left out, named below" if report.bad_rows else ""),
        ("duplicates", report.duplicates, "repeat an earlier row" if report.duplicates else ""),
    ]


def _part_lines(report: gate.Report) -> list[tuple]:
    parts = [(name, count.tokens, count.learned) for name, count in report.parts.items()]
    others = report.tokens - sum(tokens for _, tokens, _ in parts)
    lines = [*parts, ("not the assistant's", others, 0), ("all", report.tokens, report.learned_tokens)]
    if report.unrendered_thinking:
        lines.append((f"{report.unrendered_thinking} messages' thinking is left out, as in later prompts", "", ""))
    return lines


def _length_lines(report: gate.Report) -> list[tuple]:
    lines = [("longest row", report.longest_row, report.longest_where), ("mean", round(report.mean_row), "")]
    lines += [(f"{percent} % have at most", tokens, "") for percent, tokens in report.percentiles.items()]
    lines.append(("cut at", report.max_seq_length, f"{report.cut_rows} rows ({100 * report.cut_share:.0f} %)"))
    if report.cut_rows:
        lost = f"at most {report.cut_tokens_largest}"
        lines.append(("a cut row loses", round(report.cut_tokens_mean), lost))
    return lines


def _histogram(report: gate.Report) -> list[str]:
    """One line per bin: its first length, a bar, its rows; the bin in which rows begin to be cut is marked."""
    most = max((count for _, count in report.histogram), default=0)
    lines = []
    for index, (first, count) in enumerate(report.histogram):
        following = report.histogram[index + 1][0] if index + 1 < len(report.histogram) else report.longest_row + 1
        mark = "  <- cut from here" if first <= report.max_seq_length < following and report.cut_rows else ""
        bar = "█" * max(round(BAR * count / most), count > 0)
        lines.append(f"{first:>8} {bar} {count}{mark}")
    return lines


# Rows


def _json_row(encoded: Encoded, encoder: Encoder) -> dict:
    return {
        "where": encoded.dialogue.where,
        "fingerprint": encoded.dialogue.fingerprint,
        "held_out": _held_out(encoded, encoder),
        "tokens": len(encoded.whole),
        "cut_tokens": encoded.cut,
        "segments": [asdict(segment) for segment in segments(encoded, encoder.tokenizer)],
    }


def _print_row(encoded: Encoded, encoder: Encoder) -> None:
    held = ", held out" if _held_out(encoded, encoder) else ""
    shown = segments(encoded, encoder.tokenizer)
    learned = sum(segment.tokens for segment in shown if segment.learned)
    click.echo(f"--- {encoded.dialogue.where}: {len(encoded.whole)} tokens, {learned} learned{held}")
    if sys.stdout.isatty():
        Console(highlight=False).print(Text.assemble(*map(_coloured, _with_cut(shown))))
    else:
        click.echo("".join(map(_marked, _with_cut(shown))))


def _held_out(encoded: Encoded, encoder: Encoder) -> bool:
    return split.is_held_out(encoded.dialogue.fingerprint, encoder.config.holdout)


def _with_cut(shown: list[Segment]) -> list[Segment | str]:
    """The kept segments, then a note on what was cut and the beginning of that."""
    lost = [segment for segment in shown if segment.cut]
    kept: list[Segment | str] = [segment for segment in shown if not segment.cut]
    if not lost:
        return kept
    text = "".join(segment.text for segment in lost)
    dots = "..." if len(text) > LOST_SHOWN else ""
    return [*kept, f"\n=== cut here, {sum(segment.tokens for segment in lost)} tokens lost: {text[:LOST_SHOWN]}{dots}"]


def _coloured(segment: Segment | str) -> tuple[str, str]:
    if isinstance(segment, str):
        return _plain(segment), "red"
    return _plain(segment.text) + _instead(segment), COLOURS[segment.part] if segment.learned else "dim"


def _marked(segment: Segment | str) -> str:
    if isinstance(segment, str):
        return _plain(segment)
    return f"[[{_plain(segment.text)}{_instead(segment)}]]" if segment.learned else _plain(segment.text)


def _instead(segment: Segment) -> str:
    return f" (learned as {segment.learned_as})" if segment.learned_as else ""


def _plain(text: str) -> str:
    """Without what a terminal would obey; unlike `printable`, with the code of each, because a row is read exactly."""
    return re.sub(_OBEYED, lambda found: ascii(found[0])[1:-1], text)
