"""Forward throughput of each backend beside its rival, in alternating processes.

Every contender also times a float32 matrix product of its framework between its forward passes;
the share of that rate is what it makes of the machine, however fast the machine is just then.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console

from measuring.contender import PRODUCT
from measuring.contest import Timings, as_fast, check_same_answer, speedups
from measuring.fresh import run
from measuring.machine import Tries, quietest
from measuring.targets import Results, Target
from mixer_spec import variant
from mixer_spec.commands.output import Json, console, table

LEAST_SHARE = 0.6
PRODUCTS = 8
"""Of each process, after each of its forward passes."""

Framework = Literal["torch", "jax", "onnx"]


class Contest(NamedTuple):
    """Ours first, then the rivals; each is a label and the function that prepares it."""

    framework: Framework
    ours: tuple[str, str]
    rivals: tuple[tuple[str, str], ...]


CONTESTS = (
    Contest(
        "torch",
        ("mixer_torch", "with_torch:backend"),
        (("plain nn.Module", "with_torch:plain"),),
    ),
    Contest("jax", ("mixer_jax", "with_jax:backend"), (("plain Flax", "with_jax:plain"),)),
    Contest(
        "onnx",
        ("export_onnx", "with_onnx:ours"),
        (
            ("torch.onnx, dynamo", "with_onnx:dynamo"),
            ("torch.onnx, TorchScript", "with_onnx:torchscript"),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class WithProduct(Timings):
    """The timings of a contender beside those of its framework's matrix product.

    Args:
        product: seconds, by process.
    """

    product: Sequence[Sequence[float]]

    @property
    def product_rates(self) -> list[float]:
        """GFLOP/s of the matrix product, by process."""
        return [2e-9 * math.prod(PRODUCT) / statistics.median(times) for times in self.product]

    @property
    def shares(self) -> list[float]:
        """The rate of the forward pass as a share of the product's, by process."""
        pairs = zip(self.medians, self.product_rates, strict=True)
        return [self.gflop / seconds / rate for seconds, rate in pairs]

    def to_data(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            **Timings.to_data(self),
            "product_gflops": statistics.median(self.product_rates),
            "share": statistics.median(self.shares),
            "shares": self.shares,
        }


def measure(
    contest: Contest, name: str, batch: int, threads: int, rounds: int, tries: int, repeats: int
) -> tuple[dict[str, WithProduct], float]:
    """Let the contenders take turns, each time in fresh processes; and the noise meanwhile."""
    contenders = (contest.ours, *contest.rivals)
    with tempfile.TemporaryDirectory() as folder:
        if contest.framework == "onnx":
            run(["-m", "measuring.with_onnx", name, folder])

        def once() -> list[Any]:
            numbers = [str(number) for number in (batch, threads, repeats, PRODUCTS)]
            return [
                run(["-m", "measuring.timed", function, name, *numbers, folder]).last_line
                for _, function in contenders
            ]

        found, noise = quietest(once, rounds, tries)
    for mine, *others in found:
        for (rival, _), other in zip(contest.rivals, others, strict=True):
            check_same_answer(contest.ours[0], rival, mine["logits"], other["logits"])
    gflop = 2e-9 * batch * variant(name).spec().multiply_adds
    timings = {
        label: WithProduct(
            gflop,
            [each[index]["forward_seconds"] for each in found],
            [each[index]["product_seconds"] for each in found],
        )
        for index, (label, _) in enumerate(contenders)
    }
    return timings, noise


def targets_of(contest: Contest, speeds: Mapping[str, Any], share: float) -> Iterator[Target]:
    """What the backend should reach: as fast as each rival, and most of the product's rate."""
    ours = contest.ours[0]
    for rival, found in speeds.items():
        yield as_fast(ours, rival, found)
    yield Target(
        f"{ours}: share of the product's rate",
        f">= {LEAST_SHARE:.0%}",
        f"{share:.0%}",
        share >= LEAST_SHARE,
    )


def print_timings(
    out: Console, timings: Mapping[Framework, Mapping[str, WithProduct]], batch: int
) -> None:
    """Print one row for each contender."""
    right = ("median s", "best s", "images/s", "GFLOP/s", "product GFLOP/s", "share", "shares")
    made = table("framework", "contender", *right, right=right)
    for framework, contenders in timings.items():
        for label, found in contenders.items():
            data = found.to_data()
            made.add_row(
                framework,
                label,
                f"{data['median_seconds']:.3f}",
                f"{data['best_seconds']:.3f}",
                f"{batch / data['median_seconds']:.1f}",
                f"{data['gflops']:.0f}",
                f"{data['product_gflops']:.0f}",
                f"{data['share']:.0%}",
                f"{min(data['shares']):.0%} to {max(data['shares']):.0%}",
            )
    out.print(made)


def main(
    variant_name: Annotated[str, typer.Option("--variant", help="Which Mixer.")] = "mixer_b16",
    batch: Annotated[int, typer.Option(min=1, help="Number of images.")] = 8,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each framework. Default: every core.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each contender.")] = 5,
    tries: Tries = 15,
    repeats: Annotated[int, typer.Option(min=1, help="Forward passes of each process.")] = 7,
    framework: Annotated[
        Framework | None, typer.Option(help="The only one to measure. Default: all.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure the forward throughput of each backend beside its rival."""
    threads = threads or len(os.sched_getaffinity(0))
    load, loudest = os.getloadavg()[0], 0.0
    timings = {}
    speeds: dict[str, Any] = {}
    targets: list[Target] = []
    for contest in CONTESTS:
        if framework not in (None, contest.framework):
            continue
        found, noise = measure(contest, variant_name, batch, threads, rounds, tries, repeats)
        loudest = max(noise, loudest)
        ours = found[contest.ours[0]]
        against = {rival: speedups(ours, found[rival]) for rival, _ in contest.rivals}
        timings[contest.framework] = found
        speeds[contest.framework] = against
        targets += targets_of(contest, against, statistics.median(ours.shares))
    figures = {
        "variant": variant_name,
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "repeats": repeats,
        "contenders": {
            name: {label: timing.to_data() for label, timing in found.items()}
            for name, found in timings.items()
        },
        "speedups": speeds,
    }
    results = Results(figures, targets, load, loudest)
    if json:
        results.print_json()
        return
    out = console()
    out.print(
        f"[bold]Forward pass of {variant_name}[/], batch {batch}, float32, {threads} threads, "
        f"{rounds} rounds of {repeats} passes; the product is {PRODUCT[0]} x {PRODUCT[1]} by "
        f"{PRODUCT[1]} x {PRODUCT[2]}",
        soft_wrap=True,
    )
    print_timings(out, timings, batch)
    results.print_end(out)


if __name__ == "__main__":
    typer.run(main)
