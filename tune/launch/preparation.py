"""What takes seconds to start and waits for no data: begun while the data are read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tune.definition.spec import StudySpec
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log, open_tracker
from tune.tracking.sender_process import early_sender


class HeadStart:
    """The processes that were started.

    Attributes:
        sender: delivers to MLflow; whoever closes the study's tracking ends it.
    """

    def __init__(self, sender: subprocess.Popen[bytes]) -> None:
        self.sender = sender

    def give_up(self) -> None:
        """End what was started in the study's folder: the study comes to nothing."""
        self.sender.kill()
        self.sender.wait()


@contextmanager
def head_start(spec: StudySpec, folder: StudyFolder, home: Home) -> Iterator[HeadStart]:
    """Ray and the study's sender for the block, being started."""
    with open_log(folder, shared=spec.address is not None) as log:
        open_tracker(log, spec, home)  # says where the sender delivers what an earlier sitting owes
        begun = HeadStart(early_sender(log))
    try:
        from tune.cluster import local_ray

        with local_ray.starting(spec.concurrent):
            yield begun
    finally:
        begun.give_up()  # nothing where its work is done: it has ended
