"""`make demo`'s command, whole, in a fresh home."""

from actors import cluster
from configs.paths import Home


def test_the_demo_ends_ok_and_leaves_nothing(new_tandem):
    fresh = new_tandem()
    done = fresh.run("demo", timeout=240)
    report = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert done.stdout.splitlines()[-1].startswith("DEMO OK")
    assert report["after"] == "Tandem is two GPUs that work as one machine."
    assert report["back"] == report["before"] != report["after"]
    assert report["requests"].endswith("lost: 0")
    assert cluster.processes(Home(fresh.home.root / "demo")) == []
    assert not (fresh.home.root / "demo").exists()
