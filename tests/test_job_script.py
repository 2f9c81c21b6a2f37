"""The script of a Slurm job, run by bash: when it puts itself back into the queue, and when it gives up.

In the package's place a command adds samples to the journal, says that the time is up, and waits to be stopped.
"""

import os
import subprocess
import sys

import pytest

from fastdllm.lab.config.parameters import Slurm
from fastdllm.lab.jobs import script
from fastdllm.lab.records import journal

WORKER = """#!/bin/sh
case " $* " in *" --help "*) exit 0 ;; esac
[ -e "$JOURNAL" ] || echo '{"n":99}' > "$JOURNAL"
i=0; while [ $i -lt "$ADDS" ]; do echo '{}' >> "$JOURNAL"; i=$((i + 1)); done
kill -USR1 $PPID
exec sleep 20
"""


SETTINGS = {"partition": "gpu", "account": "a", "qos": "q", "gres": "gpu:1", "constraint": "c", "memory": "3G",
            "mail_user": "m@x", "time": "1:02:03", "cpus": 7, "throttle": 5, "requeue": False, "signal_seconds": 77,
            "setup": ("module load x",)}


@pytest.mark.parametrize("name", sorted(set(Slurm.model_fields) - {"profile"}))
def test_every_slurm_setting_reaches_the_script(tmp_path, name):
    def lines(settings):
        tasks = [script.ArrayTask("t", ("grid", "run"), tmp_path)] * 2
        text = script.render("n", tasks, settings, tmp_path, (), {}, "t")
        return [line for line in text.splitlines() if not line.startswith("# Written by")]
    assert lines(Slurm(**{name: SETTINGS[name]})) != lines(Slurm())
    assert "#SBATCH --mail-user=m@x" in lines(Slurm(**SETTINGS)) and "#SBATCH --mem=3G" in lines(Slurm(**SETTINGS))


class Switched(Slurm):
    """Settings as someone adds one: a switch."""

    exclusive: bool = False


def test_a_switch_that_is_on_is_an_option_without_a_value_and_off_it_is_none():
    assert Switched(exclusive=True, memory="3G").options() == ["mem=3G", "exclusive"]
    assert Switched().options() == Slurm().options() == []


class Job:
    """A script of two array tasks, of which one is started again and again."""

    def __init__(self, folder, monkeypatch):
        self.configuration = folder / "configuration"
        self.configuration.mkdir()
        for name, text in (("python", WORKER), ("scontrol", "#!/bin/sh\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        tasks = [script.ArrayTask("t", ("grid", "run"), self.configuration)] * 2
        self.script = script.render("n", tasks, Slurm(), folder, (), {}, "t")

    def start(self, adds, number=7, index=0):
        """One start that adds so many samples: whether the job stands in the queue again."""
        names = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index, "ADDS": adds,
                 "JOURNAL": journal.path_of(self.configuration, "0" * 64)}
        done = subprocess.run(["bash", "-c", self.script], env=os.environ | {n: str(each) for n, each in names.items()},
                              capture_output=True, text=True, timeout=120, check=False)
        gave_up = "nothing was added, three starts in a row" in done.stdout
        assert f"stopping after {adds} more samples" in done.stdout, done
        assert done.returncode == (1 if gave_up else 0), done
        return not gave_up


@pytest.fixture
def job(tmp_path, monkeypatch):
    return Job(tmp_path, monkeypatch)


@pytest.mark.parametrize(("adds", "last"), [((2, 1, 3, 0), True), ((0, 0, 1, 0), True), ((0, 1, 0, 0), True),
                                            ((1, 0, 0, 0), False), ((0, 0, 0), False), ((0, 0, 2, 0, 0, 0), False)])
def test_a_job_is_given_up_after_three_starts_in_a_row_that_add_nothing(job, adds, last):
    assert [job.start(each) for each in adds] == [True] * (len(adds) - 1) + [last]


def test_a_job_that_was_given_up_has_three_starts_when_it_is_submitted_again(job):
    assert [job.start(0) for _ in range(3)] == [True, True, False]
    assert [job.start(0, number=8) for _ in range(3)] == [True, True, False]


def test_starts_of_a_job_that_was_cancelled_do_not_count_for_the_next(job):
    assert [job.start(0), job.start(0), job.start(0, number=8)] == [True, True, True]


def test_starts_are_counted_for_each_array_task(job):
    assert [job.start(0), job.start(1, index=1), job.start(0), job.start(0)] == [True, True, True, False]
