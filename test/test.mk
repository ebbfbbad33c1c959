# Everything that tests, shows or measures. Included by the Makefile after PGXS.

# The one list of packages: what builds serm, and what its tests and its demo run.
PACKAGES_BUILD = gcc make postgresql-15 postgresql-server-dev-15 libcurl4-openssl-dev libcjson-dev libutf8proc-dev
PACKAGES_TEST = $(PACKAGES_BUILD) postgresql-15-pgtap libtap-parser-sourcehandler-pgtap-perl libipc-run-perl \
	libio-pty-perl libopenblas0-serial libdnnl2 postgresql-15-cron clang-14 clang-format-14 libclang-rt-14-dev openssl python3 perl procps
PACKAGES_BENCH = $(PACKAGES_TEST) python3-numpy python3-xgboost

PG_BINDIR = $(shell $(PG_CONFIG) --bindir)
CLUSTER = PG_BINDIR=$(PG_BINDIR) test/cluster.sh
# Fixtures name only the fields they are about.
UNIT_CFLAGS = -std=gnu11 -g $(WARNINGS) -Wno-missing-field-initializers -Isrc -Itest/unit
UNIT_LIBS = -lcjson -lutf8proc -lm
UNIT_TESTS = $(patsubst test/unit/%.c,%,$(sort $(wildcard test/unit/test_*.c)))
SANITIZE = -O1 -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all

.PHONY: deps-build deps-test deps-bench unit unit-asan pgtap isolation tap tutorial check-includes check-symbols check-sql check-data \
	format format-check check-clang bench bench-quality bench-core demo test regress

# --- packages: apt-get as root or through sudo, a clear message elsewhere
deps-build deps-test deps-bench:
	@test/packages.sh $($(patsubst deps-%,PACKAGES_%,$(shell echo $@ | sed 's/build/BUILD/;s/test/TEST/;s/bench/BENCH/')))

# --- the core alone: no server, no Postgres include path
build/core/%.o: src/core/%.c $(SOURCE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) -O2 -c $< -o $@
build/asan/%.o: src/core/%.c $(SOURCE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) $(SANITIZE) -c $< -o $@
build/double/%.o: src/core/%.c $(SOURCE_HEADERS)
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) -O2 -DSERM_REAL_DOUBLE -c $< -o $@

$(foreach kind,core asan double,$(UNFUSED:src/core/%.c=build/$(kind)/%.o)): UNIT_CFLAGS += -ffp-contract=off

build/core.a: $(patsubst src/core/%.c,build/core/%.o,$(CORE_SOURCES))
build/asan.a: $(patsubst src/core/%.c,build/asan/%.o,$(CORE_SOURCES))
build/double.a: $(patsubst src/core/%.c,build/double/%.o,$(CORE_SOURCES))
build/%.a:
	rm -f $@ && ar rcs $@ $^

build/unit/%: test/unit/%.c test/unit/unit.h build/core.a
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) -O2 $< build/core.a $(UNIT_LIBS) -o $@
build/unit-asan/%: test/unit/%.c test/unit/unit.h build/asan.a
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) $(SANITIZE) $< build/asan.a $(UNIT_LIBS) -o $@
build/unit-double/%: test/unit/%.c test/unit/unit.h build/double.a
	@mkdir -p $(@D)
	$(CC) $(UNIT_CFLAGS) -O2 -DSERM_REAL_DOUBLE $< build/double.a $(UNIT_LIBS) -o $@

# Gradients are checked twice: as shipped, and in double where the tolerance is 1e-6.
DOUBLE_TESTS = $(wildcard test/unit/test_gradient*.c) test/unit/test_transformer_math.c test/unit/test_encoder.c \
	test/unit/test_encoder_modern.c test/unit/test_encoder_classic.c
UNIT_PROGRAMS = $(addprefix build/unit/,$(UNIT_TESTS)) $(patsubst test/unit/%.c,build/unit-double/%,$(DOUBLE_TESTS))
ASAN_PROGRAMS = $(addprefix build/unit-asan/,$(UNIT_TESTS))
unit: $(UNIT_PROGRAMS)
	prove -e '' $^
unit-asan: $(ASAN_PROGRAMS)
	ASAN_OPTIONS=detect_leaks=1 prove -e '' $^
.PHONY: unit-programs
unit-programs: $(UNIT_PROGRAMS) $(ASAN_PROGRAMS)

