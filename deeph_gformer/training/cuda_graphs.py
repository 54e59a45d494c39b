"""Training steps of small structures as CUDA graphs, whose kernels a GPU runs faster than a program
launches them.

Every training structure has its own graph (its shapes never change): forward pass, loss and
gradients. What the graph reads lies at fixed places: the structure's batch stays on the GPU, and
the states that a step draws are copied over those of the last one. The gradients of all graphs are
written to the same tensors, which are handed to the optimiser, and graphs share their memory for
intermediate values. Optimiser, clipping, averages and schedule are those of any other step.

A step that cannot be captured runs as usual, and it is said once why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..config import TrainingConfig
from ..errors import ConfigError, lacks_memory
from .batches import Batch

if TYPE_CHECKING:
    from .module import HamiltonianTask
    from .states import StepStates

__all__ = ["StepGraphs", "capture", "step_graphs", "unsupported"]

#: Share of a GPU's memory that stays free; with less, further structures run as usual.
RESERVE = 0.2
#: Steps before a capture, in which libraries allocate what they keep.
WARM_UP = 3

Losses = tuple[Tensor, dict[str, Tensor]]


def capture(
    step: Callable[[], Losses], shared: dict[str, Any]
) -> tuple[Callable[[], None], Losses]:
    """Record what a function does on the GPU.

    Args:
        step: reads and writes tensors at fixed places, and never waits for the GPU.
        shared: what captures of one device share; filled by the first one.

    Returns:
        What does it again, and its result, which is at the same place each time.
    """
    if not shared:
        shared["pool"], shared["stream"] = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    stream: torch.cuda.Stream = shared["stream"]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=shared["pool"], stream=stream):
        result = step()
    return graph.replay, result


def unsupported(task: HamiltonianTask, settings: TrainingConfig, device: torch.device) -> str:
    """Why steps cannot be captured; empty where they can.

    Args:
        task: what is trained.
        settings: how.
        device: where.
    """
    reasons = {
        f"the device is {device.type}": device.type != "cuda",
        f"training.batch_size is {settings.batch_size}": settings.batch_size > 1,
        f"training.devices is {settings.devices}": settings.devices > 1,
        "training.precision is bf16-mixed": settings.precision == "bf16-mixed",
        "training.rotate draws a rotation each step": settings.rotate,
        "training.checkpoint_activations is on": settings.checkpoint_activations,
        "edge_chunk makes activations again": bool(getattr(task.network, "chunk", 0)),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def free_share(device: torch.device) -> float:
    """Share of a GPU's memory that is free."""
    free, total = torch.cuda.mem_get_info(device)
    return free / total


class CapturedStep(NamedTuple):
    """The graph of one structure.

    Attributes:
        replay: runs it.
        result: loss and logged values, at fixed places.
        states: what it reads of DFT's states.
        used: numbers of the parameters that have a gradient.
    """

    replay: Callable[[], None]
    result: Losses
    states: tuple[StepStates, ...]
    used: tuple[int, ...]


