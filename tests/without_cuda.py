"""Lets the torch of PyPI, which is built for CUDA, load where the GPU libraries are not installed.

torch/lib/*.so name libcublas, libcudnn and a dozen more as needed, 2 GB that a CPU never calls into. For
each that this environment lacks, a tiny library of the same name is compiled in its place: it has the
symbols that torch asks for, so that the loader is content, and every function in it answers 1, an error.
Nothing of torch itself is changed, and on the CPU it computes what it always does. Does nothing where
torch is not installed, is not built for CUDA, or is complete.
"""
import collections
import glob
import os
import re
import subprocess
import sys
import sysconfig
import tempfile

PACKAGES = sysconfig.get_paths()["purelib"]
LIB = os.path.join(PACKAGES, "torch", "lib")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing_libraries(objects):
    needed = set(re.findall(r"NEEDED.*\[(lib(?:cu|nv|nccl)[^]]*)\]", run("readelf", "-dW", *objects)))
    present = {os.path.basename(p) for p in glob.glob(PACKAGES + "/**/lib*.so*", recursive=True)}
    return sorted(needed - present - {"libcuda.so.1"})  # libcuda is the driver's, and loaded only on use


def wanted_symbols(objects, missing):
    """{library: {symbol: type}} and {library: version}, as torch's objects ask for them."""
    version_of, symbols = {}, collections.defaultdict(dict)
    for library, version in re.findall(r"File: (\S+).*\n.*Name: (\S+)", run("readelf", "-VW", *objects)):
        if library in missing:
            version_of[library] = version
    library_of = {version: library for library, version in version_of.items()}
    stem_of = {library: library[3:library.index(".so")].lower() for library in missing}  # libnccl.so.2: nccl
    pattern = r" (FUNC|OBJECT|NOTYPE) +\w+ +\w+ +UND (\w+)(?:@(\S+))?"
    for kind, symbol, version in re.findall(pattern, run("readelf", "--dyn-syms", "-W", *objects)):
        if version in library_of:
            symbols[library_of[version]][symbol] = kind
        elif not version:  # a library without versions is known by the first letters of its functions
            for library in missing:
                if library not in version_of and symbol.lower().startswith(stem_of[library]):
                    symbols[library][symbol] = kind
    return symbols, version_of


def compile_stand_in(library, symbols, version):
    code = "".join(f"char {s}[64];\n" if kind == "OBJECT" else f"int {s}(void) {{ return 1; }}\n"
                   for s, kind in symbols.items())
    with tempfile.TemporaryDirectory() as scratch:
        with open(scratch + "/a.c", "w") as f:
            f.write(code)
        with open(scratch + "/a.map", "w") as f:
            f.write(f"{version} {{ global: *; }};\n" if version else "{ global: *; };\n")
        run("cc", "-w", "-shared", "-fPIC", "-fno-builtin", "-nostdlib", scratch + "/a.c", "-Wl,-soname," + library,
            f"-Wl,--version-script={scratch}/a.map", "-o", os.path.join(LIB, library))


def main():
    objects = sorted(glob.glob(LIB + "/*.so"))
    if not os.path.exists(LIB + "/libtorch_cuda.so"):
        return
    missing = missing_libraries(objects)
    symbols, version_of = wanted_symbols(objects, missing)
    for library in missing:
        compile_stand_in(library, symbols[library], version_of.get(library))
    run(sys.executable, "-c", "import torch; torch.ones(2, 2) @ torch.ones(2, 2)")  # it must load now
    print(f"stand-ins for {len(missing)} GPU libraries: torch will use the CPU")


if __name__ == "__main__":
    main()
