"""The interpreter runs Python that Triton's compiler does not take; so a process without it."""

import os
import subprocess
import sys

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sumzero.kernels import rms_norm_triton, rope_triton, swiglu_triton

def check(kernel, num_warps, **constants):
    types = {name: "*bf16" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    types |= {name: "*fp32" for name in ("rstd_ptr", "shares_ptr") if name in types}
    types |= {name: "fp32" for name in ("eps", "offset") if name in types}
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, types, constexprs=constants)
    options = {"num_warps": num_warps}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert f".entry {kernel.fn.__name__}" in compiled.asm["ptx"]

for size in (128, 4096):
    rows, columns, num_warps = rms_norm_triton._tile(size)
    constants = {"ADDS": True, "ROWS": rows, "COLUMNS": columns}
    check(rms_norm_triton._forward_kernel, num_warps, **constants)
    check(rms_norm_triton._backward_kernel, num_warps, WITH_WEIGHT=True, **constants)
for rest in (0, 64):
    check(rope_triton._turn_kernel, 4, INVERSE=True, HEADS=64, HALF=16, REST=rest)
check(swiglu_triton._forward_kernel, 4, COLUMNS=1024)
check(swiglu_triton._backward_kernel, 4, COLUMNS=1024)
"""


def test_the_fused_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    changes = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | changes, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