# The encoder against the reference model of DATA=...: logits, norms of layers, losses and gradient norms.
.PHONY: check-encoder
check-encoder: build/unit/test_encoder_golden build/unit-asan/test_encoder_golden
	@from=$(or $(SETS),../shared/data)/cross_encoder/tiny; \
	test -d $$from || { echo "skipped: $$from is not there"; exit 0; }; \
	test/data/encoder_golden.py $$from > build/encoder_golden.txt && \
	SERM_ENCODER_GOLDEN=build/encoder_golden.txt prove -v -e '' $^

# Long fuzzing is not part of `make test`: make fuzz FUZZ=reply SECS=600
FUZZ ?= text
SECS ?= 60
.PHONY: fuzz
fuzz:
	@mkdir -p build/fuzz/corpus-$(FUZZ)
	@if [ $(FUZZ) = reply ]; then python3 test/fuzz/seed-reply.py test/mock/replies.tsv build/fuzz/corpus-reply; fi
	clang-14 $(UNIT_CFLAGS) $(SANITIZE) -fsanitize=fuzzer test/fuzz/fuzz_$(FUZZ).c $(CORE_SOURCES) $(UNIT_LIBS) -o build/fuzz/$(FUZZ)
	cd build/fuzz && ./$(FUZZ) -max_total_time=$(SECS) -max_len=65536 -timeout=2 corpus-$(FUZZ) \
		$(addprefix ../../,$(wildcard test/fuzz/corpus/$(FUZZ)))

# --- inside a private cluster
regress: ; $(CLUSTER) $(MAKE) -s --no-print-directory regress-here
pgtap: ; $(CLUSTER) test/pgtap/run.sh
isolation: ; $(CLUSTER) $(MAKE) -s --no-print-directory isolation-here
tap: ; test/tap.sh $(PG_BINDIR)
tutorial: ; $(CLUSTER) test/tutorial.sh

.PHONY: regress-here isolation-here
regress-here:
	$(pg_regress_installcheck) $(REGRESS_OPTS) $(REGRESS)
isolation-here:
	$(pg_isolation_regress_installcheck) $(ISOLATION_OPTS) $(ISOLATION)

