"""Training batches: gathered from the decoded store and augmented on the training device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from segsweep.data.ahead import locked, map_ahead, sent
from segsweep.data.pixels import to_trained
from segsweep.data.windows import Windows, rare_classes
from segsweep.regime import Images
from segsweep.rng import mix, permutation, uniform
from segsweep.sharing import rank, world_size
from segsweep.types import Batch

if TYPE_CHECKING:
    from segsweep.data.datamodule import DataModule

log = logging.getLogger(__name__)

_CANDIDATES = 512  # pixels looked at to find one of a rare class: one of 0.5 % is then nearly always among them


class _Plan(NamedTuple):
    """Where the training images of one step, and the partners that some of them are mixed with, come from."""

    images: Tensor  # (N,) int64, positions of the images
    key: Tensor  # (N,) int64, what is drawn for them follows from
    is_hidden: Tensor  # (N,) bool: its mask may not be used
    mixed: Tensor  # (M,) int64, positions in the batch that are mixed with a partner
    partner: Tensor  # (M,) int64
    is_partner_hidden: Tensor  # (M,) bool
    num_unlabelled: int  # images at the end whose masks may not be used

    def divide(self, pieces: int) -> Iterator[_Plan]:
        """Parts of nearly equal size, each with its share of the unlabelled images at the end."""
        if pieces == 1:
            yield self
            return
        place = torch.arange(len(self.images))
        kinds = torch.tensor_split(place, [len(place) - self.num_unlabelled])
        for parts in zip(*(kind.tensor_split(pieces) for kind in kinds), strict=True):
            part = torch.cat(parts)
            mixed = torch.full_like(place, -1).index_copy(0, part, torch.arange(len(part)))[self.mixed]
            mine = mixed >= 0
            partners = self.partner[mine], self.is_partner_hidden[mine]
            whole = self.images[part], self.key[part], self.is_hidden[part]
            yield _Plan(*whole, mixed[mine], *partners, len(parts[1]))


class _Share(NamedTuple):
    """The images of one pool over an epoch, some in each batch."""

    pool: Tensor  # int64, positions
    num: int  # in a batch
    mine: slice  # of each batch, what this rank takes
    order: Tensor  # int64, positions, batch after batch
    num_images: int  # of the split

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Positions of the images of a step, and keys that tell one showing of an image in an epoch from the next."""
        place = torch.arange(step * self.num, (step + 1) * self.num)[self.mine]
        index = self.order[place]
        if len(self.pool) == self.num_images:  # what only fills up the last batch is no new showing
            return index, index
        return index, index + place // len(self.pool) * self.num_images  # in the first pass: the index itself


class _Cut(NamedTuple):
    """Windows of some images, on the CPU or the device, with everything that augmentation needs."""

    images: Tensor  # (N, H, W, C) uint8
    masks: Tensor  # (N, H, W) uint8
    draws: Tensor  # (N, num_draws) float32
    centre: Tensor  # (N, 2) float32, row and column in the window


Gathered = tuple[_Plan, _Cut, _Cut | None]  # of a batch, and of the partners that are mixed in


def beside(gathered: Sequence[Gathered]) -> Gathered | None:
    """What was gathered for several batches as that of one, in order; None if they mix images."""
    plans, own, partners = zip(*gathered, strict=True)
    if any(cut is not None for cut in partners):
        return None
    images, is_hidden = (torch.cat(parts) for parts in zip(*((p.images, p.is_hidden) for p in plans), strict=True))
    cut = _Cut(*(torch.cat(parts) for parts in zip(*own, strict=True)))
    return plans[0]._replace(images=images, is_hidden=is_hidden), cut, None


