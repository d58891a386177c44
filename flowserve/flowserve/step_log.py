"""StepLog: what an engine's steps computed and took, the newest in memory, all of them in a file if there is one.

The file has lines of JSON: first the setting ({"setting": {...}}), then one object for each step with the fields of
StepRecord that are not zero. An engine appends to what is there, beginning with its setting. A file that is full
becomes `FILE.1`, the one of that name before `FILE.2`, and so on; the oldest goes.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from .errors import StepLogError
from .scheduling.batch import Batch
from .step_record import StepRecord, StepSetting, StepWork, shared_window

if TYPE_CHECKING:
    from .config import EngineConfig
    from .device.base import Runner, StorageLayout
    from .models.loader import LoadedModel

RING_SIZE = 4096
"""Steps kept in memory."""
FLUSH_RECORDS, FLUSH_S = 256, 1.0
"""A step that finds so many unwritten, or the oldest of them so old, has them written."""
MAX_FILE_BYTES, MAX_OLD_FILES = 64 << 20, 3
"""A file takes so many bytes, about half a million steps; so many full ones are kept beside it."""

_log = logging.getLogger("flowserve")


class _SettingLine(msgspec.Struct, frozen=True):
    setting: StepSetting


class StepLog:
    """Raises StepLogError where the file cannot be opened. Later trouble with it ends the writing, with one warning."""

    def __init__(
        self,
        setting: StepSetting,
        path: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.setting = setting
        self.path = None if path is None else Path(path)
        self._clock = clock
        self._max_file_bytes = max_file_bytes
        self._ring: deque[StepRecord] = deque(maxlen=RING_SIZE)
        self._unwritten: list[StepRecord] = []
        self._unwritten_since_s = 0.0
        self._file: BinaryIO | None = None
        if self.path is not None:
            self._file = _open(self.path)
            self._write(self._head)

    def add(self, record: StepRecord) -> None:
        """Never raises for the file's sake."""
        self._ring.append(record)
        if self._file is None:
            return
        now_s = self._clock()
        if not self._unwritten:
            self._unwritten_since_s = now_s
        self._unwritten.append(record)
        if len(self._unwritten) >= FLUSH_RECORDS or now_s - self._unwritten_since_s >= FLUSH_S:
            self.flush()

    def add_step(
        self,
        batch: Batch,
        number: int,
        device_s: float,
        engine_s: float,
        running: int,
        waiting: int,
        free_blocks: int,
        overlapped: bool,
    ) -> None:
        """See StepRecord."""
        work = StepWork.of_batch(batch, self.setting.window)
        self.add(
            StepRecord(
                prefill_tokens=work.prefill_tokens,
                decode_sequences=work.decode_sequences,
                num_sequences=work.num_sequences,
                num_logits=work.num_logits,
                prefill_pairs=work.prefill_pairs,
                decode_pairs=work.decode_pairs,
                number=number,
                device_ms=round(device_s * 1000.0, 4),
                engine_ms=round(engine_s * 1000.0, 4),
                running=running,
                waiting=waiting,
                free_blocks=free_blocks,
                preempted=len(batch.preempted),
                overlapped=overlapped,
            )
        )

    def records(self) -> list[StepRecord]:
        """The newest steps, oldest first."""
        return list(self._ring)

    def clear(self) -> None:
        """Forget what is in memory; the file keeps it."""
        self._ring.clear()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._unwritten:
            records, self._unwritten = self._unwritten, []
            self._write(_encoder.encode_lines(records))

    def close(self) -> None:
        """The records in memory stay."""
        self.flush()
        file, self._file = self._file, None
        if file is not None:
            file.close()

    @property
    def _head(self) -> bytes:
        return _encoder.encode(_SettingLine(self.setting)) + b"\n"

    def _write(self, lines: bytes) -> None:
        if self._file is None or self.path is None:
            return
        try:
            if renames := renames_before(self.path, os.fstat(self._file.fileno()).st_size, lines, self._max_file_bytes):
                self._file.close()
                for old, new in renames:
                    if old.exists():
                        old.replace(new)
                self._file = _open(self.path)
                lines = lines if lines == self._head else self._head + lines
            while lines:
                lines = lines[self._file.write(lines) :]
        except (OSError, StepLogError) as error:
            _log.warning("the step log %s ends here: %s", self.path, error)
            file, self._file = self._file, None
            self._unwritten.clear()
            file.close()


