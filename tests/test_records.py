"""Records: whole or absent, checksummed, made from their own samples and from nothing else."""

import json

import lab_support
import pytest

from fastdllm.lab import atomic, records
from fastdllm.lab.config.grid import Configuration
from fastdllm.lab.config.parameters import Parameters
from fastdllm.lab.jobs import status
from fastdllm.lab.records import journal
from fastdllm.lab.records.identity import CurrentFingerprints, identity
from fastdllm.report import results

FLAT = {"model": "tests/golden", "k": 2, "layers": "middle", "limit": 4, "dtype": "float32"}


@pytest.fixture(scope="module")
def current():
    return CurrentFingerprints()


@pytest.fixture
def configuration(tmp_path):
    return Configuration("e", "k2_middle", Parameters.of(**FLAT), tmp_path / "arithmetic_limit_4" / "k2_middle")


def test_what_is_written_is_read(configuration, current):
    record = lab_support.synthetic(configuration, current)
    assert records.read(configuration.directory) == record
    assert (record.n, record.headline.correct, record.tokens, record.seconds) == (4, 3, 46, 2.0)
    assert record.nfe == {"prefill": 4, "full": 16, "small": 24, "commit": 4, "replay": 0}
    assert record.headline.low == pytest.approx(0.3006, abs=1e-4)        # Wilson, 3 of 4
    assert record.headline.high == pytest.approx(0.9544, abs=1e-4)
    samples = records.samples(configuration.directory)
    assert list(samples["tokens"]) == [10, 11, 12, 13]


@pytest.mark.parametrize(("date", "day"), [
    ("2026-11-20T10:00:00+00:00", "2026-11-20"), ("20260118_104512", "2026-01-18"), ("2026-11-20", "2026-11-20"),
    ("unknown", "unknown"), ("", "")])
def test_the_day_of_a_record_however_its_source_writes_the_date(configuration, current, date, day):
    record = lab_support.synthetic(configuration, current)
    assert record.model_copy(update={"date": date}).day == day


def test_a_record_edited_by_hand_is_refused(configuration, current):
    lab_support.synthetic(configuration, current)
    path = configuration.directory / records.SUMMARY
    for edit in ('"value": 0.75', '"tokens": 46', '"config": "k2_middle"'):
        text = path.read_text()
        assert edit in text
        path.write_text(text.replace(edit, edit[:-2] + ('9"' if edit.endswith('"') else "99"), 1))
        with pytest.raises(ValueError, match=r"summary.json: the checksum does not fit"):
            records.read(configuration.directory)
        assert status.state_of(configuration, current).state == "failed"
        path.write_text(text)
    assert status.state_of(configuration, current).state == "complete"


def test_edited_samples_are_refused(configuration, current):
    lab_support.synthetic(configuration, current)
    path = configuration.directory / records.SAMPLES
    path.write_text(path.read_text().replace('"strict":false', '"strict":true'))
    with pytest.raises(ValueError, match="not the samples"):
        records.samples(configuration.directory)


def test_a_record_that_claims_another_identity_is_refused(configuration, current):
    record = lab_support.synthetic(configuration, current)
    records.write(configuration.directory, record.model_copy(update={"seconds": 1.0}))
    assert status.state_of(configuration, current).state == "complete"
    changed = record.parameters.model_copy(update={"batch_size": 7})
    records.write(
        configuration.directory, record.model_copy(update={"parameters": changed})
    )  # checksum right, content not
    assert status.state_of(configuration, current).state == "failed"


def test_old_results_in_the_directory_are_never_read(configuration, current):
    """The old bug: results were looked up with the first results_*.json that a directory listing gave."""
    configuration.directory.mkdir(parents=True)
    (configuration.directory / "results_2026-02-15.json").write_text('{"results": {"gsm8k": {"exact_match": 0.7}}}')
    (configuration.directory / "samples.jsonl").write_text('{"correct": true}\n')
    assert status.state_of(configuration, current).state == "pending"
    record = lab_support.synthetic(configuration, current, correct=1)
    assert record.headline.correct == 1
    assert len(records.samples(configuration.directory)) == 4
    (configuration.directory / records.SUMMARY).write_text('{"accuracy": 0.7, "total_tokens": 3540}')
    with pytest.raises(ValueError, match="not a record of this suite"):
        records.read(configuration.directory)
    assert status.state_of(configuration, current).state == "failed"


