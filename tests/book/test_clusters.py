"""The page on clusters says what the file says."""

import json

from opinion_sae.book.clusters import clusters_page


def test_the_page_is_the_file(tmp_path):
    path = tmp_path / "slurm.json"
    assert "It has not been run for this version." in clusters_page(path)
    run = {"name": "book", "command": "opinion-sae book -- smoke --profile x", "seconds": 300, "local_seconds": 200}
    run |= {"jobs": {"CANCELLED": 1, "COMPLETED": 21}, "on": {"node1": 12, "node2": 10}, "cancelled": ["7 (04_delta)"]}
    run |= {"tables": 44, "differ": ["smoke/a.csv"]}
    found = {"machine": "2 CPU cores", "slurm": "22.05", "plugin": "2.8", "nodes": 2, "memory_mb": 3000, "runs": [run]}
    path.write_text(json.dumps(found | {"sweep": "profile: smoke\n"}))
    page = clusters_page(path)
    assert "**Of 44 tables 43 are the same" in page and "opinion-sae book -- smoke --profile x" in page
    row = "| book | 12 on node1 + 10 on node2: 1 cancelled, 21 completed | 7 (04_delta) | 44 | 43 | 300 | 200 |"
    assert row in page and "profile: smoke" in page and "`shards: 3`" not in page
    found["runs"].append(run | {"name": "book with shards"})
    path.write_text(json.dumps(found | {"sweep": "profile: smoke\n"}))
    assert "`shards: 3` on the cluster" in clusters_page(path)
