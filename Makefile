# make              ./train, ./generate, ./serve and ./quantize
# make test         the tests            make asan     the tests under AddressSanitizer and UBSan
# make tsan         data races, by ThreadSanitizer: needs clang, libomp and its tool Archer
# make oracle       our models against PyTorch, transformers and llama.cpp, our event files against TensorBoard
# make mxfp4        one model of ours as public libraries round it to MXFP4: the table of a picture
# make mutations    breaks the scheduler on purpose: do its tests see it?
# make digest       the same bits from every compiler, instruction set and thread count at hand, and as recorded
# make gpt          the trainer in one file       make onefile  the same bits from it as from ./train
# make demo         train the default model, look at what it says
# make claims       the verdicts, recomputed from the records, and the tests of what computes them
# make bench        speed, as a share of what this machine can do (ARGS=--quick: in a minute)
# make versus       speed against PyTorch, eager and compiled    make versus-llama  batched decoding against llama.cpp
# make clients      real clients talk to ./serve: curl, the openai package, lm-eval, the requests of vllm bench
# make fuzz         libFuzzer on everything that reads a file or a flag    make replay   its corpus once more
# make SIMD=avx512|avx2|plain|neon|soft, DOUBLE=1, DEBUG=1, CC=clang: another build, in a directory of its own
# make test T=moe/  the tests whose names begin so          make V=1    shows the commands

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL = all
CC       = gcc
OPENMP   = -fopenmp
SIMD     = native
CPPFLAGS = -iquote . -Ibuild/include
CFLAGS   = -O3 -g -std=gnu11 -ffp-contract=off $(OPENMP) -Wall -Wextra -Werror -Wshadow -Wvla -Wstrict-prototypes
LDLIBS   = $(LIBRARIES) -ljansson -lm

MACHINE_native = -march=native
MACHINE_avx512 = -march=x86-64-v4
MACHINE_avx2   = -march=x86-64-v3
MACHINE_plain  = $(MACHINE_native) -DSIMD_PLAIN
MACHINE_neon   = -march=armv8-a
MACHINE_soft   = $(MACHINE_plain) -DFMA_SOFT

# Outside Linux gcc may be Apple's clang, or not be there: setup finds a compiler that has OpenMP, by trying.
FOUND_HERE = build/system.mk
ifeq ($(shell uname),Linux)
LIBRARIES = -Wl,-z,stack-size=8388608       # of threads; musl would give them 128 KB
else
-include $(FOUND_HERE)
$(FOUND_HERE): setup
	@mkdir -p $(@D); ./setup --find > $@.tmp && mv $@.tmp $@
endif

OPTIMISE = $(if $(DEBUG),-O0 -g3)
FLAGS = $(CPPFLAGS) $(CFLAGS) $(OPTIMISE) $(MACHINE_$(SIMD)) $(if $(DOUBLE),-DREAL_DOUBLE) \
        $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover -fno-omit-frame-pointer \
        $(if $(findstring clang,$(CC)),,-Wno-format-truncation)) $(if $(FUZZ),-fsanitize=fuzzer-no-link) \
        $(if $(RACES),-fsanitize=thread -O1 -fno-vectorize -fno-slp-vectorize)

# One directory per kind of build, so that objects never mix: build/, build/avx2/, build/clang-double/, ...
comma   := ,
empty   :=
NAME    = $(filter-out gcc cc $(notdir $(FOUND)),$(notdir $(CC))) $(filter-out native,$(SIMD))
KIND    = $(NAME) $(if $(DEBUG),debug) $(if $(DOUBLE),double) $(if $(SANITIZE),asan) $(if $(FUZZ),fuzz) \
          $(if $(RACES),tsan)
DOUBLES = build/$(subst $(empty) ,-,$(strip $(NAME) $(if $(DEBUG),debug) double $(if $(SANITIZE),asan)))
REPLAY  = build/$(subst $(empty) ,-,$(strip $(NAME) asan))/replay
B       = $(patsubst %/,%,build/$(subst $(empty) ,-,$(strip $(KIND))))
BIN     = $(if $(strip $(KIND)),$(B)/,)