def test_a_shared_record_is_shown_under_its_own_name(configuration, current, tmp_path):
    lab_support.synthetic(configuration, current)
    other = configuration.directory.parent / "k2_other"
    reuse = configuration.parameters.reuse.model_copy(update={"layers": "last"})
    records.share(configuration.directory, other, "k2_other", reuse)
    shared = records.read(other)
    assert (shared.config, shared.shared_from, shared.parameters.reuse.layers) == ("k2_other", "k2_middle", "last")
    assert records.samples(other).equals(records.samples(configuration.directory))


def test_frame(configuration, current):
    row = records.frame([lab_support.synthetic(configuration, current)]).iloc[0]
    wanted = {"experiment": "e", "task": "arithmetic", "config": "k2_middle", "k": 2, "layers": "middle", "n": 4,
              "policy": "output", "revision": "fixed", "threshold": 0.9, "batch_size": 32, "accuracy": 0.75,
              "correct": 3, "tokens": 46, "nfe": 48, "nfe_small": 24, "reuse": 160, "recompute": 320,
              "tokens_per_second": 23.0}
    assert {name: row[name] for name in wanted} == wanted
    assert row["tokens_per_forward"] == pytest.approx(46 / 48)


def test_a_cut_last_line_is_dropped_and_the_rest_kept(configuration, current):
    own, resolved = identity(current.payload(configuration.parameters)), current.resolve(configuration.parameters)
    run = journal.begin(configuration.directory, own, resolved, 4)
    for index in range(3):
        run.add({"index": index, "elapsed": 0.5 * (index + 1), "session": 1})
    whole = run.path.read_bytes()
    for cut in (1, 5, 20):
        run.path.write_bytes(whole[:-cut])
        again = journal.begin(configuration.directory, own, resolved, 4)
        assert (sorted(again.done), again.seconds, again.sessions) == ([0, 1], 1.0, 2)
    again.add({"index": 3, "elapsed": 1.25, "session": again.sessions})
    assert sorted(journal.begin(configuration.directory, own, resolved, 4).done) == [0, 1, 3]
    assert journal.progress(run.path) == (3, 4)
    assert status.state_of(configuration, current).state == "partial"
    assert status.state_of(configuration, current).detail == "3 of 4"


def test_a_damaged_line_names_file_and_line(configuration, current):
    own, resolved = identity(current.payload(configuration.parameters)), current.resolve(configuration.parameters)
    run = journal.begin(configuration.directory, own, resolved, 4)
    run.add({"index": 0, "elapsed": 0.5, "session": 1})
    run.add({"index": 1, "elapsed": 0.6, "session": 1})
    run.path.write_text(run.path.read_text().replace('"index":0', '"index:0'))
    with pytest.raises(ValueError, match=r"partial-.*jsonl, line 2: damaged"):
        journal.begin(configuration.directory, own, resolved, 4)


def test_unfinished_samples_of_another_configuration_are_not_mixed_in(configuration, current):
    own, resolved = identity(current.payload(configuration.parameters)), current.resolve(configuration.parameters)
    journal.begin(configuration.directory, own, resolved, 4).add({"index": 0, "elapsed": 0.5, "session": 1})
    other = Configuration("e", configuration.name, Parameters.of(**FLAT | {"threshold": 0.5}), configuration.directory)
    look = status.state_of(other, current)
    assert (look.state, look.detail) == ("stale", "unfinished run of another configuration (decoding)")
    fresh = journal.begin(
        configuration.directory, identity(current.payload(other.parameters)), current.resolve(other.parameters), 4
    )
    assert not fresh.done
    assert sorted(journal.begin(configuration.directory, own, resolved, 4).done) == [0]  # going back finds them again


def test_secrets_of_the_environment_stay_out(configuration, current, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    lab_support.synthetic(configuration, current)
    for path in configuration.directory.rglob("*"):
        assert path.is_dir() or "hf_planted_secret" not in path.read_text(errors="replace"), path


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    atomic.write(path, "old")
    path.parent.joinpath("blocked").mkdir()
    with pytest.raises(OSError, match="blocked"):
        atomic.write(tmp_path / "blocked", json.dumps([1]))
    assert path.read_text() == "old"
    assert not list(tmp_path.glob("*.part"))


def test_the_same_problems_at_another_path_are_the_same_problems(configuration, current):
    """What was shared has its paths redacted, and stands beside what was not; other problems stay apart."""
    record = lab_support.synthetic(configuration, current)

    def at(path, dataset):
        return record.model_copy(update={"parameters": record.parameters.model_copy(update={"data": path}),
                                         "dataset": record.dataset.model_copy(update={"fingerprint": dataset})})
    for key in (results.without_reuse, results.run_key):
        assert key(at("data/test.jsonl", "f1")) == key(at("/elsewhere/test.jsonl", "f1")) != key(at("test.jsonl", "f2"))
