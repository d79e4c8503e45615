"""No text of a model, a file or a person runs a script in the page or makes it ask somebody else."""

import pytest
from playwright.sync_api import expect

from serve.client.conversation import Conversation, Turn

ELSEWHERE = "http://198.51.100.7"  # reserved for documentation: nobody answers there
PAYLOADS = [
    "<script>window.hacked = 1</script>",
    f"<img src={ELSEWHERE}/a.png onerror='window.hacked = 1'>",
    "<img src=x onerror=\"window.hacked = 1; alert('hacked')\">",
    "<svg onload='window.hacked = 1'><animate onbegin='window.hacked = 1' attributeName='x'/></svg>",
    f"<iframe src='{ELSEWHERE}'></iframe><object data='{ELSEWHERE}/o'></object><embed src='{ELSEWHERE}/e'>",
    f"<style>@import '{ELSEWHERE}/s.css'; body {{ background: url({ELSEWHERE}/b.png) }}</style>",
    f"<link rel=stylesheet href='{ELSEWHERE}/l.css'><meta http-equiv=refresh content='0;url={ELSEWHERE}'>",
    "<details open ontoggle='window.hacked = 1'>x</details><a href='javascript:window.hacked=1'>link</a>",
    f"![picture]({ELSEWHERE}/p.png) and ![other][r]\n\n[r]: {ELSEWHERE}/r.png",
    "[click](javascript:window.hacked=1) <javascript:window.hacked=1>",
    f"$$\\href{{javascript:window.hacked=1}}{{x}} \\includegraphics{{{ELSEWHERE}/k.png}}$$",
    "$$<img src=x onerror='window.hacked = 1'>$$",
    f"```mermaid\ngraph TD; A[\"<img src={ELSEWHERE}/m.png onerror='window.hacked=1'>\"]\n```",
    "`<img src=x onerror='window.hacked = 1'>` ` <script>window.hacked=1</script>",
    "```html\n<script>window.hacked = 1</script>\n```\n<script>window.hacked = 1</script>",
    "&lt;img src=x onerror='window.hacked = 1'&gt; &#60;script&#62;window.hacked=1&#60;/script&#62;",
    "<thinking onclick='window.hacked=1'>x</thinking>{{constructor.constructor('hacked=1')()}}${window.hacked=1}",
    f"<form action='{ELSEWHERE}'><input autofocus onfocus='window.hacked = 1'></form>",
]


def poisoned() -> Conversation:
    """A conversation whose title, texts, thoughts, versions and settings all are payloads."""
    bad = "\n\n".join(PAYLOADS)
    conversation = Conversation(title=PAYLOADS[2], system=bad)
    conversation.settings.model = PAYLOADS[2]
    for payload in PAYLOADS:
        conversation.turns.append(Turn(role="user", content=payload))
        answer = Turn.model_validate(
            {"role": "assistant", "content": payload, "thinking": payload, "version": payload}
            | {"statistics": {"completion_tokens": 1}}
        )
        conversation.turns.append(answer)
    return conversation


def nothing_happened(seen) -> None:
    """No payload ran or wanted anything from outside. What went out, and dialogs, a window's end looks at."""
    assert seen.refused == []
    # A picture asked for now fails after all that were asked for before.
    seen.page.evaluate("new Promise(done => { const last = new Image(); last.onerror = done; last.src = '/none.png' })")
    for link in seen.page.locator("#log a").all():
        href = link.get_attribute("href") or ""
        assert not href.strip().lower().startswith(("javascript:", "data:")), href
    assert seen.page.evaluate("window.hacked") is None
    foreign = "#log :is(script, iframe, object, embed, form, link, meta, style):not(svg style)"
    assert seen.page.locator(foreign).count() == 0


def test_an_imported_conversation_full_of_payloads_shows_them_as_text(stage, window, tmp_path):
    conversation = poisoned()
    file = tmp_path / "poisoned.json"
    file.write_text(conversation.to_json())
    seen = window()
    with seen.page.expect_file_chooser() as choosing:
        seen.page.click("#import")
    choosing.value.set_files(file)
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(len(PAYLOADS))
    for thought in seen.page.locator(".thought-group .title").all():
        thought.click()
    expect(seen.page.locator("#conversations label")).to_have_text(PAYLOADS[2])
    expect(seen.page.locator("#log [data-testid=user]").first).to_have_text(PAYLOADS[0])
    seen.page.reload()
    expect(seen.page.locator("#log [data-testid=user]")).to_have_count(len(PAYLOADS))
    expect(seen.page.locator("#statistics")).to_contain_text("onfocus")
    nothing_happened(seen)


def test_a_streamed_answer_full_of_payloads_runs_nothing(stage, window):
    seen = window()
    stage.recite("\n\n".join(PAYLOADS) + "\n\nThe end.", delay=0.0005)
    seen.ask(PAYLOADS[2])
    expect(seen.page.locator("#log [data-testid=bot]").last).to_contain_text("The end.")
    seen.ready()
    nothing_happened(seen)


def test_both_sides_of_a_comparison_run_nothing(stage, window):
    seen = window()
    seen.page.get_by_role("tab", name="Side by side").click()
    stage.recite("\n\n".join(PAYLOADS) + "\n\nThe end.", "\n\n".join(PAYLOADS))
    seen.page.fill("#compare-question textarea", PAYLOADS[2])
    seen.page.press("#compare-question textarea", "Enter")
    for side in "ab":
        expect(seen.page.locator(f"#log-{side}")).to_contain_text("The end.")
    assert seen.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>.json", "a';alert(1);'.md"])
def test_names_of_files_and_errors_are_text_too(name, stage, window, tmp_path):
    file = tmp_path / name
    file.write_text("<img src=x onerror='window.hacked = 1'>")
    seen = window()
    with seen.page.expect_file_chooser() as choosing:
        seen.page.click("#import")
    choosing.value.set_files(file)
    seen.notices("Nothing was imported")
    nothing_happened(seen)


def test_the_browser_itself_refuses_scripts_and_outside_addresses(stage, window):
    """What stands behind escaping and sanitising: markup put straight into the page does nothing."""
    seen = window()
    for payload in PAYLOADS[:7]:
        seen.page.evaluate(
            "html => document.body.insertAdjacentHTML('beforeend', html)", payload.replace("http-equiv", "x")
        )
    seen.page.evaluate(f"fetch('{ELSEWHERE}').catch(() => {{ window.refused = 1 }})")
    seen.page.wait_for_function("window.refused === 1")
    assert seen.page.evaluate("window.hacked") is None
    assert f"{ELSEWHERE}/a.png" in seen.refused
    assert seen.outside == []
