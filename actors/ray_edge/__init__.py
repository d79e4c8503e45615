"""Every place that touches Ray's jobs, proxy or private modules, each with the Ray version that needs it.

`jobs` speaks Ray's REST API for jobs, `proxy` has Serve start HAProxy as Tandem needs it, `loopback` keeps a replica's
port on loopback, `variables` are the settings that Ray takes from the environment, and `names` is what it calls what
Tandem looks at. Two more limits of Ray 2.60 are refused up front, in `actors.home.folder`.
`tests/unit/actors/ray_edge/test_workarounds.py` compares each with the Ray that is installed.
"""
