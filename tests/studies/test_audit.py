"""Every latent that is written, turned up and down: fold by fold as all at once, with the SAE that it is of."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from opinion_sae.artifacts import write_csv, write_json
from opinion_sae.book import audit_report
from opinion_sae.book.figures.audit import written_figure
from opinion_sae.book.study_tables import ABSENT, of_sae
from opinion_sae.delta.reading import ReadingDelta
from opinion_sae.effects import audit as effects
from opinion_sae.studies import audit
from opinion_sae.survey import question_clusters


@pytest.fixture(scope="module")
def made(book, tmp_path_factory):
    """A book whose offsets write some latents each, the one fitted to all questions latents 1, 2 and 3."""
    work = tmp_path_factory.mktemp("audit")
    generator = torch.Generator().manual_seed(1)
    latents = [(1, 2), (2, 3), (1, 3), (1, 2, 3)]
    for name, some in zip([*map(str, range(len(book.splits))), "all"], latents, strict=True):
        offset = ReadingDelta(book.survey.groups, book.sae, axes=1, directions=1, reads="question")
        with torch.no_grad():
            offset.deviation[:, list(some)] = torch.randn(len(offset.deviation), len(some), generator=generator)
            offset.deviation[:, 3] *= 3
            offset.c.fill_(1.0)
        offset.save(work / f"reading-{name}.safetensors")
    given = dataclasses.replace(book, work=work, folder=work)
    given.__dict__["sae"] = book.sae  # which lies in the other folder
    return given, {name: item.make() for name, item in audit.items(given).items()}


def test_fold_by_fold_is_as_all_at_once(made):
    given, parts = made
    tables = audit.tables(given, parts)
    folds = [ReadingDelta.load(given.work / f"reading-{n}.safetensors", given.sae) for n in range(3)]
    _, targets = audit.written(given)
    assert sorted(targets) == [("write", 1), ("write", 2), ("write", 3)] and all(map(len, targets.values()))
    everything = np.ones(len(given.survey.questions), bool)
    cells = effects.audit(given.answers, given.survey, given.splits, folds, targets, everything, given.seed)
    assert len(cells) and cells["fold"].nunique() == 3
    clusters, bound = question_clusters(given.survey), audit.toplines_kl(given.survey)
    expected = effects.audit_table(cells, targets, given.survey.groups, clusters, bound, given.replicates)
    found = tables["written"].drop(columns="sae_sha256")
    pd.testing.assert_frame_equal(found, expected)
    assert list(dict.fromkeys(found["latent"])) == [latent for _, latent in targets]
    assert found.groupby("latent")["folds"].first().to_dict() == {1: 2, 2: 2, 3: 2}
    assert set(tables["means"]["sae_sha256"]) == {given.sae.sha256()}


def test_the_largest_weights_come_first_and_a_changed_offset_is_audited_anew(made):
    given, _ = made
    assert len(audit.items(given)) == 3
    before = {name: item.about for name, item in audit.items(given).items()}
    offset = ReadingDelta.load(given.work / "reading-0.safetensors", given.sae)
    kept = (given.work / "reading-0.safetensors").read_bytes()
    with torch.no_grad():
        offset.deviation[:, 1] *= 2
    offset.save(given.work / "reading-0.safetensors")
    after = {name: item.about for name, item in audit.items(given).items()}
    assert [name for name in before if before[name] != after[name]] == ["fold-0"]
    (given.work / "reading-0.safetensors").write_bytes(kept)


def test_a_part_of_the_folds_and_none(made):
    given, parts = made
    one = audit.tables(given, {"fold-1": parts["fold-1"]})["written"]
    assert set(one["folds"]) == {1} and set(one["latent"]) == {2, 3}
    assert all(len(table) == 0 for table in audit.tables(given, {}).values())


def test_the_chapter_shows_the_rows_of_its_own_sae_and_says_so_where_there_are_none(made, tmp_path):
    given, parts = made
    for file, table in audit.tables(given, parts).items():
        write_csv(tmp_path / "studies" / "audit" / f"{file}.csv", table)
    about = {"seconds": {"total": 60.0}, "machine": "2 cores", "throughput": {"gflops_float32": 90}, "missing": []}
    write_json(tmp_path / "studies" / "audit" / "study.json", about)
    study = of_sae("audit", tmp_path, given.sae.sha256())
    said = audit_report.written_sentence(study, 0.02)
    assert "Of 3 latents" in said and "in 1 minutes on 2 cores" in said and "where they are read" not in said
    assert audit_report.written_page(study, {("write", 1): "written.html#written-1"}, 3).html.count("<tr") >= 3
    written_figure(study, 0.02).draw_without_rendering()
    none = of_sae("audit", tmp_path, "another")
    assert "has not been run" in audit_report.written_sentence(none, 0.02)
    assert audit_report.written_page(none, {}, 3).text == ABSENT
    assert ABSENT in written_figure(none, 0.02).axes[0].texts[0].get_text()
