"""Plain convolutional networks, as users build them by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.plain_inputs import Plain, floats


class Cnn(nn.Module):
    """Convolutions with batch normalisation, pooled over any image size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 5)."""
        logits: Tensor = self.head(self.features(image).mean(dim=(2, 3)))
        return logits


class DoubleConvolution(nn.Sequential):
    """The building block of a U-Net."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Down and up again, with the finer levels concatenated on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = DoubleConvolution(3, 8)
        self.second = DoubleConvolution(8, 16)
        self.bottom = DoubleConvolution(16, 32)
        self.up_second = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.join_second = DoubleConvolution(32, 16)
        self.up_first = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join_first = DoubleConvolution(16, 8)
        self.mask = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 2, height, width); sizes are multiples of 4."""
        first = self.first(image)
        second = self.second(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        up = self.join_second(torch.cat([self.up_second(bottom), second], dim=1))
        up = self.join_first(torch.cat([self.up_first(up), first], dim=1))
        mask: Tensor = self.mask(up)
        return mask


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole image holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        pooled = functional.adaptive_avg_pool2d(x, 1)
        weights = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(pooled))))
        return x * weights


class Mobile(nn.Module):
    """Inverted bottlenecks: depthwise convolutions, squeeze and excite, hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.expand = nn.Conv2d(8, 32, 1, bias=False)
        self.depthwise = nn.Conv2d(32, 32, 5, padding=2, groups=32, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.attend = SqueezeExcite(32)
        self.project = nn.Conv2d(32, 8, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 8, height / 2, width / 2)."""
        stem = functional.hardswish(self.stem(image))
        wide = self.norm(self.depthwise(functional.relu6(self.expand(stem))))
        narrow: Tensor = self.project(self.attend(functional.hardswish(wide)))
        return stem + narrow


class Residual(nn.Module):
    """A residual block that halves the image, its shortcut projected."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.first = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2), nn.BatchNorm2d(16))
        self.pooled = nn.AdaptiveAvgPool2d((1, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 10)."""
        x = self.pool(self.stem(image).relu_())
        y = self.second(self.norm(self.first(x)).relu())
        y += self.shortcut(x)
        logits: Tensor = self.head(torch.flatten(self.pooled(y.relu_()), 1))
        return logits


class CausalConvolutions(nn.Module):
    """WaveNet in small: dilated convolutions that see the past only, gated, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 8, 1)
        self.filters = nn.ModuleList(nn.Conv1d(8, 8, 2, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(8, 8, 2, dilation=2**i) for i in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(8, 4, 1) for _ in range(3))

    def forward(self, wave: Tensor) -> Tensor:
        """(batch, 1, length) to (batch, 4, length)."""
        x = self.start(wave)
        skips = torch.zeros(())
        for i, (filtered, gate) in enumerate(zip(self.filters, self.gates, strict=True)):
            past = functional.pad(x, (2**i, 0))
            y = torch.tanh(filtered(past)) * torch.sigmoid(gate(past))
            skips = skips + self.skips[i](y)
            x = x + y
        return functional.relu(skips)


class Volume(nn.Module):
    """Convolutions over three axes, as for video and scans."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.up = nn.ConvTranspose3d(8, 2, (1, 2, 2), stride=(1, 2, 2))

    def forward(self, scan: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1, steps, height, width) to the same with 2 channels, and (batch, 8)."""
        x = functional.leaky_relu(self.first(scan), 0.1)
        x = functional.elu(self.second(x))
        pooled = functional.adaptive_max_pool3d(x, 1).flatten(1)
        return self.up(x), pooled


class SuperResolution(nn.Module):
    """Enlarges an image by pixel shuffling, over its bicubic enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="replicate"),
            nn.PReLU(8),
            nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect"),
        )
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 3, 2 height, 2 width)."""
        sharp: Tensor = self.shuffle(self.body(image))
        return sharp + functional.interpolate(image, scale_factor=2.0, mode="bicubic")


class Pyramid(nn.Module):
    """Feature pyramid: coarse levels resized to the finer one's size, a list of levels out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(inputs, 8, 3, stride=2, padding=1) for inputs in (3, 8, 8)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(8, 6, 1) for _ in range(3))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(batch, 3, height, width) to three levels, each half as large as the last."""
        levels = []
        for layer in self.down:
            image = layer(image).relu()
            levels.append(image)
        top = self.lateral[-1](levels[-1])
        merged = [top]
        for layer, level in zip(self.lateral[-2::-1], levels[-2::-1], strict=True):
            side = layer(level)
            top = side + functional.interpolate(top, size=side.shape[-2:], mode="nearest")
            merged.insert(0, top)
        return merged


class Pooling(nn.Module):
    """Every way to pool, side by side, as in an inception block."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) to one map per way."""
        largest, places = functional.max_pool2d(image, 3, stride=2, return_indices=True)
        return {
            "ceiling": functional.max_pool2d(image, 3, stride=2, ceil_mode=True),
            "dilated": functional.max_pool2d(image, 2, stride=1, dilation=2),
            "bordered": functional.avg_pool2d(image, 3, padding=1, count_include_pad=False),
            "power": functional.lp_pool2d(image.abs() + 0.1, 2.0, 2),
            "largest": largest,
            "places": places,
        }


class AdaptivePooling(nn.Module):
    """Pools an image of any size to a fixed one, as before a classifier's dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((4, 4))
        self.head = nn.Linear(3 * 16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, 5)."""
        logits: Tensor = self.head(torch.flatten(self.pool(image), 1))
        return logits


class Warp(nn.Module):
    """A spatial transformer: finds an affine map, and samples the image along it."""

    def __init__(self) -> None:
        super().__init__()
        self.find = nn.Linear(3, 6)
        with torch.no_grad():
            self.find.weight.mul_(0.1)
            self.find.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, image: Tensor) -> Tensor:
        """Keeps (batch, 3, height, width)."""
        theta = self.find(image.mean(dim=(2, 3))).view(-1, 2, 3)
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


IMAGE = {"image": floats("batch 3 height width")}

MODULES = {
    "cnn": Plain(build=Cnn, inputs=IMAGE),
    "unet": Plain(build=UNet, inputs=IMAGE),
    "mobile": Plain(build=Mobile, inputs=IMAGE),
    "residual": Plain(build=Residual, inputs=IMAGE),
    "causal_convolutions": Plain(
        build=CausalConvolutions, inputs={"wave": floats("batch 1 length")}
    ),
    "volume": Plain(build=Volume, inputs={"scan": floats("batch 1 steps height width")}),
    "super_resolution": Plain(build=SuperResolution, inputs=IMAGE),
    "pyramid": Plain(build=Pyramid, inputs=IMAGE),
    "pooling": Plain(build=Pooling, inputs=IMAGE),
    "adaptive_pooling": Plain(build=AdaptivePooling, inputs=IMAGE),
    "warp": Plain(build=Warp, inputs=IMAGE),
}
