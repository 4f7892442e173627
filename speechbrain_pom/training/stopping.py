"""Ctrl-C, SIGTERM and SIGUSR1 ask a run to save and end; a second Ctrl-C ends it at once."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.util import Finalize

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Slurm warns of the end of a job's time by a signal of one's choice, often SIGUSR1.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
_WARNINGS = SIGNALS[2:]  # which children ignore
_active = []  # requests whose handlers are installed
_guarded = set()  # pid of this process, once it obeys its parent only
_quiet_ends = set()  # pid of this process, if it then ends with code 0
_ends_children = set()  # pid of this process, if its daemonic children are to end before it

_TIMES_TOLD, _PATIENCE_S = 10, 1.0  # to a child that is to end


class StopRequest:
    """Notes signals instead of dying of them, within a `with` block.

    Example
    -------
    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.signal_name
    'SIGTERM'
    """

    def __init__(self):
        self.signal_number = None
        self._former = {}

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that came, or None."""
        return None if self.signal_number is None else signal.Signals(self.signal_number).name

    def __enter__(self):
        # Only the main thread may set handlers; elsewhere signals stay the caller's affair.
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
            _active.append(self)
            if os.getpid() not in _ends_children:
                _ends_children.add(os.getpid())
                Finalize(None, _end_children, exitpriority=0)
        return self

    def __exit__(self, *_):
        if self in _active:
            _active.remove(self)
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        logger.warning(
            "%s: saving at the next optimizer step, then ending (Ctrl-C again ends at once)",
            self.signal_name,
        )

    def agreed(self, device: str) -> bool:
        """Whether any process was asked to stop, the same answer in all; a collective call."""
        if not torch.distributed.is_initialized():
            return self.signal_number is not None
        number = torch.tensor(self.signal_number or 0, device=device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        self.signal_number = int(number) or None
        return self.signal_number is not None


def leave_signals_to_parent(_worker_id: int | None = None) -> None:
    """Let a loader's worker end, with code 0, when its parent says so, and for no other signal.

    Batch systems and terminals signal all processes of a job: workers that died of it would end
    the run before it is saved. For `worker_init_fn`; without effect where the system cannot tell
    who sent a signal (macOS).
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    _quiet_ends.add(os.getpid())
    if os.getpid() not in _guarded:  # not forked from a run, but started by itself
        started_by = multiprocessing.parent_process()  # not the server that may have forked it
        _obey_only(os.getppid() if started_by is None else started_by.pid)


def _obey_only(parent):

    def wait():
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        if os.getpid() in _quiet_ends:
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.kill(os.getpid(), signal.SIGTERM)

    _guarded.add(os.getpid())
    for number in (signal.SIGINT, *_WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # left to the thread
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *_WARNINGS})
    threading.Thread(target=wait, daemon=True).start()


def _end_children():
    """End the daemonic processes, at the end of the program.

    `multiprocessing` would tell them once and then wait for ever, though a signal may be lost:
    while one waits to be taken (by a process that is not given the processor, say), the next of
    its kind is dropped. A worker then finds a batch system's SIGTERM in the place of its parent's.
    """
    for _ in range(_TIMES_TOLD):
        children = [child for child in multiprocessing.active_children() if child.daemon]
        for child in children:
            child.terminate()
        for child in children:
            child.join(_PATIENCE_S)
    for child in multiprocessing.active_children():
        if child.daemon:  # it hangs
            child.kill()


def _mask_while_forking(how):
    if _active:
        signal.pthread_sigmask(how, SIGNALS)


def _forget_in_child():
    """A forked process is no run of its own: it ends when its parent says so.

    From its first moment on: signals stay blocked while the process is forked.
    """
    if not _active:
        return
    _active.clear()
    if hasattr(signal, "sigwaitinfo"):
        _obey_only(os.getppid())
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, *_WARNINGS):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


if hasattr(os, "register_at_fork"):
    # Without the mask, Python drops what a new process gets before its handlers are set, and a
    # parent that ends at once would wait for that process for ever.
    os.register_at_fork(
        before=lambda: _mask_while_forking(signal.SIG_BLOCK),
        after_in_parent=lambda: _mask_while_forking(signal.SIG_UNBLOCK),
        after_in_child=_forget_in_child,
    )
