"""Configuration of OptFS gates: which values or fields a model keeps."""

from typing import Literal

from pydantic import Field, model_validator

from recsys.config.base import Section


class GatesConfig(Section):
    """A search that closes what does not pay, before the model is trained on the rest (Lyu et al. 2023)."""

    mode: Literal["field", "value-lazy", "value-dense"]
    """`field`: one gate a field. `value-lazy`: one a value, priced by the occurrence, so that rare values are judged by
    what they are worth when they occur. `value-dense`: one a value, pushed down at every step, so that a value must be
    worth its row: rare ones close first."""
    fields: tuple[str, ...] | None = None
    """Names of the gated fields; all where left out. Towers never gate ids: new users and items live by the rest."""
    start: float = Field(default=0.5, ge=0.0, le=5.0)
    """Every gate's logit at first. Lower closes more."""
    penalty: float | None = Field(default=None, ge=0.0)
    """The price of an open gate in units of the loss, lambda: a gate closes whose value lowers the loss of a batch by
    less. 0: no price."""
    kappa: float | None = Field(default=None, ge=0.0)
    """The same as a multiple of 1 / training examples: penalty = kappa / examples. Give this or `penalty`."""
    final_temperature: float = Field(default=200.0, ge=1.0)
    """The factor on the logits at the end of the search; it grows there from 1 exponentially."""
    temperature_by: Literal["epoch", "step"] = "epoch"
    """Whether that factor grows from epoch to epoch, as in the paper, or from step to step."""
    warmup_epochs: int = Field(default=0, ge=0, exclude_if=lambda epochs: not epochs)
    """Epochs before the search in which only weights are trained, all gates open: what a value is worth is judged
    better by weights that have learned something. 0, as in the paper: gates move from the first step on."""
    search_epochs: int = Field(default=6, ge=2)
    """Epochs in which gates move; all of them run."""
    rewind_epoch: int = Field(default=1, ge=0)
    """Before training with the gates found, the weights go back to what they were after so many epochs of warm-up and
    search."""
    learning_rate: float = Field(default=0.003, gt=0.0)
    """Adam's for the gates. Times the steps of the search it must well exceed `start`."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Adam's for the gates. Large beside the penalty's slope (at most penalty x temperature / 4) it stops them."""

    @model_validator(mode="after")
    def _complete(self) -> "GatesConfig":
        if (self.penalty is None) == (self.kappa is None):
            raise ValueError("give one of 'penalty' and 'kappa' (penalty = kappa / training examples)")
        if self.fields == ():
            raise ValueError("'fields: []' gates nothing: name fields, or leave it out for all")
        if self.rewind_epoch >= self.epochs:
            raise ValueError(
                f"'rewind_epoch: {self.rewind_epoch}' must be less than 'search_epochs: {self.search_epochs}'"
                + (f" and 'warmup_epochs: {self.warmup_epochs}' together" if self.warmup_epochs else "")
            )
        return self

    @property
    def epochs(self) -> int:
        """Epochs of warm-up and search together."""
        return self.warmup_epochs + self.search_epochs

    def penalty_for(self, examples: int) -> float:
        """The penalty of one open gate (the paper's lambda) when so many examples are trained on."""
        return self.penalty if self.penalty is not None else (self.kappa or 0.0) / max(examples, 1)
