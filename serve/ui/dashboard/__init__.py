"""The dashboard tab: what the machine does, at a glance, live while somebody looks and free while nobody does.

`reading` is the one look that all viewers share, `tab` the page, and each part is a file that turns a look into HTML.
"""
