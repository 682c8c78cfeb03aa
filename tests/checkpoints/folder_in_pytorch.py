"""The logits that torchvision's network gives the images in FOLDER/val, with torchvision's transforms, as JSON.

    python folder_in_pytorch.py NETWORK FILE.safetensors FOLDER SIDE RESIZE
"""

import argparse
import json
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torchvision import transforms

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("network")
parser.add_argument("file", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("side", type=int)
parser.add_argument("resize", type=int)
arguments = parser.parse_args()

view = [
    transforms.Resize(arguments.resize),
    transforms.CenterCrop(arguments.side),
    transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]
images = torchvision.datasets.ImageFolder(arguments.folder / "val", transforms.Compose(view))
model = torchvision.models.get_model(arguments.network, num_classes=len(images.classes))
model.load_state_dict(load_file(arguments.file), strict=True)
model.eval()
with torch.no_grad():
    batches = torch.utils.data.DataLoader(images, batch_size=50)
    logits = torch.cat([model(batch) for batch, _ in batches])
print(json.dumps({"logits": logits.flatten().tolist(), "labels": images.targets}))
