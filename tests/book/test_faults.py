"""The page on bad luck says what the file says, and nothing that was not tried."""

import json

from opinion_sae.book.faults import TRIED, faults_page


def test_the_page_is_the_file(tmp_path):
    path = tmp_path / "faults.json"
    assert "It has not been run for this version." in faults_page(path)
    kills = {"name": "kills", "tried": 50, "good": 49, "seconds": 130.2, "said": ""}
    full = {"name": "full_cache", "tried": 2, "good": 2, "seconds": 8.5, "said": "error: No space left: '.../cache'"}
    path.write_text(json.dumps({"machine": "2 CPU cores", "seed": 0, "minutes": 31.4, "outcomes": [kills, full]}))
    page = faults_page(path)
    assert "Of 52 trials 51 came out as they should, in 31 minutes on 2 CPU cores (seed 0" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(TRIED) and rows[0].endswith("| 50 | 49 | 130.2 |") and rows[2].endswith("| 2 | 2 | 8.5 |")
    assert all(row.endswith("| not tried |  |  |") for row in (rows[1], *rows[3:]))
    assert page.count("error: No space left: '.../cache'") == 1