class TrainBatches:
    """The training batches of one epoch after another; Lightning tells it the epoch through ``sampler.set_epoch``.

    Where memory does not suffice for a batch (``data.pieces`` above 1), its pieces come one after another.

    An epoch has ceil(all training images / batch size) batches of equal size: the last one is filled up from the next
    order, so that no batch is too small for batch normalisation. What is drawn for an image follows from (seed, epoch,
    index), so it does not depend on the batch, on where images are kept, or on who reads them. Labelled images that are
    shown again and again in an epoch, because few images have labels, are drawn for anew each time.

    Of ranks that train together, each yields its equal part of the same batches.
    """

    def __init__(self, data: DataModule, device: torch.device) -> None:
        split = data.store.splits["train"]
        self.data, self.device = data, device
        self.windows = Windows(split, device, data.storage)
        self.num_images = len(split.items)
        labelled = data.labelled()
        self.is_hidden = torch.ones(self.num_images, dtype=torch.bool)
        self.is_hidden[labelled] = False
        self.labelled, self.unlabelled = labelled, self.is_hidden.nonzero()[:, 0]
        self.class_weight, self.is_rare = rare_classes(split.counts[labelled.numpy()])
        has_rare = torch.from_numpy(split.counts[:, :-1] > 0)[:, self.is_rare].any(dim=1)
        self.with_rare = labelled[has_rare[labelled]]
        self.sampler = self  # Lightning calls loader.sampler.set_epoch(epoch)
        self.epoch = 0
        self._first = 0  # batch of the next iteration
        if data.batch_size > self.num_images:
            log.warning(
                "data.batch_size=%d but train has %d images: each batch repeats them", data.batch_size, self.num_images
            )

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields."""
        self.epoch = epoch

    def start_at(self, piece: int) -> None:
        """Has the next iteration, and only that, begin within its epoch: at the first piece of a batch."""
        self._first = piece // self.data.pieces

    @property
    def num_batches(self) -> int:
        """Whole batches of an epoch."""
        return -(-self.num_images // self.data.batch_size)

    def __len__(self) -> int:
        return self.num_batches * self.data.pieces

    def __iter__(self) -> Iterator[Batch]:
        for gathered in self.gathered():
            yield self.finished(*gathered)

    def gathered(self) -> Iterator[Gathered]:
        """The windows of each batch, not augmented yet: what ``finished`` takes."""
        workers = 0 if self.windows.is_resident else self.data.num_workers
        yield from map_ahead(self._gather, self._plans(), workers)

    def _plans(self) -> Iterator[_Plan]:
        shares = {
            images: self._shares(images) for images in {stage.images for stage in self.data.regime.stages.values()}
        }
        size = self.data.batch_size // world_size()
        first, self._first = self._first, 0
        for step in range(first, self.num_batches):
            parts = shares[self.data.stage_at(self.epoch, step * self.data.pieces).images]
            shown = [part.batch(step) for part in parts]
            index, key = (torch.cat(columns) for columns in zip(*shown, strict=True))
            # Partners are of the same kind: mixed with others, labelled images would lose labels.
            pairs = [self._partners(keys, part.pool) for part, (_, keys) in zip(parts, shown, strict=True)]
            mixed = torch.cat([at + i * size for i, (at, _) in enumerate(pairs)])
            partner = torch.cat([of for _, of in pairs])
            num_unlabelled = size * (len(parts) - 1)
            is_hidden = self.is_hidden[index], self.is_hidden[partner]
            plan = _Plan(index, key, is_hidden[0], mixed, partner, is_hidden[1], num_unlabelled)
            yield from plan.divide(self.data.pieces)

    def _shares(self, images: Images) -> list[_Share]:
        """What each batch of this epoch is made of, labelled images first."""
        size = self.data.batch_size
        every = torch.arange(self.num_images)
        if images == "mixed" and len(self.unlabelled):
            pools = [self.labelled, self.unlabelled]
        else:
            pools = [every if images == "all" else self.labelled]
        mine = slice(rank() * size // world_size(), (rank() + 1) * size // world_size())
        return [_Share(pool, size, mine, self._order(pool, size), self.num_images) for pool in pools]

    def _order(self, pool: Tensor, num: int) -> Tensor:
        """Positions of all images of this epoch, pass after pass: (num_batches * num,) int64."""
        needed = self.num_batches * num
        passes = [
            pool[permutation(len(pool), self.data.seed, "order", self.epoch, i)] for i in range(-(-needed // len(pool)))
        ]
        return torch.cat(passes)[:needed]

    def _partners(self, key: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the batch that get a partner, and their partners: drawn from the dataset, not from the batch."""
        augment = self.data.augment
        if not augment.mixes:
            return key[:0], key[:0]
        mixed = augment.is_mixed(self._draws("augment", key)).nonzero()[:, 0]  # on the CPU: nobody waits
        if augment.mix == "copy_paste" and len(self.with_rare):
            pool = self.with_rare
        draw = uniform(mix(self.data.seed, "partner", self.epoch), key[mixed], 1)[:, 0]
        return mixed, pool[(draw * len(pool)).long()]

    def _draws(self, purpose: str, key: Tensor) -> Tensor:
        return uniform(mix(self.data.seed, purpose, self.epoch), key, self.data.augment.num_draws)

    def _gather(self, plan: _Plan) -> Gathered:
        own = self._cut(plan.images, plan.key, "")
        partners = self._cut(plan.partner, plan.key[plan.mixed], "partner ") if len(plan.mixed) else None
        return plan, own, partners

    def _cut(self, index: Tensor, key: Tensor, prefix: str) -> _Cut:
        """Windows of the images at ``index``, with draws that follow from ``key``."""
        data, windows = self.data, self.windows
        out = data.train_size
        draws = self._draws(f"{prefix}augment", key)
        if windows.size == out and data.crop is None:
            images, masks = windows.whole(index)
            centre = torch.tensor([(out[0] - 1) / 2, (out[1] - 1) / 2]).expand(len(index), 2)
        else:
            num = 6 + 2 * _CANDIDATES if data.crop_balance else 2
            corner = self._corners(index, uniform(mix(data.seed, f"{prefix}crop", self.epoch), key, num))
            reach = data.augment.reach(out)
            margin = torch.tensor([(reach[0] - out[0]) // 2, (reach[1] - out[1]) // 2])
            images, masks = windows.cut(index, corner - margin, reach, data.spec.ignore_index)
            centre = (margin + torch.tensor([(out[0] - 1) / 2, (out[1] - 1) / 2])).expand(len(index), 2)
        return _Cut(locked(images, self.device), locked(masks, self.device), draws, centre)

    def _corners(self, index: Tensor, draws: Tensor) -> Tensor:
        """First row and column of each crop, (N, 2) int64; a crop larger than its image lies around it."""
        sizes, out = self.windows.sizes[index], torch.tensor(self.data.train_size)
        room = sizes - out
        corner = torch.where(room >= 0, (draws[:, :2] * (room + 1)).long(), room.div(2, rounding_mode="floor"))
        if self.data.crop_balance == 0:
            return corner
        y = (draws[:, 6 : 6 + _CANDIDATES] * sizes[:, :1]).long()
        x = (draws[:, 6 + _CANDIDATES :] * sizes[:, 1:]).long()
        weight = self.class_weight[self.windows.classes_at(index, y, x).long()]
        cumulated = weight.cumsum(dim=1)
        chosen = (cumulated < draws[:, 2:3] * cumulated[:, -1:]).sum(dim=1, keepdim=True).clamp_max(_CANDIDATES - 1)
        pixel = torch.cat([y.gather(1, chosen), x.gather(1, chosen)], dim=1)
        around = pixel - (draws[:, 3:5] * out).long()  # the pixel may lie anywhere in the crop
        balanced = torch.where(room >= 0, around.clamp(min=torch.zeros(1, dtype=torch.int64), max=room), corner)
        is_balanced = (draws[:, 5:6] < self.data.crop_balance) & (cumulated[:, -1:] > 0)
        is_balanced &= ~self.is_hidden[index, None]  # a mask that may not be used may not steer either
        return torch.where(is_balanced, balanced, corner)

    def finished(self, plan: _Plan, own: _Cut, partners: _Cut | None) -> Batch:
        """Augments, mixes and standardises what was gathered for a batch."""
        spec, augment = self.data.spec, self.data.augment
        image, mask = self._augment(own, plan.is_hidden)
        if partners is not None:
            other_image, other_mask = self._augment(partners, plan.is_partner_hidden)
            at, draws, is_rare = map(self._sent, (plan.mixed, own.draws[plan.mixed], self.is_rare))
            pasted = augment.mix_in(image[at], mask[at], other_image, other_mask, draws, is_rare, spec.ignore_index)
            image = image.index_copy(0, at, pasted[0])
            mask = mask.index_copy(0, at, pasted[1])
        return Batch(to_trained(image, spec), mask, self._sent(plan.images), plan.num_unlabelled)

    def _sent(self, tensor: Tensor) -> Tensor:
        return sent(tensor, self.device)

    def _augment(self, cut: _Cut, is_hidden: Tensor) -> tuple[Tensor, Tensor]:
        images, masks, draws, centre = map(self._sent, cut)
        ignore_index = self.data.spec.ignore_index
        image, mask = self.data.augment(images, masks, draws, centre, self.data.train_size, ignore_index)
        if is_hidden.any():
            mask = torch.where(self._sent(is_hidden)[:, None, None], ignore_index, mask)
        return image, mask
