"""The API's page at /docs, drawn by Swagger UI from files of the gateway's own."""

from playwright.sync_api import expect


def test_every_route_is_shown_and_can_be_tried_without_internet(stage, profile):
    asked: list[str] = []
    page = profile.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{stage.gateway.url}/docs")
    paths = stage.gateway.get("/openapi.json").json()["paths"]
    expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
    page.locator(".opblock", has_text="/v1/models").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response .response-col_status").first).to_contain_text("200")
    assert {url for url in asked if not url.startswith((stage.gateway.url, "data:"))} == set()
    page.close()