# --- the house
check-includes: ; test/check-includes.sh
check-symbols: serm.so ; test/check-symbols.sh
check-sql: serm--$(EXTVERSION).sql ; test/check-sql.sh $<
format: ; clang-format-14 -i $(CORE_SOURCES) $(PG_SOURCES) $(SOURCE_HEADERS) $(wildcard test/unit/*.[ch])
format-check: ; clang-format-14 --dry-run -Werror $(CORE_SOURCES) $(PG_SOURCES) $(SOURCE_HEADERS) $(wildcard test/unit/*.[ch])
# The sets that DATA=... names reach what runs on them and not what PGXS installs.
check-data:
	@! $(MAKE) -n --no-print-directory install DATA=/nowhere | grep /nowhere
	@$(MAKE) -n --no-print-directory bench-core DATA=/nowhere | grep -q /nowhere
# A second compiler sees other mistakes; what is written in assembly it must assemble.
check-clang:
	clang-14 -fsyntax-only -std=gnu11 -O2 $(WARNINGS) -Wno-ignored-attributes -D_GNU_SOURCE -Isrc \
		-isystem $(shell $(PG_CONFIG) --includedir-server) $(CORE_SOURCES) $(PG_SOURCES)
	for source in gemm gemm_bf16; do \
		clang-14 -c -std=gnu11 -O2 $(WARNINGS) -Wno-ignored-attributes -D_GNU_SOURCE -Isrc -o /dev/null src/core/math/$$source.c || exit; done

# --- the front door: what a fresh machine lacks is installed first, then a make of its own sees it
.PHONY: install-here demo-here test-here bench-quality-here bench-speed bench-speed-here \
	bench-annotate bench-annotate-here
install-here: all
	PG_CONFIG=$(PG_CONFIG) test/install.sh $(MAKE) PG_CONFIG=$(PG_CONFIG)

demo: deps-test
	@$(MAKE) --no-print-directory demo-here
demo-here: install-here
	$(CLUSTER) test/demo.sh $(SETS)

test: deps-test
	$(MAKE) --no-print-directory -j$$(nproc) all unit-programs
	$(MAKE) --no-print-directory install-here
	$(MAKE) --no-print-directory test-here
test-here: check-includes check-symbols check-sql check-data format-check check-clang unit unit-asan check-encoder regress isolation pgtap tutorial tap

bench: bench-quality bench-speed bench-annotate bench-judges bench-evolve bench-distill bench-scratch bench-mine bench-cross
bench-quality: deps-bench
	@$(MAKE) --no-print-directory bench-quality-here
bench-quality-here: install-here build/bench_features
	$(CLUSTER) test/bench/quality.sh $(or $(SETS),../shared/data)

bench-speed: deps-bench
	@$(MAKE) --no-print-directory bench-speed-here
bench-speed-here: install-here build/bench_heads build/bench_stages build/bench_spin
	$(CLUSTER) test/bench/speed.sh $(or $(SETS),../shared/data)
# What labels of real judges are worth, and what is learned from them; whether students agree with their teachers.
.PHONY: bench-judges bench-judges-here bench-evolve bench-evolve-here bench-distill bench-distill-here bench-scratch \
	bench-scratch-here
bench-judges bench-evolve bench-distill bench-scratch: deps-bench
	@$(MAKE) --no-print-directory $@-here
bench-judges-here bench-evolve-here bench-distill-here: bench-%-here: install-here
	$(CLUSTER) test/bench/$*.sh $(or $(SETS),../shared/data)
# What an encoder made from nothing is worth, alone and as a teacher; less than all folds with FOLDS=2.
bench-scratch-here: install-here
	BENCH=scratch $(CLUSTER) test/bench/distill.sh $(or $(SETS),../shared/data)

build/bench_%: test/bench/%.c test/bench/spin.h build/core.a
	$(CC) $(UNIT_CFLAGS) -O2 $< build/core.a $(UNIT_LIBS) -o $@
build/bench_encoder: test/bench/peers.h

# The encoder beside PyTorch and ONNX Runtime on one thread; a peer that is absent is skipped.
.PHONY: bench-cross
bench-cross: build/bench_encoder
	@mkdir -p build/bench/cross
	@test -d build/bench/cross/node_modules/onnxruntime-node || ! command -v npm > /dev/null || \
		npm install --prefix build/bench/cross --ignore-scripts --no-audit --no-fund --loglevel=error onnxruntime-node || true
	@python3 test/bench/cross.py build/bench_encoder build/bench/cross $(or $(SETS),../shared/data)

# Click models and mining: MINE_ROWS is the size of the log that is made for it.
.PHONY: bench-mine bench-mine-here
bench-mine: deps-bench
	@$(MAKE) --no-print-directory bench-mine-here
bench-mine-here: install-here
	MINE_ROWS=$(or $(MINE_ROWS),10000000) $(CLUSTER) test/bench/mine.sh $(or $(SETS),../shared/data)

bench-annotate: deps-test
	@$(MAKE) --no-print-directory bench-annotate-here
bench-annotate-here: install-here build/bench_endpoint
	$(CLUSTER) test/bench/annotate.py build/bench_endpoint

# The question of quality without a server, for work on the trainer: seconds of CPU instead of a cluster.
build/quality_core: test/bench/quality_core.c test/bench/set.h build/core.a
	$(CC) $(UNIT_CFLAGS) -I. -O2 $< build/core.a $(UNIT_LIBS) -o $@
# The lexical features of a set's pairs, for other learners.
build/bench_features: test/bench/features.c test/bench/set.h build/core.a
	$(CC) $(UNIT_CFLAGS) -I. -O2 $< build/core.a $(UNIT_LIBS) -o $@
bench-core: build/quality_core
	@for set in crowdflower_srr homedepot epqa; do \
		from=$(or $(SETS),../shared/data)/$$set; to=build/bench/$$set; \
		test -d $$from || { echo "$$set: skipped, $$from is not there"; continue; }; mkdir -p $$to; \
		for f in docs queries qrels; do gzip -dc $$from/$$f.tsv.gz > $$to/$$f.tsv || exit 1; done; \
		build/quality_core $${set%_srr} $$to quiet $(OPTIONS) || exit 1; done

# What continued training forgets, and merging; the same sets.
.PHONY: bench-forgetting
build/forgetting: test/bench/forgetting.c test/bench/set.h build/core.a
	$(CC) $(UNIT_CFLAGS) -I. -O2 $< build/core.a $(UNIT_LIBS) -o $@
bench-forgetting: build/forgetting
	@for set in crowdflower_srr homedepot epqa; do \
		from=$(or $(SETS),../shared/data)/$$set; to=build/bench/$$set; \
		test -d $$from || { echo "bench-forgetting: skipped, $$from is not there"; exit 0; }; mkdir -p $$to; \
		for f in docs queries qrels; do gzip -dc $$from/$$f.tsv.gz > $$to/$$f.tsv || exit 1; done; done; \
	build/forgetting homedepot=build/bench/homedepot crowdflower=build/bench/crowdflower_srr epqa=build/bench/epqa $(OPTIONS)
