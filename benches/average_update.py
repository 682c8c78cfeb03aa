"""What PyTorch's update of an average takes, on parameters of the shapes that are on the standard input: milliseconds.

`torch.optim.swa_utils.AveragedModel.update_parameters` with `get_swa_multi_avg_fn()`, which averages all parameters by
`torch._foreach_lerp_` and does not check them. `benches/average_update.rs` runs this where `SWA_PYTHON` names a Python that has
PyTorch.
"""

import json
import statistics
import sys
import time

import torch
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

shapes, rounds = json.load(sys.stdin)
model = torch.nn.ParameterList(torch.nn.Parameter(torch.rand(shape)) for shape in shapes)
average = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
seconds = []
for _ in range(rounds + 2):
    start = time.perf_counter()
    average.update_parameters(model)
    seconds.append(time.perf_counter() - start)
print(torch.__version__, torch.get_num_threads(), 1e3 * statistics.median(seconds[2:]))
