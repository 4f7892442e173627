"""What all unit tests share."""

import sys
import threading

import pytest
import torch

from tests.helpers.encoders import make_encoder, tiny_encoder, tiny_recogniser
from tests.helpers.pretraining import pretraining, tiny_corpus
from tests.helpers.run_folders import finished_runs, tested_run

__all__ = [  # fixtures
    "finished_runs",
    "make_encoder",
    "pretraining",
    "tested_run",
    "tiny_corpus",
    "tiny_encoder",
    "tiny_recogniser",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models of unit tests are too small for threads to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def wrong_in_threads():
    """Function of a call and four jobs: what comes out otherwise in threads than one by one."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # they take turns at every opportunity

    @torch.no_grad()
    def compare(call, jobs, times=15):
        expected, wrong = [call(*job) for job in jobs], []

        @torch.no_grad()
        def work(number):
            for _ in range(times):
                try:
                    if not torch.equal(call(*jobs[number]), expected[number]):
                        wrong.append(number)
                except (RuntimeError, IndexError) as error:
                    wrong.append(str(error))

        threads = [threading.Thread(target=work, args=[number]) for number in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return wrong

    yield compare
    sys.setswitchinterval(before)