PROGRAMS = train.c generate.c serve.c quantize.c
FOLDERS = lib kernels config data formats model infer run plot
SERVER  = infer/http.c infer/streams.c
ROOMS   = $(filter-out $(PROGRAMS) $(SERVER) gpt.c,$(wildcard *.c $(FOLDERS:%=%/*.c)))
OBJECTS = $(ROOMS:%.c=$(B)/objects/%.o)
TESTS   = $(patsubst %.c,$(B)/objects/%.o,$(filter-out tests/probe.c tests/digest.c,$(wildcard tests/*.c)))
BENCH   = $(patsubst %.c,$(B)/objects/%.o,$(wildcard bench/*.c))
MAINS   = $(patsubst %.c,$(BIN)%,$(PROGRAMS))

# A step is one word and a name, unless V=1 asks for the whole command.
say = $(if $(V),,@echo "$(1) $(or $(2),$@)";)

all: $(MAINS)
ifneq ($(BIN),)
$(PROGRAMS:.c=): %: $(BIN)%      # make train CC=clang builds build/clang/train
.PHONY: $(PROGRAMS:.c=)
endif

$(BIN)train $(BIN)generate $(BIN)serve $(BIN)quantize: $(BIN)%: $(B)/objects/%.o $(OBJECTS)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LDLIBS) -o $@

# Only ./serve needs libmicrohttpd, and is built without it where it is missing: then --port says so. The page is in it.
HTTP := $(shell echo '\#include <microhttpd.h>' | $(CC) $(OPENMP) -E - > /dev/null 2>&1 && echo -DHTTP)
$(BIN)serve: $(SERVER:%.c=$(B)/objects/%.o)
SERVED  = $(addprefix $(B)/objects/,$(SERVER:%.c=%.o) tests/fuzz/sockets.o)
$(BIN)serve $(B)/fuzz $(B)/replay: LDLIBS += $(if $(HTTP),-lmicrohttpd)
$(SERVED): CPPFLAGS += $(HTTP) -I$(B)/objects/infer
$(SERVED): $(B)/objects/infer/page.inc $(B)/http
$(B)/objects/infer/page.inc: infer/page.html
	@mkdir -p $(@D); sed 's/\\/&&/g; s/"/\\"/g; s/.*/"&\\n"/' $< > $@
$(B)/http: always
	@mkdir -p $(@D); echo "$(HTTP)" | cmp -s - $@ || echo "$(HTTP)" > $@

# The trainer in one file shares nothing with the rest: this is the command at its top.
gpt: gpt.c
	$(CC) -O3 -march=native -ffp-contract=off -fopenmp gpt.c -lm -o gpt

$(BIN)bench/bench: $(BENCH) $(OBJECTS)
	@mkdir -p $(@D)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LDLIBS) -ldl -o $@

$(B)/tests: $(TESTS) $(OBJECTS)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LDLIBS) -o $@

$(B)/probe: $(B)/objects/tests/probe.o $(OBJECTS)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LDLIBS) -o $@

