#!/bin/bash
# apple.sh: would this compile on a Mac with Apple's silicon? Every source is checked by clang for that target, without
# warnings, against reduced copies of its headers (tests/apple.txt). Nothing is linked or run.
cd "$(dirname "$0")/.." || exit 1
command -v clang > /dev/null || { echo "absent  clang: not installed"; echo "0 passed, 0 failed"; exit 0; }
export headers=build/apple
rm -rf $headers
mkdir -p $headers/sys $headers/mach-o $headers/log
awk -v to=$headers '/^== / {file = to "/" $2; next} file {print > file}' tests/apple.txt
for library in jansson.h jansson_config.h stb; do      # these are the same everywhere
    found=$(ls -d {,"$PWD"/build,/usr,/usr/local}/include/{,*/}$library 2> /dev/null | head -n 1)
    [ ! "$found" ] || ln -s "$found" $headers/$library
done

check() {
    local log=$headers/log/${1//\//_}
    clang --target=arm64-apple-macos13 -fsyntax-only -nostdlibinc -isystem $headers -iquote . -O1 -std=c11 -pedantic \
        -ffp-contract=off -fopenmp -Wall -Wextra -Werror -Wshadow -Wvla -Wstrict-prototypes \
        -DCOMMIT='"x"' -DOBJECTS='"x"' -DTRAIN='"x"' "$1" > "$log" 2>&1 || { echo "FAILED  $1"; head -n 8 "$log"; }
}
export -f check
sources=(*.c {lib,kernels,config,data,formats,model,infer,run,plot,tests,bench}/*.c)
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -c 'check {}' > $headers/failures
cat $headers/failures
failed=$(grep -c '^FAILED ' $headers/failures)
echo "$((${#sources[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]
