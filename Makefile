# serm: `make demo` shows it, `make test` proves it; both do everything on a bare Debian 12 machine.

EXTENSION = serm
EXTVERSION = 0.1.0
MODULE_big = serm
OBJS = $(patsubst %.c,%.o,$(CORE_SOURCES) $(PG_SOURCES))
DATA_built = serm--$(EXTVERSION).sql

CORE_SOURCES = $(sort $(wildcard src/core/*/*.c))
PG_SOURCES = $(sort $(wildcard src/pg/*.c src/pg/*/*.c))
SOURCE_HEADERS = $(sort $(wildcard src/core/*/*.h src/pg/*.h src/pg/*/*.h))

# The order is the order of dependence: tables before functions, functions before views and grants.
SQL_SOURCES = $(addprefix sql/schema/,00-header.sql 10-types.sql 20-tables.sql 30-agent-wrapper.sql 40-dump.sql) \
	$(addprefix sql/api/,10-model.sql 20-score.sql 30-metrics.sql 41-clicks.sql 40-mine.sql 42-drift.sql 50-annotate.sql 60-train.sql \
	70-evolve.sql 80-views.sql 90-grants.sql)

REGRESS = loop
ISOLATION = claim log promote settle watermark
REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test --outputdir=.

WARNINGS = -Wall -Wextra -Werror -Wno-declaration-after-statement
# Symbols stay inside the library (other extensions share the process); only SQL-callable functions are exported.
# The server's headers are not ours to warn about.
PG_CPPFLAGS = -Isrc -isystem $(shell $(PG_CONFIG) --includedir-server)
PG_CFLAGS = -std=gnu11 -O2 $(WARNINGS) -fvisibility=hidden -DPGDLLEXPORT='__attribute__((visibility("default")))'
SHLIB_LINK = -lcurl -lcjson -lutf8proc -lm
# Bitcode serves JIT inlining only, and nothing here gains from that.
override with_llvm = no

EXTRA_CLEAN = build

# DATA=... names sets for benchmarks and the demo; PGXS would install it.
SETS := $(DATA)
override DATA :=

PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)
endif

$(DATA_built): $(SQL_SOURCES) Makefile
	sed 's/^CREATE OR REPLACE /CREATE /' $(SQL_SOURCES) > $@

$(OBJS): $(SOURCE_HEADERS) Makefile

# Features have the same bits on every processor: no multiplication is fused with an addition. (test.mk has the objects of tests.)
UNFUSED = $(sort $(wildcard src/core/model/features*.c)) src/core/model/embedding.c
$(UNFUSED:.c=.o): override CFLAGS += -ffp-contract=off

include test/test.mk
