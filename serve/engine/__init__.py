"""Engines that turn token ids into token streams, behind one protocol."""