# The fuzzer's calls of exit() and of the allocator are ours, and it draws nothing (tests/fuzz/fuzz.c).
HARNESS  = $(addprefix $(B)/objects/tests/fuzz/,fuzz.o readers.o commands.o requests.o sockets.o)
WATCHED  = $(addprefix -Wl$(comma)--wrap=,exit malloc calloc realloc aligned_alloc free plot_chart plot_heat_map)
# Where sizes are multiplied, a product beyond size_t is a finding as well.
MULTIPLIES = model.c attention.c config/config.c config/model.c config/moe.c config/optim.c $(wildcard model/*.c)
$(if $(FUZZ),$(MULTIPLIES:%.c=$(B)/objects/%.o)): CFLAGS += \
    -fsanitize=unsigned-integer-overflow -fsanitize-ignorelist=tests/fuzz/ignore.txt
$(B)/fuzz: $(HARNESS) $(OBJECTS)
	$(call say,LINK)$(CC) $(FLAGS) -fsanitize=fuzzer $(WATCHED) $^ $(LDLIBS) -o $@
$(B)/replay: $(HARNESS) $(B)/objects/tests/fuzz/replay.o $(OBJECTS)
	$(call say,LINK)$(CC) $(FLAGS) $(WATCHED) $^ $(LDLIBS) -o $@

# Model and optimizer alone: needs no library, so that it can be built for other machines.
DIGEST = tests/digest model attention linear moe router $(addprefix lib/,fma numeric profile rng simd text util) \
         $(patsubst %.c,%,$(wildcard kernels/*.c config/*.c model/*.c))
$(B)/digest: $(DIGEST:%=$(B)/objects/%.o)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LIBRARIES) -lm -o $@

# What is differentiated in double precision needs little more: a quarter of what there is to compile.
DIFFERENTIATES = $(sort $(filter-out tests/digest,$(DIGEST)) $(patsubst %.c,%,$(wildcard lib/*.c)) infer/draw \
                 tests/main tests/program $(basename $(shell grep -l '"gradients/' tests/test_*.c)))
$(B)/gradients: $(DIFFERENTIATES:%=$(B)/objects/%.o)
	$(call say,LINK)$(CC) $(FLAGS) $^ $(LDLIBS) -o $@

$(B)/objects/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(FLAGS) -MMD -MP -c $< -o $@

# The commit is written into run.json; only the object that does so is rebuilt when it changes.
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
$(B)/objects/run/run.o: CPPFLAGS += -DCOMMIT='"$(COMMIT)"'
$(B)/objects/run/run.o: $(B)/commit
$(B)/commit: always
	@mkdir -p $(@D); echo $(COMMIT) | cmp -s - $@ || echo $(COMMIT) > $@

$(B)/objects/tests/test_house.o: CPPFLAGS += -DOBJECTS='"$(B)/objects"'
$(B)/objects/tests/program.o: CPPFLAGS += -DTRAIN='"$(or $(BIN),./)train"'

# What a target needs is built with every core, unless make was told how many (-j).
CORES := $(shell nproc 2> /dev/null || sysctl -n hw.ncpu 2> /dev/null || echo 1)
BUILD  = $(MAKE) $(if $(filter -j%,$(MAKEFLAGS)),,-j$(CORES))

# The tests, and in double precision the gradients. Idle threads sleep instead of spinning: the tests are
# many short runs, often beside other work. What only longer checks run is compiled here, too.
test: ready
	+$(BUILD) $(B)/tests all $(BIN)bench/bench $(HARNESS) $(B)/objects/tests/probe.o
ifeq ($(T),)
	+$(BUILD) DOUBLE=1 $(DOUBLES)/gradients
	OMP_WAIT_POLICY=passive tests/all.sh $(B)/tests "$(DOUBLES)/gradients gradients"
else
	OMP_WAIT_POLICY=passive $(B)/tests $(T)
endif

# Against PyTorch and transformers, packages with quantised formats, TensorBoard, and llama.cpp, installed from PyPI
# into a cache folder on first use.
oracle: ready
	+$(BUILD) $(B)/probe all
	python=$$(tests/venv.sh tests/oracle-requirements.txt) && $$python tests/oracle.py $(B)/probe && \
	$$python -B tests/config_walk.py $(B)/probe && \
	$$python -B tests/quant.py $(B)/probe $$(tests/venv.sh tests/quant-requirements.txt)
	python=$$(tests/venv.sh tests/events-requirements.txt) && $$python tests/events.py $(BIN)train
	python=$$(tests/venv.sh tests/gguf-requirements.txt) && $$python -B tests/gguf_oracle.py $(B)

# What public libraries make of one model of ours when they are asked for MXFP4: the table of claims/lab/mxfp4.py.
mxfp4: ready
	+$(BUILD) all
	python=$$(tests/venv.sh tests/oracle-requirements.txt) && $$python -B tests/mxfp4.py claims/results/mxfp4.csv \
	$$(tests/venv.sh tests/quant-requirements.txt) $$(tests/venv.sh tests/mxfp4-requirements.txt)

# Real clients of others, likewise; the page in a chromium, if there is one.
clients: ready
	+$(BUILD) all
	python=$$(tests/venv.sh tests/clients-requirements.txt) && $$python -B tests/clients.py $(or $(BIN),.)

mutations:
	tests/mutations.sh

digest: ready
	+$(BUILD) all
	tests/digest.sh
	tests/digests.sh

onefile: ready
	+$(BUILD) all
	tests/onefile.sh

# Statistics, sweeps and pages in Python, its packages in a cache folder as for the oracle.
claims: ready
	+$(BUILD) all $(B)/probe
	claims/check
	python=$$(tests/venv.sh claims/requirements.txt) && OMP_WAIT_POLICY=passive $$python -B tests/claims.py

# Beside PyTorch where make oracle has installed it; TORCH=1 installs it. LLAMA=1 compiles llama.cpp, in a quarter of an
# hour; beside it, too, from then on: in floats and in few bits (sections llama and packed). ARGS: sections and flags.
bench: ready
	+$(BUILD) all $(BIN)bench/bench
	python=$$(tests/venv.sh $(if $(TORCH),,--find) tests/oracle-requirements.txt) && \
	llama=$$(CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" tests/venv.sh $(if $(LLAMA),,--find) \
	tests/llama-requirements.txt) && $(BIN)bench/bench $(ARGS) --torch "$$python" --llama "$$llama"

# Batched decoding beside llama.cpp, in floats and with weights in few bits: two sections, six minutes.
versus-llama:
	$(MAKE) bench LLAMA=1 ARGS="llama packed $(ARGS)"

versus:
	$(MAKE) bench TORCH=1 ARGS="torch $(ARGS)"

# Tests leave memory behind where they provoke an error on purpose, so leaks are not reported.
asan:
	ASAN_OPTIONS=detect_leaks=0 $(MAKE) SANITIZE=1 test

# tests/races.sh says why clang, why this path, and what keeps false reports away.
TSAN = build/clang-plain-tsan
tsan: ready
	+$(BUILD) CC=clang SIMD=plain RACES=1 all $(TSAN)/tests $(TSAN)/digest
	tests/races.sh $(TSAN)

# RUNS executions of each target; what crashes is left in build/clang-asan-fuzz/findings.
RUNS = 1000000
fuzz: ready
	+$(BUILD) CC=clang SANITIZE=1 FUZZ=1 build/clang-asan-fuzz/fuzz
	tests/fuzz/run.sh build/clang-asan-fuzz $(RUNS)

replay: ready
	+$(BUILD) SANITIZE=1 $(REPLAY)
	$(REPLAY) tests/fuzz/corpus

demo: ready
	+$(BUILD) all
	./train

# Compiler, OpenMP, jansson and stb, and for the tests libmicrohttpd: checked, and installed where one is missing.
ready:
	@./setup --check $(CC) $(OPENMP) $(LIBRARIES) || { ./setup && $(MAKE) -s found; }
	@./setup --check-http $(CC) $(OPENMP) $(LIBRARIES) || ./setup || echo "note: ./serve is tested without HTTP" >&2
found:
	@./setup --check $(CC) $(OPENMP) $(LIBRARIES) || { echo "./setup installs what is missing" >&2; false; }
# Plain make looks first, so that a missing header is not all that it says.
ifeq ($(MAKECMDGOALS),)
$(OBJECTS) $(PROGRAMS:%.c=$(B)/objects/%.o) $(SERVER:%.c=$(B)/objects/%.o): | found
endif

clean:
	rm -rf build train generate serve quantize gpt bench/bench

.PHONY: all test oracle mxfp4 mutations clients claims digest onefile bench versus versus-llama asan tsan fuzz replay \
        demo ready found clean always
-include $(OBJECTS:.o=.d) $(TESTS:.o=.d) $(BENCH:.o=.d) $(HARNESS:.o=.d)
-include $(PROGRAMS:%.c=$(B)/objects/%.d) $(SERVER:%.c=$(B)/objects/%.d)
