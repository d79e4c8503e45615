"""The chat as a person uses it, in a real Chromium, against a real gateway with scripted answers."""

import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from serve.client.conversation import Conversation, Turn
from serve.client.endpoint import Settings
from serve.http.routes import generating
from tests.browser.conftest import script
from tests.gateway_server import MAX_CONTEXT
from tests.samples import publish

LONG = "word " * 2000


def until(condition, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def stays_at_the_top(page, log) -> bool:
    """Scroll up once. Gradio's Chatbot scrolls down again 300 ms after a change that it saw at the end of the log."""
    log.evaluate("log => log.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    return log.evaluate("log => log.scrollTop") == 0


def begin_long_answer(stage, window) -> None:
    """Ask, and return once the answer is on its way."""
    stage.recite(LONG, delay=0.01)
    window.ask("Talk on")
    expect(window.page.locator("#log [data-testid=user]")).to_have_count(window._questions)
    expect(window.page.locator("#log [data-testid=bot]").last).to_contain_text("word word")


# Asking


def test_an_answer_streams_and_ends_with_its_statistics(stage, window):
    seen = window()
    stage.recite("one two three " * 20, delay=0.01)
    seen.ask("Count")
    growing = seen.page.locator("#log [data-testid=bot]").last
    expect(growing).to_contain_text("one two")
    assert len(growing.inner_text()) < len("one two three " * 20)
    expect(seen.page.locator("#question .stop-button")).to_be_visible()
    seen.answers(("one two three " * 20).strip())
    expect(seen.page.locator("#statistics")).to_contain_text(
        re.compile(rf"base · {len(stage.engine.script)} tokens · [\d.]+ tok/s · TTFT [\d.]+ s")
    )
    assert seen.box() == ""


def test_tokens_are_counted_while_the_answer_is_written(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    line = seen.page.locator("#statistics")
    expect(line).to_have_text(re.compile(r"base · \d+ tokens · "))
    first = int(re.search(r"(\d+) tokens", line.inner_text())[1])
    expect(line).not_to_contain_text(f"· {first} tokens")
    later = int(re.search(r"(\d+) tokens", line.inner_text())[1])
    assert 0 < first < later < len(stage.engine.script)
    seen.page.locator("#question .stop-button").click()
    seen.ready()


def test_a_copied_message_is_the_text_that_was_said(stage, window):
    said = "A <b> b, &lt; and &amp;lt;\n\n```html\n&lt;i&gt; <i>\n```\n\n![x](y)"
    seen = window(permissions=["clipboard-read", "clipboard-write"])
    stage.recite(said)
    seen.ask("Say")
    seen.answers(re.compile("A <b> b, &lt; and &amp;lt;"))
    seen.page.get_by_label("Copy message").last.click()
    until(lambda: seen.page.evaluate("navigator.clipboard.readText()") == said)
    assert seen.page.locator("#log b, #log [data-testid=bot] img").count() == 0


def test_settings_reach_the_engine(stage, window):
    seen = window()
    expect(seen.page.locator("#temperature input[type=number]")).to_be_hidden()
    seen.settings()
    seen.page.locator("#own-sampling input").uncheck()
    for slider, value in (("temperature", "0.5"), ("top-p", "0.9"), ("top-k", "7"), ("max-tokens", "64")):
        seen.page.fill(f"#{slider} input[type=number]", value)
    seen.page.fill("#system textarea", "Answer in rhymes.")
    seen.page.locator("#effort label", has_text="high").click()
    seen.ask("Hi")
    seen.answers("Hello there.")
    (request,) = stage.engine.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.5, 0.9, 7, 64)
    saved = stage.saved()
    assert (saved.system, saved.settings.reasoning_effort) == ("Answer in rhymes.", "high")
    assert saved.messages()[:2] == [
        {"role": "system", "content": "Answer in rhymes."},
        {"role": "user", "content": "Hi"},
    ]


def test_an_answer_may_be_as_long_as_the_served_context_and_no_longer(stage, window):
    turns = [Turn(role="user", content="Hi"), Turn(role="assistant", content="Hello.")]
    long = Conversation(title="Long", turns=turns, settings=Settings(max_tokens=10 * MAX_CONTEXT))
    stage.store.save(long)
    seen = window()
    seen.page.goto(f"{stage.page.url}?c={long.id}")
    seen.loaded(seen.page)
    seen.settings()
    for kind in ("range", "number"):
        expect(seen.page.locator(f"#max-tokens input[type={kind}]")).to_have_attribute("max", str(MAX_CONTEXT))
        expect(seen.page.locator(f"#max-tokens input[type={kind}]")).to_have_value(str(MAX_CONTEXT))
    seen.ask("Hi")
    seen.answers("Hello there.")
    assert [request.sampling.max_tokens for request in stage.engine.requests] == [MAX_CONTEXT]


def test_sampling_is_the_models_own_until_somebody_says_otherwise(stage, window):
    seen = window()
    seen.settings()
    own = seen.page.locator("#own-sampling input")
    for checked, temperature in ((True, 0.3), (False, 1.0), (True, 0.3)):
        own.set_checked(checked)
        expect(seen.page.locator("#temperature")).to_have_count(0 if checked else 1)
        seen.ask("Hi")
        seen.answers("Hello there.")
        seen.ready()
        assert stage.engine.requests[-1].sampling.temperature == temperature


def test_stop_ends_the_generation_and_keeps_what_came(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    seen.page.locator("#question .stop-button").click()
    seen.ready()
    until(lambda: stage.engine.stats().running == 0)
    answer = stage.saved().turns[-1]
    assert answer.cut
    assert 0 < len(answer.content) < len(LONG)
    expect(seen.page.locator("#log [data-testid=bot]").last).to_contain_text("cut off here")


def test_thinking_is_a_part_that_opens_and_can_be_left_out(stage, window):
    seen = window()
    stage.recite("The answer.", "First I weigh it up.")
    seen.ask("Why?")
    seen.answers("The answer.")
    thought = seen.page.get_by_text("First I weigh it up.")
    expect(thought).to_be_hidden()
    seen.page.locator(".thought-group .title").click()
    expect(thought).to_be_visible()
    seen.settings()
    seen.page.locator("#show-thinking input").uncheck()
    expect(seen.page.locator(".thought-group")).to_have_count(0)
    seen.page.locator("#show-thinking input").check()
    expect(seen.page.locator(".thought-group")).to_have_count(1)


def test_an_answer_that_spends_its_tokens_on_thinking_says_so(stage, window):
    seen = window()
    stage.recite("Too late.", "On and on. " * 50)
    seen.settings()
    seen.page.fill("#max-tokens input[type=number]", "16")
    seen.ask("Why?")
    seen.notices("ended at its token limit while thinking")


def test_retry_replaces_the_answer(stage, window):
    seen = window()
    seen.ask("Hi")
    seen.answers("Hello there.")
    stage.recite("Another answer.")
    seen.page.get_by_label("Retry").click()
    seen.answers("Another answer.")
    assert [(turn.role, turn.content) for turn in stage.saved().turns] == [
        ("user", "Hi"),
        ("assistant", "Another answer."),
    ]


def test_an_edited_question_is_asked_anew_and_drops_what_followed(stage, window):
    seen = window()
    for question in ("Is a <b> b?", "Second"):
        seen.ask(question)
        seen.answers("Hello there.")
    stage.recite("Edited.")
    seen.page.get_by_label("Edit").first.click()
    editor = seen.page.locator("textarea.edit-textarea")
    text = editor.input_value()
    editor.fill(text + " Or c?")
    seen.page.get_by_label("Submit").click()
    seen.answers("Edited.")
    assert [turn.content for turn in stage.saved().turns] == ["Is a <b> b? Or c?", "Edited."]


@pytest.mark.parametrize("begin", ["send", "edit"])
def test_who_has_scrolled_up_sees_what_is_asked_next(begin, stage, window):
    seen = window()
    stage.recite("line\n\n" * 60)
    for question in ("One", "Two"):
        seen.ask(question)
        seen.answers(re.compile("line"))
        seen.ready()
    log = seen.page.locator("#log .bubble-wrap")
    until(lambda: stays_at_the_top(seen.page, log))
    expect(seen.page.get_by_label("Edit").first).to_be_in_viewport()
    if begin == "send":
        seen.ask("Three")
    else:
        seen.page.get_by_label("Edit").first.click()
        seen.page.locator("textarea.edit-textarea").fill("Three")
        log.evaluate("log => log.scrollTo(0, 0)")
        seen.page.get_by_label("Submit").click()
    expect(seen.page.locator("#log [data-testid=user]").last).to_have_text("Three")
    seen.ready()
    until(lambda: log.evaluate("log => log.scrollHeight - log.clientHeight - log.scrollTop") < 5)


def test_the_box_has_the_focus_after_a_new_chat_an_opened_one_and_a_stop(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    seen.page.locator("#question .stop-button").click()
    seen.focused()
    seen.ready()
    seen.page.click("#new-chat")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(0)
    seen.focused()
    seen.page.locator("#conversations label", has_text="Talk on").click()
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(1)
    seen.focused()
    for name in ("Send", "Conversations", "Settings"):
        expect(seen.page.get_by_role("button", name=name, exact=True)).to_be_visible()


# Adapters


def test_another_adapter_answers_when_it_is_chosen(stage, window):
    version = publish(stage.gateway.registry).version
    stage.swap(version)
    seen = window()
    seen.ask("Hi")
    expect(seen.page.locator("#statistics")).to_contain_text(version)
    seen.settings()
    seen.page.locator("#model input").click()
    expect(seen.page.get_by_role("option", name=version)).to_be_visible()
    seen.page.get_by_role("option", name="tiny", exact=True).click()
    seen.ask("And you?")
    expect(seen.page.locator("#statistics")).to_contain_text("base ·")
    assert [request.adapter for request in stage.engine.requests] == [version, None]


def test_a_swap_in_mid_answer_leaves_the_answer_its_version_and_gives_the_next_the_new_one(stage, window):
    version = publish(stage.gateway.registry).version
    seen = window()
    begin_long_answer(stage, seen)
    stage.swap(version)
    stage.engine.script = script("Short.")
    seen.page.locator("#question .stop-button").click()
    seen.ready()
    expect(seen.page.locator("#statistics")).to_contain_text("base")
    seen.ask("And now?")
    seen.answers("Short.")
    expect(seen.page.locator("#statistics")).to_contain_text(f"{version} ·")
    assert [turn.version for turn in stage.saved().turns if turn.role == "assistant"] == ["base", version]


def test_an_unknown_model_is_named_and_the_question_kept(stage, window):
    seen = window()
    seen.settings()
    seen.page.fill("#model input", "nobody")
    seen.page.press("#model input", "Enter")
    seen.ask("Are you there?")
    seen.notices("nobody")
    seen.has_box("Are you there?")
    assert stage.store.saved() == []


# Conversations


def test_a_reload_shows_the_conversation_again(stage, window):
    seen = window()
    seen.ask("What stays?")
    seen.answers("Hello there.")
    seen.page.reload()
    seen.answers("Hello there.")
    expect(seen.page.locator("#conversations label.selected")).to_have_text("What stays?")
    seen.ask("And now?")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(2)
    seen.answers("Hello there.")
    assert len(stage.saved().turns) == 4


def test_conversations_are_listed_opened_renamed_and_deleted_after_a_question(stage, window):
    seen = window()
    seen.ask("First")
    seen.answers("Hello there.")
    seen.page.click("#new-chat")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(0)
    seen.ask("Second")
    seen.answers("Hello there.")
    expect(seen.page.locator("#conversations label")).to_have_text(["Second", "First"])
    seen.page.locator("#conversations label", has_text="First").click()
    expect(seen.page.locator("#log [data-testid=user]")).to_have_text("First")
    seen.manage()
    title = seen.page.locator("#title textarea, #title input")
    expect(title).to_have_value("First")
    title.fill("Renamed")
    title.press("Enter")
    expect(seen.page.locator("#conversations label")).to_have_text(["Second", "Renamed"])
    seen.page.click("#delete")
    seen.page.click("#keep")
    expect(seen.page.locator("#really-delete")).to_be_hidden()
    assert len(stage.store.saved()) == 2
    seen.page.click("#delete")
    seen.page.click("#really-delete")
    expect(seen.page.locator("#conversations label")).to_have_text(["Second"])
    assert [each.title for each in stage.store.saved()] == ["Second"]


def test_leaving_a_conversation_in_mid_answer_stops_it_and_keeps_both_apart(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    seen.page.click("#new-chat")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(0)
    until(lambda: stage.engine.stats().running == 0)
    seen.ready()
    stage.recite("Fresh.")
    seen.ask("Anew")
    seen.answers("Fresh.")
    assert sorted(each.title for each in stage.store.saved()) == ["Anew", "Talk on"]
    assert {each.title: each.turns[-1].cut for each in stage.store.saved()} == {"Anew": False, "Talk on": True}


@pytest.mark.parametrize("suffix", ["json", "markdown"])
def test_an_exported_conversation_can_be_imported_again(suffix, stage, window, tmp_path):
    seen = window()
    stage.recite("It is **Rome** 🙂.", "Capitals.")
    seen.ask("Capital of Italy?")
    seen.answers("It is Rome 🙂.")
    seen.manage()
    with seen.page.expect_download() as started:
        seen.page.click(f"#export-{suffix}")
    file = tmp_path / started.value.suggested_filename
    started.value.save_as(file)
    assert file.name == ("Capital-of-Italy.json" if suffix == "json" else "Capital-of-Italy.md")
    before = stage.saved()
    with seen.page.expect_file_chooser() as choosing:
        seen.page.click("#import")
    choosing.value.set_files(file)
    expect(seen.page.locator("#conversations label")).to_have_count(2)
    newest, oldest = stage.store.saved()
    assert oldest.id == before.id != newest.id
    assert [(turn.role, turn.content, turn.thinking) for turn in newest.turns] == [
        (turn.role, turn.content, turn.thinking) for turn in before.turns
    ]
    seen.answers("It is Rome 🙂.")


def test_a_broken_import_is_refused_and_what_was_typed_stays(stage, window, tmp_path):
    seen = window()
    seen.page.fill("#question textarea", "half a question")
    for name, content in (("bad.json", b"{"), ("notes.md", b"# hi"), ("image.json", b"\xff\xd8")):
        file = tmp_path / name
        file.write_bytes(content)
        with seen.page.expect_file_chooser() as choosing:
            seen.page.click("#import")
        choosing.value.set_files(file)
        seen.notices(name)
        seen.notices("Nothing was imported")
        assert stage.store.saved() == []
        assert seen.box() == "half a question"


def test_two_tabs_keep_their_conversations_apart_and_see_each_others(stage, window):
    one, other = window(), window()
    one.ask("From one")
    one.answers("Hello there.")
    other.ask("From the other")
    other.answers("Hello there.")
    expect(one.page.locator("#log [data-testid=user]")).to_have_text("From one")
    one.page.reload()
    expect(one.page.locator("#conversations label")).to_have_text(["From the other", "From one"])
    expect(one.page.locator("#conversations label.selected")).to_have_text("From one")


def test_a_second_tab_cannot_ask_into_a_running_answer(stage, window):
    one = window()
    begin_long_answer(stage, one)
    other = one.open(one.page.url)
    other.fill("#question textarea", "Me too")
    other.press("#question textarea", "Enter")
    expect(other.locator("#notice")).to_contain_text("still being written")
    assert other.input_value("#question textarea") == "Me too"
    one.page.locator("#question .stop-button").click()
    one.ready()
    assert [turn.role for turn in stage.saved().turns] == ["user", "assistant"]


def test_what_is_renamed_continued_or_deleted_elsewhere_in_mid_answer_stays_so(stage, window):
    seen = window()
    stop = seen.page.locator("#question .stop-button")
    begin_long_answer(stage, seen)
    elsewhere = stage.saved()
    elsewhere.title = "Renamed"
    stage.store.save(elsewhere)
    stop.click()
    seen.ready()
    assert (stage.saved().title, len(stage.saved().turns)) == ("Renamed", 2)

    begin_long_answer(stage, seen)
    elsewhere = stage.saved()
    elsewhere.ask("From the terminal")
    stage.store.save(elsewhere)
    stop.click()
    seen.notices("changed elsewhere meanwhile; both stay")
    mine, theirs = stage.store.saved()
    assert [turn.content for turn in theirs.turns[2:]] == ["Talk on", "From the terminal"]
    assert [turn.role for turn in mine.turns] == ["user", "assistant"] * 2
    expect(seen.page).to_have_url(re.compile(mine.id))

    begin_long_answer(stage, seen)
    stage.store.delete(mine.id)
    stop.click()
    seen.notices("deleted meanwhile")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(0)
    assert stage.saved() == theirs


def test_a_conversation_is_listed_and_chosen_as_soon_as_it_is_begun(stage, window):
    seen = window()
    seen.manage()
    for manages in ("#delete", "#export-json", "#export-markdown"):
        expect(seen.page.locator(manages)).to_be_disabled()
    begin_long_answer(stage, seen)
    expect(seen.page.locator("#conversations label.selected")).to_have_text("Talk on")
    expect(seen.page.locator("#question .stop-button")).to_be_visible()
    for manages in ("#delete", "#export-json", "#export-markdown"):
        expect(seen.page.locator(manages)).to_be_enabled()
    seen.page.locator("#question .stop-button").click()
    seen.ready()


def test_what_is_opened_begun_or_imported_from_another_tab_shows_the_chat(stage, window, tmp_path):
    seen = window()
    seen.ask("First")
    seen.answers("Hello there.")
    first = seen.page.locator("#conversations label", has_text="First")
    expect(first).to_have_class(re.compile("selected"))
    seen.tab("Side by side")
    first.click()  # the one that is open already
    seen.shows_chat()
    seen.tab("Side by side")
    seen.page.click("#new-chat")
    seen.shows_chat()
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(0)
    seen.tab("Side by side")
    first.click()
    seen.shows_chat()
    expect(seen.page.locator("#log [data-testid=user]")).to_have_text("First")
    seen.tab("Side by side")
    file = tmp_path / "first.json"
    file.write_text(stage.saved().to_json())
    with seen.page.expect_file_chooser() as choosing:
        seen.page.click("#import")
    choosing.value.set_files(file)
    seen.shows_chat()
    expect(seen.page.locator("#conversations label")).to_have_count(2)


def test_a_question_to_a_conversation_deleted_elsewhere_is_told_so_and_nothing_is_lost(stage, window):
    seen = window()
    seen.ask("What stays?")
    seen.answers("Hello there.")
    stage.store.delete(stage.saved().id)
    seen.page.fill("#question textarea", "And now?")
    seen.page.press("#question textarea", "Enter")
    seen.notices("deleted elsewhere")
    expect(seen.page.locator("#log [data-testid=user]")).to_have_text("What stays?")
    expect(seen.page.locator("#conversations label")).to_have_count(0)
    seen.has_box("And now?")
    assert stage.store.saved() == []
    seen.page.get_by_label("Edit").first.click()
    seen.page.locator("textarea.edit-textarea").fill("Edited")
    seen.page.fill("#question textarea", "")
    seen.page.get_by_label("Submit").click()
    seen.has_box("Edited")
    seen.notices("in the box again")
    seen.page.press("#question textarea", "Enter")
    until(lambda: [len(each.turns) for each in stage.store.saved()] == [2])
    assert [turn.content for turn in stage.saved().turns] == ["Edited", "Hello there."]


def test_the_question_whether_to_delete_is_in_sight_and_red(stage, window):
    for number in range(8):
        saved = Conversation(title=f"Number {number}")
        saved.turns = [Turn(role="user", content="Hi")]
        stage.store.save(saved)
    seen = window(viewport={"width": 1280, "height": 720})
    seen.page.locator("#conversations label").first.click()
    seen.manage()
    seen.page.click("#delete")
    for button in ("#really-delete", "#keep"):
        expect(seen.page.locator(button)).to_be_in_viewport(ratio=1)
    expect(seen.page.locator("#delete")).to_be_hidden()
    expect(seen.page.locator("#really-delete")).to_have_css("background-color", "rgb(185, 28, 28)")
    seen.page.click("#keep")
    expect(seen.page.locator("#delete")).to_be_visible()


# The address


def test_an_address_opens_what_it_names_and_says_so_where_there_is_nothing(stage, window):
    untitled = Conversation()
    stage.store.save(untitled)
    seen = window()
    expect(seen.page.locator("#conversations label")).to_have_text("Untitled")
    assert seen.page.input_value("#current textarea") != untitled.id, "a bare page begins a new conversation"
    seen.page.reload()
    expect(seen.page.locator("#conversations label")).to_have_text("Untitled")
    expect(seen.page.locator("#notice .notice")).to_have_count(0)
    for name in ("doesnotexist", "x" * 300):
        other = seen.open(f"{stage.page.url}?c={name}")
        expect(other.locator("#notice .notice")).to_contain_text(f"no conversation '{name}'")
    other.get_by_label("Question", exact=True).fill("Hi")
    other.press("#question textarea", "Enter")
    expect(other.locator("#log [data-testid=bot]").last).to_have_text("Hello there.")


def test_one_title_twice_is_told_apart_by_time_and_a_damaged_file_is_named(stage, window):
    for number in range(2):
        saved = Conversation(updated=1_700_000_000 + 3600 * number)
        saved.turns, saved.title = [Turn(role="user", content="Hi")], "Hi"
        stage.store.save(saved)
    (stage.home.conversations / "bad.json").write_text("{")
    seen = window()
    seen.notices("cannot be read: bad.json")
    labels = seen.page.locator("#conversations label")
    expect(labels).to_have_text([re.compile(r"Hi · 1\d Nov \d\d:\d\d")] * 2)
    assert labels.nth(0).inner_text() != labels.nth(1).inner_text()


def test_one_title_twice_in_a_minute_is_told_apart_by_the_second(stage, window):
    for number in range(2):
        saved = Conversation(updated=1_700_000_000 + number)
        saved.turns, saved.title = [Turn(role="user", content="Hi")], "Hi"
        stage.store.save(saved)
    seen = window()
    expect(seen.page.locator("#conversations label")).to_have_text([re.compile(r":21$"), re.compile(r":20$")])


# What goes wrong


def test_what_was_typed_meanwhile_survives_a_reload_in_mid_answer(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    seen.page.fill("#question textarea", "The next one")
    seen.page.reload()
    seen.has_box("The next one")
    until(lambda: stage.engine.stats().running == 0)
    expect(seen.page.locator("#log [data-testid=user]")).to_have_text("Talk on")


def test_a_picture_is_shown_as_it_is_written(stage, window):
    said = "![p](http://evil.example/x.png)"
    seen = window()
    stage.recite(said)
    seen.ask("Show me")
    seen.answers(said)
    assert seen.page.locator("#log [data-testid=bot] img").count() == 0
    assert seen.page.get_by_role("link", name="p", exact=True).count() == 0


def test_a_wide_table_scrolls_instead_of_breaking_words(stage, window):
    names = ["Name", "Country", "Inhabitants", "Currency", "Language", "Capital", "Continent", "Founded"]
    row = "| " + " | ".join(names) + " |\n"
    saved = Conversation(title="A table")
    saved.ask("Table?")
    saved.turns.append(Turn(role="assistant", content=f"{row}{'|---' * 8}|\n{row}\n- [x] done\n- [ ] task"))
    stage.store.save(saved)
    seen = window(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    seen.page.goto(f"{stage.page.url}?c={saved.id}")
    table = seen.page.locator("#log table")
    expect(table).to_be_visible()
    heights = table.locator("th").evaluate_all("cells => cells.map(cell => cell.getBoundingClientRect().height)")
    assert max(heights) < 50, "one line each"
    assert table.evaluate("table => table.scrollWidth > table.clientWidth")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = seen.page.locator("#log li input")
    done, task = (boxes.nth(at).evaluate("box => getComputedStyle(box).backgroundImage") for at in range(2))
    assert done != task


def test_what_was_typed_while_an_answer_failed_stays_and_the_question_is_in_the_notice(stage, window):
    seen = window()
    stage.recite("Never.", delay=60)
    seen.ask("Is a <b> b?")
    expect(seen.page.locator("#question .stop-button")).to_be_visible()
    seen.page.fill("#question textarea", "The next one")
    stage.away()
    seen.notices("Your question was: Is a <b> b?")
    seen.ready()
    assert seen.box() == "The next one"
    stage.back()


def test_a_window_closed_in_mid_answer_ends_the_generation_and_the_answer_is_kept(stage, window):
    seen = window()
    begin_long_answer(stage, seen)
    assert stage.engine.stats().running == 1
    seen.page.close()
    until(lambda: stage.engine.stats().running == 0)
    until(lambda: stage.saved().turns[-1].role == "assistant")
    assert stage.saved().turns[-1].cut


def test_a_lost_engine_keeps_the_answer_so_far_and_says_what_happened(stage, window):
    seen = window()
    stage.recite("one two three four five")
    stage.gateway.remote.dies_after = len(script("one two")) - 1
    seen.ask("Count")
    seen.notices("died while answering")
    expect(seen.page.locator("#log [data-testid=bot]").last).to_contain_text("one two")
    assert stage.saved().turns[-1].cut


def test_an_endpoint_that_is_away_keeps_the_question_and_answers_when_it_is_back(stage, window):
    seen = window()
    seen.ask("Hi")
    seen.answers("Hello there.")
    stage.away()
    seen.ask("Still there?")
    seen.notices("no answer from")
    seen.notices("does its server run?")
    seen.ready()
    seen.has_box("Still there?")
    assert len(stage.saved().turns) == 2
    stage.back()
    seen.page.press("#question textarea", "Enter")
    expect(seen.page.locator("#log [data-testid=user]").last).to_have_text("Still there?")
    seen.answers("Hello there.")
    expect(seen.page.locator("#notice .notice")).to_have_count(0)


def test_a_huge_paste_is_asked_whole_or_stays_in_the_box(stage, window, monkeypatch):
    seen = window()
    huge = ("a <b> " * 80 + "\n") * 200
    seen.paste(huge)
    seen.answers("Hello there.")
    assert stage.saved().turns[0].content == huge
    monkeypatch.setattr(generating, "MOST_BODY_BYTES", len(huge))
    seen.paste(huge)
    seen.notices("in the box again")
    seen.ready()
    seen.has_box(huge)
    assert len(stage.engine.requests) == 1


def test_emoji_alone_are_a_question_and_a_title(stage, window):
    seen = window()
    stage.recite("🙂")
    seen.ask("👩🏽‍🚀🇮🇹")
    seen.answers("🙂")
    expect(seen.page.locator("#conversations label")).to_have_text("👩🏽‍🚀🇮🇹")
    assert stage.saved().turns[0].content == "👩🏽‍🚀🇮🇹"


def test_a_phone_shows_the_chat_without_scrolling_sideways(stage, window):
    saved = Conversation(title="A long one")
    saved.ask("x" * 300)
    code = "```python\n" + "call(" * 60 + "\n```\n\n| a | b |\n|---|---|\n| " + "wide " * 40 + " | c |"
    saved.turns.append(Turn(role="assistant", content=code))
    stage.store.save(saved)
    seen = window(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    seen.page.locator("#library .toggle-button").click()
    seen.page.locator("#conversations label", has_text="A long one").click()
    expect(seen.page.locator("#library")).not_to_have_class(re.compile(r"\bopen\b"))
    expect(seen.page.locator("#log code").first).to_be_visible()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    box = seen.page.locator("#question").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    seen.ask("Short?")
    seen.answers("Hello there.")


def test_light_and_dark_follow_the_system_and_the_button(stage, window):
    seen = window(color_scheme="dark")
    expect(seen.page.locator("body")).to_have_class(re.compile("dark"))
    seen.settings()
    seen.page.click("#theme")
    expect(seen.page.locator("body")).not_to_have_class(re.compile("dark"))
    seen.page.reload()
    seen.ready()
    expect(seen.page.locator("body")).not_to_have_class(re.compile("dark"))


def test_what_is_saved_is_the_terminals_format(stage, window):
    seen = window()
    seen.ask("Hi")
    seen.answers("Hello there.")
    (file,) = Path(stage.home.conversations).glob("*.json")
    assert Conversation.from_json(file.read_text(), source=str(file)) == stage.saved()
    assert json.loads(file.read_text())["turns"][1]["version"] == "base"
