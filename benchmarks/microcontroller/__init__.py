"""Exported policies on emulated microcontrollers: arm-none-eabi-gcc builds them, qemu-system-arm runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"


class Board(NamedTuple):
    """A microcontroller.

    :param machine: the emulator's name of a board that has it
    :param flags: for the compiler
    :param flash: bytes
    """

    machine: str
    flags: tuple[str, ...]
    flash: int


BOARDS = {
    "Cortex-M4F": Board("mps2-an386", ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), 4 << 20),
    # It has the instructions of a Cortex-M0, which the emulated board has
    "Cortex-M0+": Board("microbit", ("-mcpu=cortex-m0plus", "-mfloat-abi=soft"), 256 << 10),
}


class Run(NamedTuple):
    """What a policy did on a microcontroller.

    :param actions: [n, n_act]
    :param flash_bytes: of its code and tables, without the compiler's library
    :param whole_flash_bytes: of the whole program: with the library, the start and the test
    :param ram_bytes: static ones
    :param stack_bytes: of a call, and what calls it in turn
    :param instructions: of an action
    """

    actions: np.ndarray
    flash_bytes: int
    whole_flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    instructions: int


def why_not() -> str | None:
    """What is missing; None if policies can be built and run."""
    missing = [tool for tool in (COMPILER, SIZE, EMULATOR) if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def run(
    board: Board,
    source: Path,
    observations: np.ndarray,
    folder: Path,
    optimize: str = "-O2",
    dtype: type = np.float32,
) -> Run:
    """Build a policy for a board, and let it act there.

    :param board: the board
    :param source: ``policy.c`` of an export, its header beside it
    :param observations: raw observations, [n, n_obs]
    :param folder: for everything that is made
    :param optimize: the compiler's option
    :param dtype: of actions, default float32; discrete ones: int32
    :raises ValueError: if it does not fit into the board's flash
    """
    flags = ["-mthumb", *board.flags, optimize, "-ffreestanding", "-ffunction-sections", "-fdata-sections"]
    warnings = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror"]
    policy, program = folder / "policy.o", folder / "program.elf"
    subprocess.run([COMPILER, *flags, *warnings, "-c", source, "-o", policy], check=True)
    link = ["-nostdlib", "-Wl,--gc-sections", f"-Wl,--defsym=FLASH_SIZE={board.flash}", f"-T{HERE / 'board.ld'}"]
    command = [COMPILER, *flags, "-std=gnu99", f"-I{source.parent}", *link, HERE / "board.c", policy, "-lgcc"]
    built = subprocess.run([*command, "-o", program], capture_output=True, text=True, check=False)
    if "will not fit in region" in built.stderr:
        raise ValueError(f"it does not fit into the {board.flash >> 10} KiB of flash")
    if built.returncode != 0:
        raise RuntimeError(built.stderr)
    observations.astype("<f4").tofile(folder / "observations.bin")
    emulator = [EMULATOR, "-machine", board.machine, "-icount", "shift=0", "-kernel", program.name]
    emulator += ["-semihosting-config", "enable=on,target=native", "-display", "none", "-serial", "none"]
    subprocess.run([*emulator, "-monitor", "none"], cwd=folder, check=True, timeout=120, capture_output=True)
    calibration, loop, ticks, repeats, stack = np.fromfile(folder / "counts.bin", "<u4").tolist()
    text, data, bss = _sizes(policy)
    return Run(
        actions=np.fromfile(folder / "actions.bin", dtype).reshape(len(observations), -1),
        flash_bytes=text,
        whole_flash_bytes=sum(_sizes(program)[:2]),
        ram_bytes=data + bss,
        stack_bytes=stack,
        instructions=round(ticks * loop / calibration / repeats),
    )


def _sizes(path: Path) -> tuple[int, ...]:
    """Bytes of code and constants, of data, and of zeros."""
    printed = subprocess.run([SIZE, path], capture_output=True, text=True, check=True).stdout.splitlines()[1]
    return tuple(map(int, re.findall(r"\d+", printed)[:3]))
