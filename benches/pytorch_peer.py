"""PyTorch's figures for the networks that `cifar bench` times, on the same machine: a line of JSON each, in the same fields.

    python3 benches/pytorch_peer.py > pytorch.jsonl
    cifar bench --device cuda --beside pytorch.jsonl

The networks are those of the paper's code (github.com/timgaripov/swa), as `swa-models` has them. Training is forward, backward
and SGD with momentum, on float32, and on a GPU once more with TF32. An update is `AveragedModel.update_parameters` by its
foreach path. A batch of re-estimating BatchNorm is what `update_bn` does: a forward pass in training mode without gradients.
Figures are medians over rounds, after a warm-up, timed by the device where there is one.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

CLASSES = 10


def vgg16(batch_norm):
    layers, channels = [], 3
    for width in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    head = [nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(512, CLASSES))


class PreBlock(nn.Module):
    """BatchNorm, ReLU and a convolution, two or three times, beside a shortcut."""

    def __init__(self, channels, planes, stride, bottleneck):
        super().__init__()
        out = 4 * planes if bottleneck else planes
        if bottleneck:
            shapes = [(channels, planes, 1, 1), (planes, planes, 3, stride), (planes, out, 1, 1)]
        else:
            shapes = [(channels, planes, 3, stride), (planes, planes, 3, 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(shape[0]) for shape in shapes)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in shapes)
        changes = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x):
        y = x
        for norm, conv in zip(self.norms, self.convs):
            y = conv(functional.relu(norm(y)))
        return y + self.shortcut(x)


class WideBlock(nn.Module):
    def __init__(self, channels, planes, stride):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(planes)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(channels, planes, 3, padding=1), nn.Conv2d(planes, planes, 3, stride, padding=1)]
        )
        changes = stride != 1 or channels != planes
        self.shortcut = nn.Conv2d(channels, planes, 1, stride) if changes else nn.Identity()

    def forward(self, x):
        y = self.convs[0](functional.relu(self.norms[0](x)))
        return self.convs[1](functional.relu(self.norms[1](y))) + self.shortcut(x)


class ResNet(nn.Module):
    """A stem of 16 channels, three stages of blocks, and a linear layer over the mean of each channel."""

    def __init__(self, stem, stages, bias):
        super().__init__()
        blocks = [nn.Conv2d(3, stem, 3, padding=1, bias=bias)]
        for stage in stages:
            blocks.extend(stage)
        channels = blocks[-1].convs[-1].out_channels
        self.body = nn.Sequential(*blocks, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x):
        return self.classifier(self.body(x).mean((2, 3)))


def preresnet(depth):
    bottleneck = depth >= 44
    count = (depth - 2) // (9 if bottleneck else 6)
    channels, stages = 16, []
    for stage, planes in enumerate([16, 32, 64]):
        blocks = []
        for index in range(count):
            blocks.append(PreBlock(channels, planes, 2 if stage and not index else 1, bottleneck))
            channels = 4 * planes if bottleneck else planes
        stages.append(blocks)
    return ResNet(16, stages, bias=False)


def wide_resnet(depth, widen):
    channels, stages = 16, []
    for stage, planes in enumerate([16 * widen, 32 * widen, 64 * widen]):
        blocks = []
        for index in range((depth - 4) // 6):
            blocks.append(WideBlock(channels, planes, 2 if stage and not index else 1))
            channels = planes
        stages.append(blocks)
    return ResNet(16, stages, bias=True)


NETWORKS = {
    "vgg16": lambda: vgg16(False),
    "vgg16-bn": lambda: vgg16(True),
    "preresnet-20": lambda: preresnet(20),
    "preresnet-110": lambda: preresnet(110),
    "preresnet-164": lambda: preresnet(164),
    "wrn-28-10": lambda: wide_resnet(28, 10),
}


def milliseconds(work, rounds, warm_up, on_gpu):
    """The median of the times that `work` takes."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(rounds):
        if on_gpu:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            work()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended))
        else:
            began = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(name, batch, rounds, warm_up):
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    threads = f"cpu, {torch.get_num_threads()} threads"
    line = {"model": name, "batch": batch, "torch": torch.__version__}
    line["device"] = torch.cuda.get_device_name() if on_gpu else threads

    def median(work):
        return milliseconds(work, rounds, warm_up, on_gpu)

    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    torch.backends.cudnn.benchmark = True
    for arithmetic in ["fp32", "tf32"] if on_gpu else ["fp32"]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
        model = NETWORKS[name]().to(device)
        sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=3e-4)
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

        def step():
            sgd.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images), labels).backward()
            sgd.step()

        took = median(step)
        line[f"train_{arithmetic}_images_per_s"] = round(1e3 * batch / took)
        line[f"step_{arithmetic}_ms"] = round(took, 4)
        if on_gpu:
            line[f"peak_MiB_{arithmetic}"] = torch.cuda.max_memory_allocated() >> 20
    for kind, average_by in [("swa", get_swa_multi_avg_fn()), ("ema", get_ema_multi_avg_fn(0.999))]:
        average = AveragedModel(model, multi_avg_fn=average_by)
        average.update_parameters(model)
        line[f"update_{kind}_ms"] = round(median(lambda: average.update_parameters(model)), 4)
    with torch.no_grad():
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            model.train()
            line["train_mode_forward_ms"] = round(median(lambda: model(images)), 4)
        model.eval()
        line["inference_ms"] = round(median(lambda: model(images)), 4)
    return line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[128])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.models:
        for batch in arguments.batch_sizes:
            line = measure(name, batch, arguments.rounds, arguments.warm_up)
            print(json.dumps(line), flush=True)
