"""Work that ends. Does not know that serving exists.

>>> from configs import load
>>> from jobs.data import dataset
>>> rows = dataset.read(load.load_run("tiny").data)
>>> len(rows.dialogues), rows.bad
(96, [])
"""
