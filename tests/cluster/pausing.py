"""A task that takes time and no processor, also where faketime is at work: that breaks `time.sleep`."""

import threading

from meshq import task


@task
def pause(wait_s: float) -> float:
    """Waits."""
    threading.Event().wait(wait_s)
    return wait_s
