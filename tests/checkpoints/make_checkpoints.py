"""Writes the PyTorch files in this folder: a PreResNet-8 a sixteenth as wide, in each of the ways PyTorch saves one.

    pip install torch==2.9.1 numpy safetensors
    python make_checkpoints.py
"""

import json
import pickle
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "vectors"))
from make_parity import PreBlock, uniform  # noqa: E402


class PreResNet8(nn.Module):
    """As make_parity.PreResNet, with 1, 2 and 4 channels."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 1, 3, 1, 1, bias=False)
        self.layer1 = nn.Sequential(PreBlock(1, 1, 1, False))
        self.layer2 = nn.Sequential(PreBlock(1, 2, 2, False))
        self.layer3 = nn.Sequential(PreBlock(2, 4, 2, False))
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))


def step(model, optimizer, index):
    model.train()
    loss = model(uniform(7 * 4096 + index, (8, 3, 32, 32), 2.0)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(uniform(7 * 4096 + 4000, (2, 3, 32, 32), 2.0)).flatten().tolist()


torch.manual_seed(7)
torch.use_deterministic_algorithms(True)
model = PreResNet8()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
average = AveragedModel(model)
for index in range(3):
    step(model, optimizer, index)
    average.update_parameters(model)

expected = {"live": logits(model), "averaged_3": logits(average.module)}
torch.save(model.state_dict(), HERE / "bare.pt")
torch.save({"epoch": 3, "model_state": model.state_dict()}, HERE / "model_state.pth")
torch.save(average.state_dict(), HERE / "averaged_model.pt")
save_file(average.state_dict(), HERE / "averaged_model.safetensors")
# What the SWA paper's code saves: utils.save_checkpoint(dir, epoch, state_dict=..., swa_state_dict=..., swa_n=..., optimizer=...).
torch.save(
    {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "swa_state_dict": average.module.state_dict(),
        "swa_n": 3,
        "optimizer": optimizer.state_dict(),
    },
    HERE / "paper.pt",
)
# DataParallel's prefix, in half precision.
half = {f"module.{name}": value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
torch.save({"state_dict": half}, HERE / "data_parallel_half.pt")

# The average goes on: what PyTorch makes of a further update, to compare with.
step(model, optimizer, 3)
average.update_parameters(model)
torch.save(model.state_dict(), HERE / "bare_after_4.pt")
expected["averaged_4"] = logits(average.module)
(HERE / "expected_logits.json").write_text(json.dumps(expected) + "\n")


class Hostile:
    """Runs a command as it is unpickled."""

    def __reduce__(self):
        import os

        return (os.system, ("touch hostile-pickle-was-run",))


with zipfile.ZipFile(HERE / "hostile.pt", "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Hostile()}, protocol=2))
    archive.writestr("archive/version", "3\n")
    archive.writestr("archive/byteorder", "little")
