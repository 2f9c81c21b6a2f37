"""Shared fixtures: the golden random checkpoint, the embedded one, and prompts."""

import dataclasses
import gc
import shlex
import signal
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import execnet
import pytest
import warm_python
from golden_support import DATA, GOLDEN
from process_support import Programs
from xdist.scheduler import LoadScopeScheduling

import fastdllm

# Ignored in a shell's background jobs, and then in all that they start: Ctrl-C is to reach the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What workers do first: the files that take longest. Single notebooks are last, so that all end at about the same time.
LONGEST = ("test_slurm", "test_docs", "test_publish", "test_browser", "test_shards", "test_verify", "test_smol",
           "test_package", "test_comparison", "test_chat", "test_faults", "test_train", "test_bisect", "test_runner")
SHARED = {"test_slurm_jupyterlab": "test_slurm", "test_gallery": "test_publish", "test_secrets": "test_publish"}
APART = ("test_notebooks",)      # each test is a unit by itself

SERVED = pytest.StashKey[str]()


def unit(nodeid: str) -> str:
    """Tests of one unit run in one worker, in their order: those of a file, or of files that share a fixture."""
    name = Path(nodeid.partition("::")[0]).stem
    return nodeid if name in APART else SHARED.get(name, name)


class Units(LoadScopeScheduling):
    """Units in the order of collection. (xdist's own groups are without effect under pytest 9.2.)"""

    def _split_scope(self, nodeid):
        return unit(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return Units(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """The workers are forked from a Python that has everything imported; what forks them serves their tests, too."""
    held = ExitStack()
    config.add_cleanup(held.close)
    config.stash[SERVED] = held.enter_context(warm_python.serving())
    warm = shlex.join(warm_python.command(config.stash[SERVED]))
    specs[:] = [execnet.XSpec(f"{spec}//python={warm}") for spec in specs]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["served"] = node.config.stash[SERVED]


def pytest_collection_modifyitems(items):
    """The longest files first, what is dealt test by test last; otherwise as collected."""
    def rank(item):
        name = SHARED.get(item.path.stem, item.path.stem)
        return LONGEST.index(name) if name in LONGEST else len(LONGEST) + (name in APART)
    items.sort(key=rank)


def pytest_collection_finish():
    """What was imported stays: full collections, which statsmodels makes in each Holm correction, leave it out."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: rounding does not depend on the machine's cores, and parallel test workers do not fight."""
    import torch  # here: the process that only deals tests out to workers does without
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden():
    """A random checkpoint of the geometry in small, no tokenizer; mask 511, stop 510."""
    return fastdllm.load(GOLDEN, device="cpu")


@pytest.fixture(scope="session")
def shallow(golden):
    """The golden checkpoint's first four layers: for tests of the loop around the network, which they pass quickly."""
    from fastdllm.model.network import Network
    config = dataclasses.replace(golden.config, num_hidden_layers=4)
    network, weights = Network(config), golden.network.state_dict()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return dataclasses.replace(golden, name="shallow", network=network.eval())


@pytest.fixture(scope="session")
def lm(golden):
    """A checkpoint where any will do: the golden one."""
    return golden


@pytest.fixture(scope="session")
def tiny():
    """The embedded, trained checkpoint."""
    return fastdllm.load("tiny", device="cpu")


@pytest.fixture(scope="session")
def golden_prompts():
    """Token lists by length: p5, p31, p32, p33, p40, p44, p64, p70."""
    return {name: prompt["rows"][0] for name, prompt in DATA["prompts"].items() if len(prompt["rows"]) == 1}


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """A directory that all workers of this run of the tests have in common."""
    own = tmp_path_factory.getbasetemp()
    directory = (own if worker_id == "master" else own.parent) / "common"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def served(request):
    """Where Pythons are to be had that start with libraries imported (tests/warm_python.py)."""
    if workerinput := getattr(request.config, "workerinput", None):
        yield workerinput["served"]
    else:
        with warm_python.serving() as directory:
            yield directory


@pytest.fixture(scope="session")
def kernels(served, tmp_path_factory):
    """The environment in which kernels start with everything imported."""
    return warm_python.kernels(served, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def executable(served, tmp_path_factory):
    """What may stand for sys.executable: the program's modules start with everything imported."""
    return warm_python.executable(served, tmp_path_factory.mktemp("executable") / "python")


@pytest.fixture(scope="session")
def programs(served):
    """Runs `fastdllm WORDS`, and scripts, with all of that imported (tests/process_support.py)."""
    return Programs(warm_python.command(served))


@contextmanager
def surrounded(environment):
    """Variables of the environment, as long as the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def warm_kernels(kernels):
    """Kernels of this file start with everything imported."""
    with surrounded(kernels):
        yield


@contextmanager
def warm(executable):
    """The workers that this process starts have everything imported, as long as the block lasts."""
    with surrounded({warm_python.EXECUTABLE: executable}), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", executable)
        yield


@pytest.fixture(scope="module")
def warm_workers(executable, warm_kernels):
    """The workers that run what this file asks for start with everything imported, and so do their kernels."""
    with warm(executable):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory, executable, kernels):
    """A small project in which a grid and a notebook have run (tests/share_support.py)."""
    import share_support
    with surrounded(kernels), warm(executable):
        return share_support.project(tmp_path_factory.mktemp("project"))
