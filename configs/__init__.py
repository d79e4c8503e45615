"""What is decided before anything runs. Knows neither Ray nor torch.

>>> from configs import load
>>> config = load.load_run("tiny", ["lora.r=8"])
>>> config.profile, config.lora.r, config.training.max_steps
('tiny', 8, 60)
"""