def renames_before(path: Path, size_bytes: int, lines: bytes, max_file_bytes: int) -> list[tuple[Path, Path]]:
    """How files make way for these lines, the oldest first; none where the file still takes them, or is empty. Pure."""
    if not size_bytes or size_bytes + len(lines) <= max_file_bytes:
        return []
    names = [path, *_old_files(path)]
    return list(zip(names[-2::-1], names[:0:-1], strict=True))


def _old_files(path: Path) -> list[Path]:
    """Names of the full ones, the newest first."""
    return [path.with_name(f"{path.name}.{number}") for number in range(1, MAX_OLD_FILES + 1)]


def step_log_of(config: EngineConfig, setting: StepSetting) -> StepLog | None:
    """The log that an engine's config asks for. Raises StepLogError."""
    if config.step_log is None or config.step_log is False:
        return None
    return StepLog(setting, None if config.step_log is True else config.step_log)


def setting_of(config: EngineConfig, loaded: LoadedModel, layout: StorageLayout, runner: Runner) -> StepSetting:
    """Under which conditions an engine takes its steps."""
    model = loaded.config
    heads = (model.num_heads, model.num_kv_heads, model.head_dim)
    return StepSetting(
        model=loaded.folder.resolve().name,
        shape=(model.hidden_size, model.intermediate_size, model.num_layers, *heads, model.vocab_size),
        device=loaded.device.name,
        backend=type(runner).__name__,
        dtype=str(loaded.dtype).removeprefix("torch."),
        checkpoint_dtype=model.dtype,
        quantization=config.quantization,
        kv_cache_dtype=layout.kv_dtype,
        num_threads=runner.num_threads,
        window=shared_window(model.windows),
        chunk=config.max_num_batched_tokens,
        block_size=layout.block_size,
        block_bytes=layout.block_bytes,
    )


def read_step_log(path: str | Path) -> tuple[StepSetting, list[StepRecord]]:
    """All steps of a log, those of its full files first. A last line of an engine that was killed is left out.

    Raises StepLogError naming the file, and the line where one is at fault: no steps, not a step log, steps of engines
    with different settings.
    """
    try:
        older = [old.read_bytes() for old in _old_files(Path(path))[::-1] if old.exists()]
        lines = b"\n".join([*older, Path(path).read_bytes()]).split(b"\n")
    except OSError as error:
        raise StepLogError(f"{path}: {error.strerror or error}") from error
    setting: StepSetting | None = None
    records: list[StepRecord] = []
    for place, line in enumerate(lines):
        try:
            if line.startswith(_SETTING):
                found = msgspec.json.decode(line, type=_SettingLine).setting
                if setting is not None and found != setting:
                    raise StepLogError(f"{path}: line {place + 1} begins another setting: {_change(setting, found)}")
                setting = found
            elif line:
                records.append(_record_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if not _is_cut_off(lines, place):
                raise StepLogError(f"{path}: line {place + 1} is no step: {error}") from error
    if setting is None or not records:
        raise StepLogError(f"{path}: no steps in it")
    return setting, records


def _open(path: Path) -> BinaryIO:
    """Its end, where a line begins. Raises StepLogError, also for a file that is something else."""
    try:
        file = path.open("ab+", buffering=0)
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(len(_SETTING))
        if size and head != _SETTING:
            file.close()
            raise StepLogError(f"step_log {str(path)!r}: there is a file that is no step log")
        if size:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return file
    except OSError as error:
        raise StepLogError(f"step_log {str(path)!r}: {error.strerror or error}") from error


def _is_cut_off(lines: list[bytes], place: int) -> bool:
    """Whether nothing comes behind this line but another engine's steps."""
    following = next((line for line in lines[place + 1 :] if line), _SETTING)
    return following.startswith(_SETTING)


def _change(before: StepSetting, after: StepSetting) -> str:
    fields = (name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name))
    return ", ".join(f"{name} {getattr(before, name)!r} became {getattr(after, name)!r}" for name in fields)


_SETTING = b'{"setting":'
_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(StepRecord)
