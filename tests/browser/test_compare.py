"""Two answers side by side and the vote, in a real Chromium."""

import json

import pytest
from playwright.sync_api import expect

from tests.samples import publish


@pytest.fixture
def seen(stage, window):
    opened = window()
    opened.page.get_by_role("tab", name="Side by side").click()
    return opened


def ask(seen, question: str = "Who is better?") -> None:
    seen.page.fill("#compare-question textarea", question)
    seen.page.press("#compare-question textarea", "Enter")


def choose(seen, side: str, name: str) -> None:
    seen.page.fill(f"#model-{side} input", name)
    seen.page.press(f"#model-{side} input", "Enter")


def votes(stage) -> list[dict]:
    return [json.loads(line) for line in (stage.home.preferences / "votes.jsonl").read_text().splitlines()]


def test_both_answer_at_once_blind_and_the_vote_names_them_and_is_kept(stage, seen):
    version = publish(stage.gateway.registry).version
    stage.swap(version)
    same = "The same from both. " * 30
    stage.recite(same, "Thinking it over.", delay=0.01)
    ask(seen)
    for side in "ab":
        expect(seen.page.locator(f"#log-{side}")).to_contain_text("The same")
    assert stage.engine.stats().running == 2
    expect(seen.page.locator("#log-a .bubble.user-row")).to_have_count(1)
    expect(seen.page.locator("#log-a").get_by_label("Copy message")).to_have_count(2)  # the question's, the answer's
    for choice in ("a", "b", "tie", "both_bad"):
        expect(seen.page.locator(f"#vote-{choice}")).to_be_visible()
    for place in ("#name-a", "#name-b", "#statistics-a", "#statistics-b"):
        shown = seen.page.locator(place).inner_text()
        assert version not in shown
        assert "base" not in shown
        assert "prod" not in shown
    seen.page.click("#vote-b")
    expect(seen.page.locator("#compare-notice")).to_contain_text("votes.jsonl")
    names = {side: seen.page.locator(f"#name-{side} span").inner_text() for side in "ab"}
    assert sorted(names.values()) == ["base", "prod"]
    (vote,) = votes(stage)
    assert (vote["vote"], vote["tie"], vote["blind"]) == ("b", False, True)
    assert vote["prompt"] == [{"role": "user", "content": "Who is better?"}]
    assert vote["chosen"] == [{"role": "assistant", "content": same, "thinking": "Thinking it over."}]
    assert (vote["chosen_model"], vote["rejected_model"]) == (names["b"], names["a"])
    versions = {"prod": version, "base": "base"}
    assert (vote["chosen_version"], vote["rejected_version"]) == (versions[names["b"]], versions[names["a"]])
    assert vote["settings"]["temperature"] is None
    expect(seen.page.locator("#votes")).to_be_hidden()


def test_an_open_comparison_shows_the_names_at_once_and_keeps_ties(stage, seen):
    choose(seen, "a", "tiny")
    seen.page.locator("#blind input").uncheck()
    ask(seen)
    expect(seen.page.locator("#name-a")).to_have_text("A tiny")
    expect(seen.page.locator("#name-b")).to_have_text("B base")
    seen.page.click("#vote-tie")
    expect(seen.page.locator("#compare-notice")).to_contain_text("votes.jsonl")
    ask(seen, "Again?")
    expect(seen.page.locator("#log-a")).to_contain_text("Again?")
    seen.page.click("#vote-both_bad")
    expect(seen.page.locator("#compare-notice")).to_contain_text("votes.jsonl")
    assert [(vote["vote"], vote["tie"], vote["blind"]) for vote in votes(stage)] == [
        ("tie", True, False),
        ("both_bad", True, False),
    ]


def test_a_stopped_comparison_cannot_be_voted_on(stage, seen):
    stage.recite("word " * 400, delay=0.01)
    ask(seen)
    expect(seen.page.locator("#log-b")).to_contain_text("word word")
    seen.page.locator("#compare-question .stop-button").click()
    expect(seen.page.locator("#compare-notice")).to_contain_text("nothing to vote on")
    expect(seen.page.locator("#votes")).to_be_hidden()
    assert stage.engine.stats().running == 0


def test_answers_that_spend_their_tokens_on_thinking_cannot_be_voted_on(stage, seen):
    stage.recite("Too late.", "On and on. " * 50)
    seen.settings()
    seen.page.locator("#show-thinking input").uncheck()
    seen.page.fill("#max-tokens input[type=number]", "16")
    ask(seen)
    expect(seen.page.locator("#compare-notice")).to_contain_text("at its token limit while thinking")
    for side in "ab":
        expect(seen.page.locator(f"#log-{side} [data-testid=bot]")).to_have_text("no answer")
    expect(seen.page.locator("#votes")).to_be_hidden()


def test_a_comparison_that_nothing_answers_says_so_on_both_sides(stage, seen):
    stage.recite("Never.", delay=60)
    ask(seen)
    for side in "ab":
        expect(seen.page.locator(f"#log-{side} [data-testid=bot]")).to_have_text("…")
    stage.away()
    for side in "ab":
        expect(seen.page.locator(f"#log-{side} [data-testid=bot]")).to_have_text("no answer")
    stage.back()


def test_one_unknown_adapter_stops_the_comparison_and_keeps_the_question(stage, seen):
    choose(seen, "b", "nobody")
    stage.recite("word " * 400, delay=0.01)
    ask(seen, "Who are you?")
    expect(seen.page.locator("#compare-notice")).to_contain_text("nobody")
    expect(seen.page.locator("#compare-question textarea")).to_have_value("Who are you?")
    for side in "ab":
        expect(seen.page.locator(f"#log-{side} [data-testid=bot]").last).not_to_have_text("…")
    expect(seen.page.locator("#votes")).to_be_hidden()
    assert stage.engine.stats().running == 0
