"""OpenAI's API: bodies, answers and errors. One folder for each route; knows neither HTTP nor Ray."""
