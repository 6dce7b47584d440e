"""The loss of a run: a weighted sum of named terms."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from segsweep.losses.class_sums import FromSums, class_sums
from segsweep.losses.valid import for_terms
from segsweep.types import Batch, SegmenterOutput


class WeightedSum(nn.Module):
    """Adds up named terms, each with its factor.

    Args:
        terms: name -> factor, 0 or more; a term with factor 0 is not computed.
        **definitions: name -> module (output, batch) -> scalar, or None where the term does not apply to the model. One
            for each name in ``terms``. A module with ``is_auxiliary = True`` trains no logits, one with
            ``reads_logits = False`` does not look at them, one with ``needs_labels = False`` looks at images alone.

    Returns:
        dict with ``total`` and the unweighted value of each term that is computed, all scalar float32.

    Raises:
        ValueError: a factor without a definition or a definition without a factor, a negative factor, or no term that
            trains the logits.

    >>> from segsweep.losses import BCE, CrossEntropy
    >>> definitions = {"bce": BCE(ignore_index=255), "cross_entropy": CrossEntropy(4, 255, "none", 0.0, 1.0)}
    >>> loss = WeightedSum({"cross_entropy": 0.5, "bce": 0}, **definitions)
    >>> batch = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long), torch.tensor([0]))
    >>> values = loss(SegmenterOutput(torch.zeros(1, 4, 1, 1)), batch)
    >>> {name: round(value.item(), 4) for name, value in values.items()}  # ln 4, and half of it
    {'total': 0.6931, 'cross_entropy': 1.3863}
    """

    def __init__(self, terms: Mapping[str, Annotated[float, Ge(0)]], **definitions: nn.Module) -> None:
        super().__init__()
        _check_names(terms, definitions)
        for name, factor in terms.items():
            if not factor >= 0:  # also catches NaN
                raise ValueError(f"terms.{name}={factor}: a factor is 0 or more; 0 switches the term off")
        self.factors = {name: float(factor) for name, factor in terms.items() if factor > 0}
        self.terms = nn.ModuleDict({name: definitions[name] for name in self.factors})
        if all(map(_is_auxiliary, self.terms.values())):
            raise ValueError(
                "terms: none of those that train the logits has a factor above 0; give one, e.g. loss.terms.dice=1"
            )

    def forward(self, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
        """Evaluates every term that is switched on and applies."""
        return self._add_up(self.terms.items(), output, batch)

    def without_labels(self, output: SegmenterOutput, batch: Batch) -> dict[str, Tensor]:
        """Evaluates only the terms that need no label.

        Raises:
            ValueError: there is none that applies.
        """
        terms = ((name, term) for name, term in self.terms.items() if not getattr(term, "needs_labels", True))
        return self._add_up(terms, output, batch)

    def _add_up(
        self, terms: Iterable[tuple[str, nn.Module]], output: SegmenterOutput, batch: Batch
    ) -> dict[str, Tensor]:
        terms = list(terms)
        of_sums = {name: term for name, term in terms if isinstance(term, FromSums) and term.takes_sums()}
        # What several terms need is computed once, and only if one does.
        sums = cache(partial(class_sums, output.logits, batch.mask))
        ordered = cache(lambda: output._replace(logits=for_terms(output.logits)))
        values = {}
        for name, term in terms:
            if name in of_sums and len(of_sums) > 1:
                value = of_sums[name].of(sums(of_sums[name].ignore_index))
            else:
                value = term(ordered() if getattr(term, "reads_logits", True) else output, batch)
            if value is not None:
                values[name] = value
        if not values:
            raise ValueError("terms: none of them applies; give one a factor, e.g. loss.terms.reconstruction=0.1")
        total = torch.stack([self.factors[name] * value for name, value in values.items()]).sum()
        return {"total": total, **values}


def _is_auxiliary(term: nn.Module) -> bool:
    return bool(getattr(term, "is_auxiliary", False))


def _check_names(terms: Mapping[str, float], definitions: Mapping[str, nn.Module]) -> None:
    for name in terms:
        if name not in definitions:
            near = difflib.get_close_matches(name, definitions, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Defined: {', '.join(sorted(definitions))}"
            raise ValueError(f"terms.{name}={terms[name]}: no term of this name is defined. {hint}")
    for name, module in definitions.items():
        if not isinstance(module, nn.Module):
            raise ValueError(f"{name}={module}: is no term; a term is a node with a _target_")
        if name not in terms:
            raise ValueError(f"{name}: is defined but has no factor; give one: +loss.terms.{name}=1")
