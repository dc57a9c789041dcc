"""The published UneXt50 and EffUnet written anew from their description, with the names of their state dicts.

Nothing of histofold is used, nor of segmentation-models-pytorch: what these nets say is what an import must say too.
"""

import math

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, pad


class NormalisedConv(nn.Module):
    """A 1x1 convolution whose weights are held as lengths and directions."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight_g = nn.Parameter(torch.rand(outputs, 1, 1, 1) + 0.5)
        self.weight_v = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x):
        return conv2d(
            x, self.weight_v / self.weight_v.square().sum((1, 2, 3), keepdim=True).sqrt() * self.weight_g, self.bias
        )


class Branch(nn.Module):
    def __init__(self, inputs, mid, size, dilation, groups):
        super().__init__()
        self.atrous_conv = nn.Conv2d(
            inputs, mid, size, padding=dilation if size == 3 else 0, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(mid)

    def forward(self, x):
        return self.bn(self.atrous_conv(x)).clamp_min(0)


class Pooling(nn.Module):
    def __init__(self, inputs, outputs, mid=256):
        super().__init__()
        self.aspps = nn.ModuleList(
            [Branch(inputs, mid, 1, 1, 1), *(Branch(inputs, mid, 3, dilation, 4) for dilation in (1, 2, 3, 4))]
        )
        self.global_pool = nn.Sequential(
            nn.AdaptiveMaxPool2d((1, 1)), nn.Conv2d(inputs, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.ReLU()
        )
        self.out_conv = nn.Sequential(nn.Conv2d(6 * mid, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.conv1 = nn.Conv2d(6 * mid, outputs, 1, bias=False)  # published so, and never used

    def forward(self, x):
        whole = interpolate(self.global_pool(x), size=x.shape[2:], mode="bilinear", align_corners=True)
        return self.out_conv(torch.cat([whole, *(branch(x) for branch in self.aspps)], 1))


class Stage(nn.Module):
    def __init__(self, up, skip, outputs):
        super().__init__()
        self.shuf = nn.Sequential(nn.Sequential(NormalisedConv(up, 2 * up), nn.ReLU()), nn.PixelShuffle(2))
        self.bn = nn.BatchNorm2d(skip)
        self.conv1 = nn.Sequential(nn.Conv2d(up // 2 + skip, outputs, 3, padding=1), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())

    def forward(self, deep, skip):
        return self.conv2(self.conv1(torch.cat([self.shuf(deep), self.bn(skip)], 1).clamp_min(0)))


class Levels(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, 32, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3, padding=1)
            )
            for i in inputs
        )

    def forward(self, maps, finest):
        wide = [
            interpolate(conv(x), scale_factor=2.0 ** (4 - i), mode="bilinear")
            for i, (conv, x) in enumerate(zip(self.convs, maps, strict=True))
        ]
        return torch.cat([*wide, finest], 1)


class Decoder(nn.Module):
    """What both published nets share after their encoder."""

    def __init__(self, taps, pooled, classes):
        super().__init__()
        self.aspp = Pooling(taps[4], pooled)
        self.dec4 = Stage(pooled, taps[3], 256)
        self.dec3 = Stage(256, taps[2], 128)
        self.dec2 = Stage(128, taps[1], 64)
        self.dec1 = Stage(64, taps[0], 32)
        self.fpn = Levels([pooled, 256, 128, 64])
        self.final_conv = nn.Sequential(nn.Conv2d(96, classes, 1))

    def decode(self, taps):
        e5 = self.aspp(taps[4])
        d3 = self.dec4(e5, taps[3])
        d2 = self.dec3(d3, taps[2])
        d1 = self.dec2(d2, taps[1])
        d0 = self.dec1(d1, taps[0])
        return interpolate(self.final_conv(self.fpn([e5, d3, d2, d1], d0)), scale_factor=2.0, mode="bilinear")


class PublishedUneXt50(Decoder):
    def __init__(self, classes=1):
        from torchvision.models import resnext50_32x4d

        super().__init__([64, 256, 512, 1024, 2048], 512, classes)
        net = resnext50_32x4d(weights=None)
        self.enc0 = nn.Sequential(net.conv1, net.bn1, nn.ReLU())
        self.enc1 = nn.Sequential(nn.MaxPool2d(3, 2, 1), net.layer1)
        self.enc2, self.enc3, self.enc4 = net.layer2, net.layer3, net.layer4

    def forward(self, x):
        taps = [self.enc0(x)]
        for block in (self.enc1, self.enc2, self.enc3, self.enc4):
            taps.append(block(taps[-1]))
        return self.decode(taps)


class SameConv(nn.Conv2d):
    """Pads as TensorFlow's "same" does for the image at hand."""

    def forward(self, x):
        missing = []
        for side in (x.shape[3], x.shape[2]):
            total = max((math.ceil(side / self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            missing += [total // 2, total - total // 2]
        return super().forward(pad(x, missing))


class MobileBlock(nn.Module):
    def __init__(self, inputs, outputs, size, stride, expand):
        super().__init__()
        wide = inputs * expand
        if expand > 1:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv(wide, wide, size, stride=stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._se_reduce = nn.Conv2d(wide, max(1, inputs // 4), 1)
        self._se_expand = nn.Conv2d(max(1, inputs // 4), wide, 1)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.expands, self.adds = expand > 1, stride == 1 and inputs == outputs

    def forward(self, x):
        y = nn.functional.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.functional.silu(self._bn1(self._depthwise_conv(y)))
        gate = self._se_expand(nn.functional.silu(self._se_reduce(y.mean((2, 3), keepdim=True)))).sigmoid()
        y = self._bn2(self._project_conv(y * gate))
        return x + y if self.adds else y


SCALES = {"efficientnet-b0": (1.0, 1.0), "efficientnet-b2": (1.1, 1.2)}
# How many blocks stand before each tap; the third of b0 stands within its stage, as it was published.
TAPS = {"efficientnet-b0": (3, 5, 9, 16), "efficientnet-b2": (5, 8, 16, 23)}
# kernel, stride, expansion, channels and repeats of b0, Tan and Le 2019, table 1
STAGES = (
    *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)),
    *((5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
)


def scaled(channels, width):
    """Channels times width, rounded to a multiple of 8, never by more than a tenth down."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class PublishedEncoder(nn.Module):
    def __init__(self, name):
        super().__init__()
        width, depth = SCALES[name]
        self.after = TAPS[name]
        inputs = scaled(32, width)
        self._conv_stem = SameConv(3, inputs, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(inputs, eps=1e-3)
        self._blocks = nn.ModuleList()
        self.taps = [inputs]
        for size, stride, expand, channels, repeats in STAGES:
            for repeat in range(math.ceil(repeats * depth)):
                outputs = scaled(channels, width)
                self._blocks.append(MobileBlock(inputs, outputs, size, stride if repeat == 0 else 1, expand))
                inputs = outputs
            if channels in (24, 40, 112, 320):
                self.taps.append(inputs)
        head = scaled(1280, width)
        self._conv_head = nn.Conv2d(inputs, head, 1, bias=False)  # kept and never used
        self._bn1 = nn.BatchNorm2d(head)

    def forward(self, x):
        x = nn.functional.silu(self._bn0(self._conv_stem(x)))
        maps = [x]
        for count, block in enumerate(self._blocks, start=1):
            x = block(x)
            if count in self.after:
                maps.append(x)
        return maps


class PublishedEffUnet(Decoder):
    def __init__(self, name="efficientnet-b0", classes=1):
        encoder = PublishedEncoder(name)
        super().__init__(encoder.taps, 384, classes)
        self.encoder = encoder

    def forward(self, x):
        return self.decode(self.encoder(x))


def randomised(model, seed=0):
    """The model in evaluation mode with random statistics and scales in every BatchNorm, and logits around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.3, 1.0, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
        model.eval()
        logits = model(torch.rand(1, 3, 64, 64, generator=generator))
        model.final_conv[0].weight /= logits.std() + 1e-6
    return model
