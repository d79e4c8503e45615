"""What listens. Does not know how training works.

>>> from serve.openai.chat.request import parse_request
>>> request = parse_request({"model": "prod", "messages": [{"role": "user", "content": "Hi"}]})
>>> request.model, request.stream, request.n
('prod', False, 1)
"""
