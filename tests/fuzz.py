"""A fuzz run, guided by coverage, over every decoder that sees a peer's bytes.

`python -m tests.fuzz [--minutes M] [--only NAME] [--corpus FOLDER]` needs `pip install atheris`. Each decoder
of `tests/node/decoders.py` runs in a process of its own for its share of the time: it is given bytes as they
are, or canonical values made of them, and has to read them or refuse them with an error of its floor, in one
line and within a second. What breaks one is printed, kept in the folder, and belongs into
`tests/node/test_decoders.py` as a case. With `--corpus` inputs that reached new code are kept for next time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MAX_BYTES = 4_096
MAX_SECONDS = 1.0
MAX_MB = 2_000
DEPTH = 5
MODULES = ["chain", "crdt", "dht", "federated", "sharding", "node"]


def fuzz(name: str, corpus: Path, seconds: float) -> None:
    """Fuzz one decoder in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=MODULES):
        from chain import canonical
        from chain.errors import ChainError
        from tests.node.decoders import DECODERS, KEYS, PARTS, REFUSED, WHOLE

    decoder = DECODERS[name]
    for number, seed in enumerate(WHOLE):
        (corpus / f"seed-{number}").write_bytes(b"\0" + seed)

    def value(source: Any, depth: int = 0) -> Any:
        match source.ConsumeIntInRange(0, 9):
            case 0:
                return None
            case 1:
                return source.ConsumeBool()
            case 2:
                return source.ConsumeInt(source.ConsumeIntInRange(1, 8))
            case 3:
                return source.ConsumeBytes(source.ConsumeIntInRange(0, 80))
            case 4:
                return source.ConsumeUnicodeNoSurrogates(source.ConsumeIntInRange(0, 40))
            case 5 | 6 if depth < DEPTH:
                return [value(source, depth + 1) for _ in range(source.ConsumeIntInRange(0, 12))]
            case 7 if depth < DEPTH:
                count = source.ConsumeIntInRange(0, 6)
                return {source.PickValueInList(KEYS): value(source, depth + 1) for _ in range(count)}
            case 8:
                return source.PickValueInList([0, 1, 255, 1 << 32, -1, -(1 << 63), b"", "", [], {}])
        return source.PickValueInList(PARTS)

    def one(data: bytes) -> None:
        if data[:1] and data[0] % 2:
            try:
                data = canonical.encode(value(atheris.FuzzedDataProvider(data[1:])))
            except ChainError:
                return
        else:
            data = data[1:]
        began = time.perf_counter()
        try:
            decoder(data)
        except REFUSED as refusal:
            if "\n" in str(refusal):
                raise RuntimeError(f"refused in more than one line: {refusal}") from refusal
        if time.perf_counter() - began > MAX_SECONDS:
            raise RuntimeError(f"{name} took {time.perf_counter() - began:.1f} s for {len(data)} bytes")

    options = [
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={MAX_MB}",
        "-timeout=20",
        "-print_final_stats=1",
        f"-artifact_prefix={corpus}/broke-",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], one)
    atheris.Fuzz()


def run(names: list[str], corpus: Path, seconds: float) -> int:
    """Fuzz these decoders one after the other; how many broke."""
    broke, inputs = 0, 0
    for name in names:
        folder = corpus / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--one",
            name,
            "--seconds",
            f"{seconds / len(names):g}",
        ]
        done = subprocess.run(
            [*command, "--corpus", str(folder)], capture_output=True, text=True, errors="replace", check=False
        )
        lines = done.stderr.splitlines() + done.stdout.splitlines()
        units = [line.split()[-1] for line in lines if "number_of_executed_units" in line]
        inputs += int(units[0]) if units else 0
        print(f"{name:20} {units[0] if units else '?':>10} inputs  {'broke' if done.returncode else 'held'}")
        if done.returncode:
            broke += 1
            print("\n".join(lines[-30:]))
    print(f"{len(names)} decoders, {inputs:,} inputs, {broke} broke")
    return broke


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz every decoder that sees a peer's bytes.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all decoders together")
    parser.add_argument("--only", help="one decoder of tests/node/decoders.py")
    parser.add_argument("--corpus", type=Path, help="a folder to keep inputs in")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        fuzz(arguments.one, arguments.corpus, arguments.seconds)
        return
    from tests.node.decoders import DECODERS

    names = [arguments.only] if arguments.only else list(DECODERS)
    with tempfile.TemporaryDirectory(prefix="roseforest-fuzz-") as folder:
        sys.exit(1 if run(names, arguments.corpus or Path(folder), 60 * arguments.minutes) else 0)


if __name__ == "__main__":
    main()
