"""What a person sees of a run: a progress bar for each phase, notes, the files, how long each phase took."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from commands.dataset import Event as DatasetEvent
from commands.dataset import Images, Incomplete, Line
from commands.generate import Written
from commands.notes import Note
from commands.options import with_flags
from commands.requests import REQUESTS
from dataset.making import Failed, Made
from imaging.errors import one_line
from sampler.progress import Progress


class Reporter:
    """Shows events as they come: the bar and the notes on stderr, the results on stdout. A context manager."""

    def __init__(self) -> None:
        self.bar: tqdm[None] | None = None
        self.images: tqdm[None] | None = None
        self.phase = ""
        self.seconds: dict[str, float] = {}
        self.since = time.perf_counter()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._close_images()

    def show(self, event: Progress | Note | Written | Path | DatasetEvent) -> None:
        """Show one event of a job."""
        if isinstance(event, Progress):
            self._progress(event)
            return
        if isinstance(event, Images | Made | Failed | Incomplete | Line):
            self._dataset(event)
            return
        self._close()
        if isinstance(event, Note):
            print(one_line(f"note: {with_flags(event.text, REQUESTS)}"), file=sys.stderr)
            return
        if isinstance(event, Path):
            print(one_line(f"image:   {event}"))
        else:
            print(one_line(f"image:   {event.image}"))
            print(one_line(f"panel:   {event.panel}"))
            if event.latents is not None:
                print(one_line(f"latents: {event.latents}"))
            for path in event.masks:
                print(one_line(f"mask:    {path}"))
        print("seconds: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items()), flush=True)
        self.seconds.clear()

    def _dataset(self, event: Images | Made | Failed | Incomplete | Line) -> None:
        if isinstance(event, Images):
            if self.images is not None and (event.total != self.images.total or event.done < self.images.n):
                self._close_images()  # another dataset, of an experiment
            if self.images is None:
                self.images = tqdm(
                    total=event.total, initial=event.before, desc="images", unit="image", file=sys.stderr
                )
            self.images.update(event.done - self.images.n)
            return
        if isinstance(event, Made):
            return
        self._close()
        if not isinstance(event, Failed):
            self._close_images()
        if isinstance(event, Line):
            print(one_line(event.text), flush=True)
        elif isinstance(event, Failed):
            print(one_line(f"failed: {event.item.id}: {event.reason}"), file=sys.stderr)
        else:
            what = f"{event.failed} images could not be made; {event.folder} says why in failed.jsonl"
            print(one_line(f"error: {what}; run the command again to try them again"), file=sys.stderr)

    def _progress(self, event: Progress) -> None:
        if event.phase != self.phase:
            self._close()
            self.phase = event.phase
            self.bar = tqdm(total=event.total, desc=event.phase, leave=False, mininterval=0.5, file=sys.stderr)
        if self.bar is not None:
            self.bar.update(event.done - self.bar.n)
        self._count()

    def _count(self) -> None:
        """Of the time since the last event, to the phase that it was spent in."""
        now = time.perf_counter()
        if self.phase:
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.since
        self.since = now

    def _close_images(self) -> None:
        if self.images is not None:
            self.images.close()
            self.images = None

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self._count()
        self.bar, self.phase = None, ""
