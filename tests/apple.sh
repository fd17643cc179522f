#!/bin/bash
# apple.sh: would this build on a Mac with Apple's silicon? Every source is checked by clang for that target, without
# warnings, against reduced copies of its headers (tests/apple.txt); nothing of that is linked or run. Then the Makefile
# is told that this is a Mac whose cc takes the flags that Apple's takes, and builds the model here.
cd "$(dirname "$0")/.." || exit 1
command -v clang > /dev/null || { echo "absent  clang: not installed"; echo "0 passed, 0 failed"; exit 0; }
export headers=build/apple
rm -rf $headers
mkdir -p $headers/sys $headers/mach-o $headers/netinet $headers/arpa $headers/log
awk -v to=$headers '/^== / {file = to "/" $2; next} file {print > file}' tests/apple.txt
for library in jansson.h jansson_config.h microhttpd.h stb; do      # these are the same everywhere
    found=$(ls -d {,"$PWD"/build,/usr,/usr/local}/include/{,*/}$library 2> /dev/null | head -n 1)
    [ ! "$found" ] || ln -s "$found" $headers/$library
done

http=
if [ -e $headers/microhttpd.h ]; then
    http="-DHTTP -I $headers/page"
    mkdir $headers/page
    echo '""' > $headers/page/page.inc
fi
export http
check() {
    local log=$headers/log/${1//\//_}
    clang --target=arm64-apple-macos13 -fsyntax-only -nostdlibinc -isystem $headers -iquote . -O1 -std=c11 -pedantic \
        -ffp-contract=off -fopenmp -Wall -Wextra -Werror -Wshadow -Wvla -Wstrict-prototypes \
        -DCOMMIT='"x"' -DOBJECTS='"x"' -DTRAIN='"x"' $http \
        "$1" > "$log" 2>&1 || { echo "FAILED  $1"; head -n 8 "$log"; }
}
export -f check
sources=(*.c {lib,kernels,config,data,formats,model,infer,run,plot,tests,bench}/*.c)
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -c 'check {}' > $headers/failures
cat $headers/failures
failed=$(grep -c '^FAILED ' $headers/failures)

# An actor for Apple's clang, which has no -fopenmp of its own and, before Xcode 15, no -march=native; brew's libomp.
mac=$PWD/$headers/mac
mkdir -p "$mac/bin" "$mac/brew/opt/libomp/include" "$mac/brew/opt/libomp/lib"
ln -s "$(clang -print-resource-dir)/include/omp.h" "$mac/brew/opt/libomp/include"
ln -s "$(find /usr/lib/llvm-* -name libomp.so 2> /dev/null | tail -n 1)" "$mac/brew/opt/libomp/lib/libomp.so"
echo 'echo Darwin' > "$mac/bin/uname"
cat > "$mac/bin/cc" << 'END'
before=
for flag; do
    case "$before $flag" in
    "-Xpreprocessor -fopenmp") ;;
    *" -fopenmp" | *" -march=native") echo "clang: error: unsupported option '$flag'" >&2; exit 1 ;;
    esac
    before=$flag
done
for flag; do
    shift
    [ "$flag" = -mcpu=native ] && flag=-march=native
    set -- "$@" "$flag"
done
exec clang "$@"
END
sed -i '1i #!/bin/sh' "$mac"/bin/*
chmod +x "$mac"/bin/*
ln -s cc "$mac/bin/gcc"
make_on_mac() {
    PATH=$mac/bin:$PATH HOMEBREW_PREFIX=$mac/brew make -s -j"$(nproc)" "FOUND_HERE=$mac/system.mk" "B=$headers/mac" \
        $headers/mac/digest && $headers/mac/digest 1 6 0 mla && grep -q "^OPENMP = -Xpreprocessor" "$mac/system.mk"
}
if [ ! -e "$mac/brew/opt/libomp/lib/libomp.so" ]; then echo "absent  libomp: the Makefile is not tried"
elif make_on_mac > $headers/log/make 2>&1; then echo "ok      the Makefile on a Mac, played by clang"
else echo "FAILED  the Makefile on a Mac, played by clang"; tail -n 8 $headers/log/make; failed=$((failed + 1)); fi
echo "$((${#sources[@]} + 1 - failed)) passed, $failed failed"
[ "$failed" = 0 ]
