"""Importing the package costs nothing and needs no Triton."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_import_needs_no_triton_and_starts_no_cuda() -> None:
    run(
        "import sys; sys.modules['triton'] = None\n"
        "import torch, kernels\n"
        "q = torch.ones(1, 1, 4, 8)\n"
        "for impl in ('reference', 'torch'): kernels.cross_image_attention(q, q, q, contrast=1.67, impl=impl)\n"
        "x, w = torch.ones(1, 4, 2, 2), torch.ones(4)\n"
        "for impl in ('reference', 'torch'):\n"
        "    kernels.group_norm(x, 2, w, w, eps=1e-5, silu=True, impl=impl)\n"
        "    kernels.geglu(x, impl=impl)\n"
        "assert not [name for name in sys.modules if 'triton' in name and name.startswith('kernels.')]\n"
        "assert not torch.cuda.is_initialized()"
    )


def test_references_import_no_other_implementation() -> None:
    references = sorted((ROOT / "kernels").glob("*/reference.py"))
    assert len(references) == 5
    for file in references:
        imports = [line for line in file.read_text().splitlines() if line.startswith(("import", "from"))]
        assert not [line for line in imports if "triton" in line or ".torch" in line or "onednn" in line]


def test_an_operation_is_a_function_whatever_is_imported_first() -> None:
    # A folder bears the name of its function, and importing a folder's first module binds the folder in `kernels`.
    run(
        "import importlib, itertools, sys\n"
        "operations = ('adain_features', 'cross_image_attention', 'geglu', 'group_norm', 'masked_adain')\n"
        "modules = ('triton', 'torch', 'reference', 'api', 'tiles')\n"
        "for first in itertools.product(operations, modules):\n"
        "    for name in [name for name in sys.modules if name.split('.')[0] == 'kernels']: del sys.modules[name]\n"
        "    importlib.import_module('.'.join(('kernels', *first)))\n"
        "    for other in itertools.product(operations, modules):\n"
        "        importlib.import_module('.'.join(('kernels', *other)))\n"
        "    kernels = sys.modules['kernels']\n"
        "    for operation in operations:\n"
        "        function = getattr(kernels, operation)\n"
        "        assert function is getattr(sys.modules[f'kernels.{operation}.api'], operation), (first, operation)\n"
        "        assert callable(function)\n"
    )
