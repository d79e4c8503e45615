"""How fast an OpenAI-compatible endpoint answers: load, timing, figures and report. A client; knows a URL only."""
