"""Parts that several bodies and answers share: streams, formats, log-probabilities, other servers' dialects."""