class StepGraphs:
    """The captured steps of a task.

    Attributes:
        pending: the structure whose gradients wait for :meth:`hand_over`.
    """

    def __init__(
        self, task: HamiltonianTask, device: torch.device, echo: Callable[[str], None] = print
    ) -> None:
        """
        Args:
            task: what is trained.
            device: where.
            echo: prints a line.
        """
        self.device, self.echo = device, echo
        self._losses = task.losses
        self.parameters = [p for p in task.network.parameters() if p.requires_grad]
        self.gradients: dict[int, Tensor] = {}
        self.pending: CapturedStep | None = None
        self.required = task.settings.cuda_graphs == "true"
        self.full = False  # no further structure is captured
        self._steps: dict[tuple[str, ...], CapturedStep] = {}
        self._batches: dict[tuple[str, ...], Batch] = {}
        self._shared: dict[str, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> StepGraphs:
        """Itself: a copy of the task, which averages weights, makes no steps."""
        return self

    def held(self, batch: Batch) -> Batch | None:
        """The same batch at its fixed place on the GPU; None where it has none."""
        return self._batches.get(batch.keys)

    def step(self, batch: Batch, states: Sequence[StepStates]) -> Losses | None:
        """One step; gradients are made, too.

        Args:
            batch: one structure, on the device.
            states: DFT's states that this step draws, in any place; none where the loss has none.

        Returns:
            Loss and what is logged; None where this structure is not captured.

        Raises:
            ConfigError: nothing can be captured where ``cuda_graphs`` is ``true``.
        """
        known = self._steps.get(batch.keys)
        if known is None:
            if self.full or len(batch.edges) != 1 or not batch.keys:
                return None
            known = self._capture(batch, tuple(s.to(self.device) for s in states))
            if known is None:
                return None
        for own, new in zip(known.states, states, strict=True):
            for place, value in zip(own.of_point, new.of_point, strict=True):
                place.copy_(value, non_blocking=True)
        known.replay()
        self.pending = known
        loss, logged = known.result
        return loss.clone(), {name: value.clone() for name, value in logged.items()}

    def hand_over(self) -> None:
        """Give the gradients of the last step to the parameters."""
        if self.pending is not None:
            used, self.pending = set(self.pending.used), None
            for number, parameter in enumerate(self.parameters):
                parameter.grad = self.gradients[number] if number in used else None

    def _capture(self, batch: Batch, states: tuple[StepStates, ...]) -> CapturedStep | None:
        """Capture the step of one structure; None where that does not work."""
        if free_share(self.device) < RESERVE:
            return self._stop(
                f"CUDA graphs for {len(self._steps)} structures, the others run without: less than "
                f"{RESERVE:.0%} of the GPU's memory is left"
            )
        used: list[int] = []
        # the point's tensors are written each step: they must be nobody else's
        states = tuple(
            s._replace(**{n: getattr(s, n).clone() for n in s._fields[2:]}) for s in states
        )

        def step() -> Losses:
            """Loss and gradients, into tensors that stay where they are."""
            loss, logged = self._losses(batch, states)
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            used[:] = [n for n, g in enumerate(found) if g is not None]
            for n in used:
                if n not in self.gradients:
                    self.gradients[n] = torch.empty_like(self.parameters[n])
            output = [g for g in found if g is not None]
            torch._foreach_copy_([self.gradients[n] for n in used], output)
            return loss.detach(), logged

        self._batches[batch.keys] = batch
        try:
            replay, result = capture(step, self._shared)
        except RuntimeError as error:
            del self._batches[batch.keys]
            if self.required and not lacks_memory(error):
                raise ConfigError(
                    f"training.cuda_graphs=true: a step could not be captured ({_line(error)}); "
                    "set it to auto or false"
                ) from error
            return self._stop(
                f"CUDA graphs for {len(self._steps)} structures, the others run without: "
                f"{_line(error)}"
            )
        known = CapturedStep(replay, result, states, tuple(used))
        self._steps[batch.keys] = known
        return known

    def _stop(self, why: str) -> CapturedStep | None:
        """Say why nothing more is captured."""
        self.full = True
        self.echo(why)
        return None


def _line(error: Exception) -> str:
    """First line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def step_graphs(
    task: HamiltonianTask,
    settings: TrainingConfig,
    device: torch.device,
    echo: Callable[[str], None] = print,
) -> StepGraphs | None:
    """The captured steps of a training, where it can have some.

    Args:
        task: what is trained.
        settings: how.
        device: where.
        echo: prints a line.

    Raises:
        ConfigError: ``cuda_graphs`` is ``true`` and steps cannot be captured.
    """
    if settings.cuda_graphs == "false":
        return None
    reason = unsupported(task, settings, device)
    if not reason:
        return StepGraphs(task, device, echo)
    if settings.cuda_graphs == "true":
        raise ConfigError(f"training.cuda_graphs=true: {reason}; set it to auto or false")
    if device.type == "cuda":
        echo(f"steps run without CUDA graphs: {reason}")
    return None
