"""The optimiser of our own networks: Muon for matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

__all__ = ["MuonAdamW"]

_LEAST = 32  # rows and columns of a matrix that is worth orthogonalising


class MuonAdamW(Optimizer):
    """Both at once, as one optimiser with the parameter groups of both.

    Muon (Jordan et al. 2024) makes the momentum of a matrix orthogonal before it steps; its steps are scaled to the
    root mean square of AdamW's (Liu et al. 2025), so that one learning rate serves both.

    Parameters
    ----------
    parameters : of the model
    lr, betas, weight_decay : of AdamW; `lr` and `weight_decay` are Muon's too
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        parameters = list(parameters)
        matrix = [p for p in parameters if p.ndim == 2 and min(p.shape) >= _LEAST]
        rest = [p for p in parameters if all(p is not m for m in matrix)]
        self._parts: list[Optimizer] = []
        if matrix:
            self._parts.append(Muon(matrix, lr, weight_decay, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self._parts.append(AdamW(rest, lr, betas=betas, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """A schedule that changes the groups changes those of both."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()

    @property
    def matrices(self) -> list[Tensor]:
        """What Muon moves."""
        return [p for part in self._parts if isinstance(part, Muon) for g in part.param_groups for p in g["params"]]
