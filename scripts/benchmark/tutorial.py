"""Training as tutorials show it: Lightning, segmentation-models-pytorch, albumentations and a DataLoader, in float32.

    python scripts/benchmark/tutorial.py --root DIR --workers 2

It knows nothing of ``segsweep`` and stands for what its users would write without it: images are opened in
``__getitem__``, metrics are computed and logged at every step, everything else is left at its default. DIR has
``images/{train,val,test}`` and ``masks/{train,val,test}`` with files of equal names.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

STRIDE = 32  # pixels of the image for each one of the encoder's coarsest map


class Segmentation(Dataset):
    """Images and masks of one split, read when they are asked for."""

    def __init__(self, root: Path, split: str, transform: Callable[..., dict[str, Any]], is_grey: bool) -> None:
        self.images = sorted((root / "images" / split).iterdir())
        self.masks = sorted((root / "masks" / split).iterdir())
        self.transform, self.is_grey = transform, is_grey

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = str(self.images[index])
        if self.is_grey:
            image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)[..., None]
        else:
            image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(self.masks[index]), cv2.IMREAD_GRAYSCALE)
        found = self.transform(image=image, mask=mask)
        return found["image"], found["mask"].long()


def transforms(
    crop: Sequence[int] | None, mean: Sequence[float], std: Sequence[float], hflip: float, ignore_index: int
) -> tuple[A.Compose, A.Compose]:
    """Of training images, and of those to validate and test on, whose sides have to be multiples of 32."""
    pad = A.PadIfNeeded(
        None,
        None,
        pad_height_divisor=STRIDE,
        pad_width_divisor=STRIDE,
        position="top_left",
        border_mode=cv2.BORDER_CONSTANT,
        fill=[255 * value for value in mean],
        fill_mask=ignore_index,
    )
    end = [A.Normalize(mean, std), ToTensorV2()]
    cut = [A.RandomCrop(*crop)] if crop else [pad]
    return A.Compose([*cut, A.HorizontalFlip(p=hflip), *end]), A.Compose([pad, *end])


class Net(pl.LightningModule):
    """U-Net on a ResNet-18, cross entropy plus Dice, AdamW and a cosine after a warm-up."""

    def __init__(self, num_classes: int, ignore_index: int, in_channels: int, lr: float) -> None:
        super().__init__()
        self.model = smp.Unet("resnet18", encoder_weights=None, in_channels=in_channels, classes=num_classes)
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=ignore_index)
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=ignore_index)
        self.num_classes, self.ignore_index, self.lr = num_classes, ignore_index, lr

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        return self.model(image)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One batch."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One batch."""
        self._step(batch, "test")

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        image, mask = batch
        logits = self(image)
        loss: Tensor = self.cross_entropy(logits, mask) + self.dice(logits, mask)
        counts = smp.metrics.get_stats(
            logits.argmax(dim=1),
            mask,
            mode="multiclass",
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
        )
        self.log(f"{stage}_loss", loss, prog_bar=True)
        self.log(f"{stage}_iou", smp.metrics.iou_score(*counts, reduction="micro"), prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """A tenth of the steps to warm up, then half a cosine."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01)
        total = int(self.trainer.estimated_stepping_batches)
        warm = max(1, round(0.1 * total))
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - warm))
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], [warm])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Clock(pl.Callback):
    """Notes the seconds of each training epoch, from its first batch's request to its last step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """It begins."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Its last step."""
        if trainer.is_last_batch:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self._start)


def loaders(args: argparse.Namespace) -> dict[str, DataLoader]:
    """One for each split."""
    grey = args.channels == 1
    train, whole = transforms(args.crop, args.mean, args.std, args.hflip, args.ignore_index)
    facts = {"batch_size": args.batch_size, "num_workers": args.workers}
    return {
        "train": DataLoader(Segmentation(args.root, "train", train, grey), shuffle=True, **facts),
        "val": DataLoader(Segmentation(args.root, "val", whole, grey), **facts),
        "test": DataLoader(Segmentation(args.root, "test", whole, grey), **facts),
    }


def train(args: argparse.Namespace) -> tuple[Net, pl.Trainer, dict[str, Any]]:
    """Trains; returns the network, its trainer and images a second of each epoch."""
    pl.seed_everything(args.seed)
    clock, data = Clock(), loaders(args)
    net = Net(args.num_classes, args.ignore_index, args.channels, args.lr)
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        accelerator=args.device,
        callbacks=[clock],
        default_root_dir=args.out,
        limit_train_batches=args.steps,
        limit_val_batches=args.eval_steps,
        limit_test_batches=args.eval_steps,
    )
    trainer.fit(net, data["train"], data["val"])
    images = min(len(data["train"].dataset), (args.steps or len(data["train"])) * args.batch_size)
    return net, trainer, {"images_per_s": [images / seconds for seconds in clock.seconds]}


def arguments(line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a U-Net as tutorials do.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tutorial"))
    parser.add_argument("--num-classes", type=int, default=11)
    parser.add_argument("--ignore-index", type=int, default=11)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--mean", type=float, nargs="+", default=[0.41, 0.43, 0.43])
    parser.add_argument("--std", type=float, nargs="+", default=[0.30, 0.31, 0.31])
    parser.add_argument("--crop", type=int, nargs=2, default=None)
    parser.add_argument("--hflip", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--eval-steps", type=int, default=None)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    return parser.parse_args(line)


def main() -> None:
    args = arguments()
    _, trainer, facts = train(args)
    trainer.test(dataloaders=loaders(args)["test"], ckpt_path="best")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
