#!/bin/bash
# benchmarks/gpu.py on a machine that has Python, torch with CUDA, e3nn, h5py, lightning, torch-geometric, scipy, pytest ... and
# nothing else: what is missing is unpacked from wheels.
#
#     bash benchmarks/gpu.sh OUT [CARRIED] [options of gpu.py]
#
# CARRIED (default: .gpu) holds *.whl files and bilayer.npz, the table of overlaps that the part "refine" needs:
#     pip download --no-deps --only-binary=:all: -d .gpu ase==3.29.0 vesin==0.6.2
#     deeph-gformer overlap fit --preprocessed BILAYER_GRAPHENE --output .gpu/bilayer.npz
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:?name the folder of the results}; shift
carried=.gpu
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then carried=$1; shift; fi
python=${PYTHON:-python3}
site=$(mktemp -d); trap 'rm -rf "$site"' EXIT
if ls "$carried"/*.whl > /dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$carried"/*.whl || exit 1
fi
export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
exec_options=()
[ -f "$carried/bilayer.npz" ] && exec_options+=(--overlap "$carried/bilayer.npz")
"$python" benchmarks/gpu.py --out "$out" "${exec_options[@]}" "$@"
