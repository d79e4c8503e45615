"""The chat in the browser, in a process of its own. Talks HTTP to an endpoint like any client; knows no engine, no Ray.

`page` is the whole page, `server` what listens; `cli.serving.ui` calls them. Gradio takes two seconds to import.
"""
