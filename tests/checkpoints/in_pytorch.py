"""A network in PyTorch, and the logits of two images, as JSON.

    python in_pytorch.py save NETWORK FILE.pt|FILE.safetensors                   saves its state dict, filled with numbers
    python in_pytorch.py logits NETWORK FILE.safetensors [--averaged UPDATES]    loads one, strictly
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent.parent / "vectors"))
from make_parity import MODELS, fill, uniform  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("command", choices=["save", "logits"])
parser.add_argument("network", choices=MODELS)
parser.add_argument("file", type=Path)
parser.add_argument("--averaged", type=int)
arguments = parser.parse_args()

model = MODELS[arguments.network]()
if arguments.command == "save":
    fill(model, 7)
    save = save_file if arguments.file.suffix == ".safetensors" else torch.save
    save(model.state_dict(), arguments.file)
elif arguments.averaged is None:
    model.load_state_dict(load_file(arguments.file), strict=True)
else:
    average = AveragedModel(model)
    average.load_state_dict(load_file(arguments.file), strict=True)
    assert average.n_averaged.item() == arguments.averaged, average.n_averaged
    model = average.module
model.eval()
with torch.no_grad():
    print(json.dumps(model(uniform(7 * 4096 + 4000, (2, 3, 32, 32), 2.0)).flatten().tolist()))
